"""Locks on a clone: who is at work, and what killed processes left."""

import fcntl
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from samebits.processes import is_alive
from samebits.verification.finding import Finding, shown


def inspect(root: Path, are_hardlinks: bool) -> Iterator[Finding]:
    """Look for what keeps DVC from running: a note for each living process, wrong where there is none.

    `are_hardlinks` is DVC's setting core.hardlink_lock: such a lock is held for as long as its file is there.
    """
    for path in (root / ".dvc/tmp/lock", root / ".dvc/tmp/rwlock.lock"):
        name = shown(root, path)
        if are_hardlinks:
            if not path.exists():
                continue
            holder = _dvc_process(root)  # its file does not say who holds it
        elif is_held(path):
            holder = whoever_opened(path)
        else:
            continue
        if holder:
            yield Finding("note", f"DVC is at work here: {name} is held by {holder}")
        else:
            remedy = f"remove {name}, unless DVC runs here on another machine or as another user"
            yield Finding("wrong", f"{name} is held, by no process that lives here", remedy)
    yield from _locked_paths(root)


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


def _locked_paths(root: Path) -> Iterator[Finding]:
    """Look at the paths that running commands have locked: JSON with their process numbers."""
    path = root / ".dvc/tmp/rwlock"
    name = shown(root, path)
    try:
        written = path.stat().st_mtime
        locked = json.loads(path.read_text(encoding="utf-8"))
        entries = chain(locked.get("write", {}).values(), *locked.get("read", {}).values())
        processes = {(entry["pid"], entry["cmd"]) for entry in entries}
    except FileNotFoundError:
        return
    except (ValueError, LookupError, TypeError, AttributeError):
        yield Finding("wrong", f"{name} is not what DVC writes, which then refuses to run", f"remove {name}")
        return
    living = {(pid, command) for pid, command in processes if is_alive(pid, written)}
    for pid, command in sorted(living):
        yield Finding("note", f"DVC is at work here: {name} is held by {_named(pid, [command])}")
    for pid, command in sorted(processes - living):
        remedy = f"remove {name}" + (" when nobody else is at work" if living else "")
        yield Finding("wrong", f"{name} is held by {_named(pid, [command])}, which lives no more", remedy)


def _named(pid: int, command: Sequence[str]) -> str:
    return f"process {pid} ({textwrap.shorten(' '.join(command), 80, placeholder=' ...')})"
