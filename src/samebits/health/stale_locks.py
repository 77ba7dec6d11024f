"""Locks on a clone: who is at work, and what killed processes left."""

import fcntl
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from samebits.health.check_result import Finding, shown
from samebits.processes import is_alive


def inspect(root: Path, are_hardlinks: bool, outputs: Iterable[str]) -> Iterator[Finding]:
    """Look for what keeps DVC from running: a note for each living process, wrong if there is none.

    `are_hardlinks` is DVC's setting core.hardlink_lock: such a lock is held for as long as its file is there. `outputs` are
    the paths that stages write.
    """
    for name, holder in _held(root, are_hardlinks):
        if holder:
            yield Finding("note", f"DVC is at work here: {name} is held by {holder}")
        else:
            remedy = f"remove {name}, unless DVC runs here on another machine or as another user"
            yield Finding("wrong", f"{name} is held, by no process that lives here", remedy)
    yield from _locked_paths(root, outputs)


def at_work(root: Path, are_hardlinks: bool) -> str | None:
    """Name a living process of DVC's that works here."""
    holders = [holder for _, holder in _held(root, are_hardlinks) if holder]
    with suppress(ValueError):
        entries, written = _entries(root)
        holders += [_named(entry.pid, [entry.command]) for entry in entries if is_alive(entry.pid, written)]
    return holders[0] if holders else None


def _held(root: Path, are_hardlinks: bool) -> Iterator[tuple[str, str | None]]:
    """Find which of DVC's locks on the whole repository are held, and by whom if that can be seen."""
    for path in (root / ".dvc/tmp/lock", root / ".dvc/tmp/rwlock.lock"):
        if are_hardlinks and path.exists():
            yield shown(root, path), _dvc_process(root)  # its file does not say who holds it
        elif not are_hardlinks and is_held(path):
            yield shown(root, path), whoever_opened(path)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path`; the kernel frees those of the dead."""
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
    import psutil

    for process in psutil.process_iter(["open_files", "cmdline"]):
        if any(file.path == str(path.resolve()) for file in process.info["open_files"] or ()):
            return _named(process.pid, process.info["cmdline"] or [])
    return None


def _dvc_process(root: Path) -> str | None:
    """Name a process of DVC's that works in `root` or below it."""
    import psutil

    for process in psutil.process_iter(["cwd", "cmdline"]):
        folder, command = process.info["cwd"], process.info["cmdline"] or []
        if folder and Path(folder).is_relative_to(root.resolve()) and re.search(r"\bdvc\b", " ".join(command)):
            return _named(process.pid, command)
    return None


class _Entry(NamedTuple):
    """A process that has locked a path, to write it or to read it."""

    pid: int
    command: str
    path: str
    is_write: bool


def _entries(root: Path) -> tuple[list[_Entry], float]:
    """Read which paths running commands have locked, and when that was written. Raises ValueError if it is damaged."""
    path = root / ".dvc/tmp/rwlock"
    try:
        written = path.stat().st_mtime
        locked = json.loads(path.read_text(encoding="utf-8"))
        writes = [(path, entry, True) for path, entry in locked.get("write", {}).items()]
        reads = [(path, entry, False) for path, readers in locked.get("read", {}).items() for entry in readers]
        return [_Entry(entry["pid"], entry["cmd"], path, is_write) for path, entry, is_write in writes + reads], written
    except FileNotFoundError:
        return [], 0.0
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None


def _locked_paths(root: Path, outputs: Iterable[str]) -> Iterator[Finding]:
    import psutil

    name = shown(root, root / ".dvc/tmp/rwlock")
    try:
        entries, written = _entries(root)
    except ValueError:
        yield Finding("wrong", f"{name} is not what DVC writes, which then refuses to run", f"remove {name}")
        return
    processes = {(entry.pid, entry.command) for entry in entries}
    living = {(pid, command) for pid, command in processes if is_alive(pid, written)}
    for pid, command in sorted(living):
        yield Finding("note", f"DVC is at work here: {name} is held by {_named(pid, [command])}")
    # DVC itself removes the entry of a number that no process has; of any other it thinks that it is at work.
    written_paths = {root / path for path in outputs}
    blocking = {
        (entry.pid, entry.command)
        for entry in entries
        if (entry.is_write or _overlaps(Path(entry.path), written_paths)) and psutil.pid_exists(entry.pid)
    } - living
    for pid, command in sorted(blocking):
        remedy = f"remove {name}" + (" when nobody else is at work" if living else "")
        yield Finding("wrong", f"{name} is held by {_named(pid, [command])}, which lives no more", remedy)
    if number := len(processes - living - blocking):
        what = f"{name} names {number} killed process{'' if number == 1 else 'es'}"
        yield Finding("note", what, "DVC runs all the same, and removes what is in its way")


def _overlaps(path: Path, others: Iterable[Path]) -> bool:
    return any(path.is_relative_to(other) or other.is_relative_to(path) for other in others)


def _named(pid: int, command: Sequence[str]) -> str:
    return f"process {pid} ({textwrap.shorten(' '.join(command), 80, placeholder=' ...')})"
