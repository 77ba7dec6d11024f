"""Resume points: what a training needs to go on after it was killed, with the bits of one that never stopped.

They lie in scratch, one folder for each key; a key stands for all that decides the bits, so a point is used on an exact
match or not at all. A file is the SHA-256 of its content and the content: a damaged one is noticed and passed over.
"""

import hashlib
import io
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from samebits import atomic

NUM_POINTS = 2  # the newest, and the one before should the newest be damaged
NUM_TRAININGS = 4  # of other keys that are kept in scratch, so that it stays bounded
_DIGEST_BYTES = hashlib.sha256().digest_size

State = dict[str, Any]


def key_of(what_decides_bits: Mapping[str, Any]) -> str:
    """Return the key that stands for plain values: code, parameters, data, pins, kind of machine, device."""
    return hashlib.sha256(json.dumps(what_decides_bits, sort_keys=True).encode()).hexdigest()[:16]


class ResumePoints:
    """The resume points of one training, below the folder `scratch`; enter `held` before anything else.

    `holder` is the process that others are told of while they wait for this training.
    """

    def __init__(self, scratch: Path, key: str, every_seconds: float, holder: int) -> None:
        self._scratch = scratch
        self._process = holder
        self._folder = scratch / key
        self._holder = self._folder / "holder"
        self._every_seconds = every_seconds
        self._saved = time.monotonic()
        self._is_writable = True
        self._refusal: str | None = None  # why the last point could not be saved

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process from this training; wait for one that is at it, and say which.

        If nothing can be written to scratch, the training goes on all the same, and nothing is saved.
        """
        try:
            turn = self._turn()
        except OSError as error:
            _say(f"no resume point can be saved ({error.strerror}: {error.filename}); the training goes on without")
            self._is_writable = False
            yield
            return
        with turn:
            with suppress(OSError):  # a full disk must not keep a training from starting
                self._holder.write_text(str(self._process))
            for leftover in self._folder.glob(".*.point.*"):
                shutil.rmtree(leftover, ignore_errors=True)
            for folder in self._others()[NUM_TRAININGS:]:
                _remove_unless_held(folder)
            yield

    def _turn(self) -> AbstractContextManager[Any]:
        while True:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._folder / "lock")
            try:
                turn = lock.acquire(timeout=0)
            except Timeout:
                holder = "another"
                with suppress(OSError):
                    holder = self._holder.read_text()
                _say(f"process {holder} is at this very training; waiting to take over its work")
                turn = lock.acquire()
            if Path(lock.lock_file).exists():  # else it was removed while we waited, and guards nothing any more
                return turn
            lock.release()

    def newest(self) -> State | None:
        """Return the newest state that is whole; None if there is none. Prints a note for each damaged one."""
        for path in sorted(self._folder.glob("*.point"), reverse=True):
            try:
                content = path.read_bytes()
                digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
                if payload and hashlib.sha256(payload).digest() == digest:
                    state: State = torch.load(io.BytesIO(payload), weights_only=True)
                    return state
            except OSError as error:
                _say(f"the resume point {path} cannot be read ({error.strerror}); going on from the one before")
                continue
            _say(f"the resume point {path} is damaged; going on from the one before")
        if others := [folder for folder in self._others() if any(folder.glob("*.point"))]:
            _say(
                f"{len(others)} other training(s), of other code, parameters, data or machine, have resume points in "
                f"{self._scratch}; this one starts fresh"
            )
        return None

    def is_due(self) -> bool:
        """Tell whether the time has come to save a point."""
        return self._is_writable and time.monotonic() - self._saved >= self._every_seconds

    def save(self, step: int, state: State) -> None:
        """Save the state after `step`. If that fails, the training goes on, and the points before stay."""
        if not self._is_writable:
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getvalue()
        try:
            with atomic.replacing(self._folder / f"{step:012d}.point") as path:
                path.write_bytes(hashlib.sha256(payload).digest() + payload)
            for old in sorted(self._folder.glob("*.point"))[:-NUM_POINTS]:
                old.unlink(missing_ok=True)
            self._refusal = None
        except OSError as error:
            if error.strerror != self._refusal:  # not at each point
                _say(
                    f"no resume point could be saved ({error.strerror}: {error.filename}); the training goes on without"
                )
            self._refusal = error.strerror
        self._saved = time.monotonic()

    def finish(self, checkpoint_md5: str) -> None:
        """Note which checkpoint came out, by which `forget` finds this training."""
        with suppress(OSError):  # without the note the training is forgotten later, when scratch is full
            atomic.write_text(self._folder / "checkpoint.md5", checkpoint_md5)

    def _others(self) -> list[Path]:
        """The folders of other trainings, the newest first."""
        found = []
        for folder in self._scratch.glob("*/"):
            with suppress(FileNotFoundError):  # another process has just removed it
                found.append((folder.stat().st_mtime, folder))
        return [folder for _, folder in sorted(found, reverse=True) if folder.name != self._folder.name]


def points_of(scratch: Path, holder: int | None = None) -> list[Path]:
    """Return the resume points of the training that the process `holder` is at, or of all trainings."""
    found: list[Path] = []
    for note in scratch.glob("*/holder"):
        with suppress(OSError):  # another process may remove the folder
            if holder is None or note.read_text() == str(holder):
                found += sorted(note.parent.glob("*.point"))
    return found


def forget(scratch: Path, checkpoint_md5: str) -> None:
    """Remove the points of the trainings that ended in this checkpoint, for it is safe elsewhere now."""
    for note in scratch.glob("*/checkpoint.md5"):
        with suppress(OSError):
            if note.read_text() == checkpoint_md5:
                _remove_unless_held(note.parent)


def _remove_unless_held(folder: Path) -> None:
    with suppress(Timeout, OSError), FileLock(folder / "lock").acquire(timeout=0):
        shutil.rmtree(folder, ignore_errors=True)


def _say(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)
