"""Processes: whether one that was noted down still runs, and how many cores this one may use."""

import os
import platform
from contextlib import suppress
from pathlib import Path


def num_cores() -> int:
    """Return how many cores this process may use: those that its affinity and the quota of its container allow."""
    from joblib.externals.loky import cpu_count

    return int(cpu_count())


def is_alive(pid: int, since: float) -> bool:
    """Tell whether the process that had this number at the time `since` (seconds since 1970) still runs."""
    import psutil

    try:
        process = psutil.Process(pid)
        # A process that started later only has the same number. 2 s: setting the clock moves start times.
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < since + 2
    except psutil.NoSuchProcess:
        return False


def numbered_in() -> str:
    """Return what tells the processes that this one can see by their numbers from those of other machines and containers."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    return platform.node()
