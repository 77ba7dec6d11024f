"""Trainings that together want more threads than the machine has cores take turns: one computes, the others wait.

oneDNN's threads spin while they wait for each other. Two trainings of two threads each on two cores therefore take 4.7
times as long as one if the system shares the cores out, and twice as long if they take turns.
"""

import errno
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

TURN_SECONDS = 2.0
POLL_SECONDS = 0.01
# After so long, whatever holds the cores is no training that takes turns: wait no more.
WAIT_SECONDS = 60.0


class Turn:
    """The right to compute with `num_threads`, of all processes of a training, of the cores that this process may use.

    It is the right to all cores if they are fewer.

    Each core is a lock in the system's temporary folder, which the kernel frees when its process ends. A lock file holds
    the process number: nobody waits for a process that is stopped (Ctrl-Z). Without such a folder nobody waits at all.
    """

    def __init__(self, num_threads: int) -> None:
        self._next, self._cores = _locks()
        self._num_threads = min(num_threads, len(self._cores))
        self._taken = 0.0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for a turn, and end it when the block ends."""
        self._take()
        try:
            yield
        finally:
            _release(self._cores)

    def offer(self) -> None:
        """Let others compute if they wait and this turn has lasted long enough."""
        if time.monotonic() - self._taken >= TURN_SECONDS:
            _release(self._cores)
            self._take()

    def _take(self) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        # The process that holds `next` goes before one whose turn has just ended.
        for locks, number in (self._next, 1), (self._cores, self._num_threads):
            while len(locks) >= number > _hold(locks, number):
                if time.monotonic() > deadline:
                    note = "note: other trainings have held the cores for too long; this one no longer waits for them"
                    print(note, file=sys.stderr)
                    _release(self._cores)
                    self._next, self._cores, self._num_threads = [], [], 0
                    break
                time.sleep(POLL_SECONDS)
        _release(self._next)
        self._taken = time.monotonic()


def cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def _locks() -> tuple[list[FileLock], list[FileLock]]:
    """Return the lock of the process that is next, and those of the cores; none if the folder cannot be used."""
    folder = Path(tempfile.gettempdir()) / f"samebits-cores-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():  # its maker chooses which files we overwrite
            raise OSError(errno.EPERM, "another user made it, or it is a link")
        FileLock(folder / "next").acquire(timeout=0).lock.release()
    except Timeout:
        pass
    except OSError as error:
        print(f"note: trainings on this machine do not take turns ({folder}: {error.strerror})", file=sys.stderr)
        return [], []
    return [FileLock(folder / "next")], [FileLock(folder / str(core)) for core in cores()]


def _hold(locks: list[FileLock], number: int) -> int:
    """Take locks until `number` of them are held, by this process or by a stopped one; return how many are."""
    held = sum(lock.is_locked for lock in locks)
    for lock in locks:
        if held < number and not lock.is_locked:
            try:
                lock.acquire(timeout=0)
                held += 1
                with suppress(OSError):  # a full disk must not end a training
                    Path(lock.lock_file).write_text(str(os.getpid()))
            except Timeout:
                held += _is_held_by_a_stopped_process(Path(lock.lock_file))
    return held


def _is_held_by_a_stopped_process(path: Path) -> bool:
    try:
        return psutil.Process(int(path.read_text())).status() == psutil.STATUS_STOPPED
    except (OSError, ValueError, psutil.Error):
        return False


def _release(locks: list[FileLock]) -> None:
    for lock in locks:
        lock.release()
