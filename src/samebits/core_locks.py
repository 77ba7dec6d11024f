"""Taking turns: where the trainings of a machine want more threads than it has cores, they compute one after the other.

oneDNN's threads wait for each other spinning. Two trainings of two threads each on two cores therefore take 4.7 times as
long as one where the system shares the cores out, and twice as long where they take turns.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

TURN_SECONDS = 2.0
POLL_SECONDS = 0.01
# Who has waited so long waits no more: whatever holds the cores is no training that takes turns.
WAIT_SECONDS = 60.0


class Turn:
    """The right to compute with `num_threads` of the cores that this process may use, or with all if they are fewer.

    Each core is a lock in the system's temporary folder, which the end of a process opens, however it comes. It holds the
    number of the process: nobody waits for one that is stopped, as by Ctrl-Z. Without such a folder nobody waits at all.
    """

    def __init__(self, num_threads: int) -> None:
        self._next, self._cores = _locks()
        self._num_threads = min(num_threads, len(self._cores))
        self._taken = 0.0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for a turn, and give it back in the end."""
        self._take()
        try:
            yield
        finally:
            self._give()

    def offer(self) -> None:
        """Let others have theirs, if they wait and this turn has lasted long enough."""
        if time.monotonic() - self._taken >= TURN_SECONDS:
            self._give()
            self._take()

    def _take(self) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        # Whoever waits is next, before one whose turn has just ended.
        for locks, number in (self._next, 1), (self._cores, self._num_threads):
            while len(locks) >= number > _hold(locks, number):
                if time.monotonic() > deadline:
                    print(
                        "note: other trainings hold the cores for too long; this one waits for them no more",
                        file=sys.stderr,
                    )
                    self._give()
                    self._next, self._cores, self._num_threads = [], [], 0
                    break
                time.sleep(POLL_SECONDS)
        _release(self._next)
        self._taken = time.monotonic()

    def _give(self) -> None:
        _release(self._cores)


def _locks() -> tuple[list[FileLock], list[FileLock]]:
    """Return the lock of whoever is next, and those of the cores."""
    folder = Path(tempfile.gettempdir()) / f"samebits-cores-{os.getuid()}"
    try:
        folder.mkdir(exist_ok=True)
        FileLock(folder / "next").acquire(timeout=0).lock.release()
    except Timeout:
        pass
    except OSError as error:
        print(f"note: trainings of this machine take no turns ({folder}: {error.strerror})", file=sys.stderr)
        return [], []
    return [FileLock(folder / "next")], [FileLock(folder / str(core)) for core in _cores()]


def _hold(locks: list[FileLock], number: int) -> int:
    """Take locks until `number` of them are held, by this process or by one that is stopped; return how many are."""
    held = sum(lock.is_locked for lock in locks)
    for lock in locks:
        if held < number and not lock.is_locked:
            try:
                lock.acquire(timeout=0)
                Path(lock.lock_file).write_text(str(os.getpid()))
                held += 1
            except Timeout:
                held += _is_held_by_a_stopped_process(Path(lock.lock_file))
    return held


def _is_held_by_a_stopped_process(path: Path) -> bool:
    import psutil

    try:
        return psutil.Process(int(path.read_text())).status() == psutil.STATUS_STOPPED
    except (OSError, ValueError, psutil.Error):
        return False


def _release(locks: list[FileLock]) -> None:
    for lock in locks:
        lock.release()


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
