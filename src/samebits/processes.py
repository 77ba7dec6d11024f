"""Whether a process that was noted down still runs."""


def is_alive(pid: int, since: float) -> bool:
    """Tell whether the process that had this number at the time `since` (seconds since 1970) still runs."""
    import psutil

    try:
        process = psutil.Process(pid)
        # A process that started later only has the same number. 2 s: setting the clock moves start times.
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < since + 2
    except psutil.NoSuchProcess:
        return False
