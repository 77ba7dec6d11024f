"""Locks on a clone: who is at work, and what killed processes left."""

import fcntl
import json
import textwrap
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import psutil

from samebits.health.check_result import CheckResult, note, ok, shown, wrong
from samebits.processes import is_alive

_AT_WORK = "DVC is at work here"


def check(root: Path) -> Iterator[CheckResult]:
    """Look for locks that keep DVC from running: a note for each living process, wrong if there is none."""
    found = [*_repository_locks(root), *_path_locks(root)]
    yield from found or [ok("no lock of DVC's is held")]


def at_work(root: Path) -> str | None:
    """Say that a living process of DVC's works here, if one does."""
    return next((found.what for found in check(root) if found.what.startswith(_AT_WORK)), None)


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock file `path`; the kernel frees the locks of dead ones."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def whoever_opened(path: Path) -> str | None:
    """Name a process that has `path` open; those of other users cannot be seen."""
    for process in psutil.process_iter(["open_files", "cmdline"]):
        if any(file.path == str(path.resolve()) for file in process.info["open_files"] or ()):
            return _named(process.pid, " ".join(process.info["cmdline"] or []))
    return None


def _repository_locks(root: Path) -> Iterator[CheckResult]:
    for path in (root / ".dvc/tmp/lock", root / ".dvc/tmp/rwlock.lock"):
        if not is_held(path):
            continue
        name = shown(root, path)
        if holder := whoever_opened(path):
            yield note(f"{_AT_WORK}: {name} is held by {holder}")
        else:
            remedy = f"remove {name}, unless DVC runs here on another machine or as another user"
            yield wrong(f"{name} is held, by no process that runs here", remedy)


def _path_locks(root: Path) -> Iterator[CheckResult]:
    from dvc.rwlock import SCHEMA
    from voluptuous import Invalid

    path = root / ".dvc/tmp/rwlock"
    name = shown(root, path)
    try:
        written = path.stat().st_mtime
        locked = SCHEMA(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return
    except (ValueError, Invalid):
        yield wrong(f"{name} is not what DVC writes, so DVC refuses to run", f"remove {name}")
        return
    entries = [*locked["write"].values(), *chain.from_iterable(locked["read"].values())]
    processes = {(entry["pid"], entry["cmd"]) for entry in entries}
    living = {process for process in processes if is_alive(process[0], written)}
    for process in sorted(living):
        yield note(f"{_AT_WORK}: {name} is held by {_named(*process)}")
    # DVC itself removes the locks of a number that no process has, but waits for a process that has got the number since.
    blocking = {process for process in processes - living if psutil.pid_exists(process[0])}
    for process in sorted(blocking):
        remedy = f"remove {name}" + (" when nobody else is at work" if living else "")
        yield wrong(f"{name} is held by {_named(*process)}, which has exited", remedy)
    if number := len(processes - living - blocking):
        what = f"{name} names {number} killed process{'' if number == 1 else 'es'}"
        yield note(what, "DVC runs all the same, and removes what is in its way")


def _named(pid: int, command: str) -> str:
    return f"process {pid} ({textwrap.shorten(command, 80, placeholder=' ...')})"
