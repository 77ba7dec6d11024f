"""Processes: whether one still runs, when one has to end, how many cores this one may use, and for how long it waits."""

import os
import platform
import signal
import threading
import time
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from typing import Any


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


def end_with(parent: int) -> None:
    """Let this process be told to end (SIGTERM) soon after the process `parent`, which started it, has, however that ended."""
    started = time.time()

    def watch() -> None:
        while is_alive(parent, started):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def in_thread(call: Callable[[], Any]) -> "futures.Future[Any]":
    """Call in a thread that keeps this process from nothing, should the call never return; Python waits for an executor's."""
    future: futures.Future[Any] = futures.Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def in_time(seconds: float, ask: Callable[[], Any]) -> Any:
    """Return what `ask` returns or raise what it raises. Raises TimeoutError if it takes longer.

    On a thread: the time-out of a request starts again with each byte, and the look-up of a name has none.
    """
    future = in_thread(ask)
    if not futures.wait([future], seconds).done:
        raise TimeoutError(f"no complete answer within {seconds:.0f} s")
    return future.result()


def numbered_in() -> str:
    """Return what tells the processes that this one can see by their numbers from those of other machines and containers."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    return platform.node()
