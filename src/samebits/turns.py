"""Taking turns: where the trainings of a machine want more threads than it has cores, they compute one after the other.

oneDNN's threads wait for each other spinning. Two trainings of two threads each on two cores therefore take 4.7 times as
long as one where the system shares the cores out, and twice as long where they take turns.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

TURN_SECONDS = 2.0
POLL_SECONDS = 0.01
# Of a training that was stopped, and so keeps its turn, nobody waits for the end.
WAIT_SECONDS = 60.0


class Turn:
    """The right to compute with `num_threads` of the cores that this process may use, or with all where they are fewer.

    Each core is a lock in the system's temporary folder, which the end of a process opens, however it comes.
    """

    def __init__(self, num_threads: int) -> None:
        folder = Path(tempfile.gettempdir()) / f"samebits-cores-{os.getuid()}"
        folder.mkdir(exist_ok=True)
        self._next = FileLock(folder / "next")
        self._cores = [FileLock(folder / str(core)) for core in _cores()]
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
        """Let others have theirs, where they wait and this turn has lasted long enough."""
        if time.monotonic() - self._taken >= TURN_SECONDS:
            self._give()
            self._take()

    def _take(self) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        try:
            # Whoever waits is next, before one whose turn has just ended.
            with self._next.acquire(timeout=WAIT_SECONDS, poll_interval=POLL_SECONDS):
                while self._missing() and time.monotonic() < deadline:
                    time.sleep(POLL_SECONDS)
        except Timeout:
            pass
        self._taken = time.monotonic()

    def _missing(self) -> int:
        """Take cores that are free, as many as are needed; how many that leaves."""
        missing = self._num_threads - sum(core.is_locked for core in self._cores)
        for core in self._cores:
            if missing and not core.is_locked:
                try:
                    core.acquire(timeout=0)
                    missing -= 1
                except Timeout:
                    pass
        return missing

    def _give(self) -> None:
        for core in self._cores:
            core.release()


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
