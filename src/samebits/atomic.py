"""Files that are written completely or not at all."""

import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from samebits.errors import UserError, printable

# Inode, size, and the times of the last change of content and of metadata in nanoseconds. Every write changes one of them.
# Of a folder, the names and signatures of what it holds.
Signature = tuple[Any, ...] | None

written: dict[str, Signature] = {}  # of each file that this process has written, by its path from the working folder
_RANDOM = r"[a-z0-9_]{8}"  # what `tempfile` appends to a prefix


def signature(path: Path) -> Signature:
    """Return the current signature of a file or folder; None if it does not exist."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return tuple((each.name, signature(each)) for each in sorted(path.iterdir()))
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def replacing(path: Path, is_folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; when the block ends without an error, the file becomes `path`, durably.

    The temporary file lies beside `path`, so that the rename is atomic. If the block raises, it is removed and `path`
    stays as it was. What killed processes left of earlier writes is removed too. An OSError always names a file.
    With `is_folder` it is an empty folder, for files. `path` is absent for a moment if there was one before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in leftovers(path.parent, path.name):
            shutil.rmtree(leftover, ignore_errors=True)
        with _temporary_folder(path) as folder:
            temporary = folder / path.name
            temporary.mkdir() if is_folder else temporary.touch()
            permissions = temporary.stat().st_mode
            yield temporary
            temporary.chmod(permissions)  # some libraries write files that only their owner may read
            for each in (*temporary.glob("*"), temporary):
                _fsync(each)
            if is_folder and path.exists():
                os.replace(path, folder / "before")
            os.replace(temporary, path)
            written[path.as_posix()] = signature(path)
        _fsync(path.parent)
    except OSError as error:
        if error.filename is None:  # a write to an open file, as on a full disk, does not say to which
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with LF line endings to `path`, completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def require_writable(path: Path) -> None:
    """Raise UserError if no file can be written to `path`. Leaves nothing behind, and makes no folder."""
    try:
        if path.is_dir():
            raise UserError(f"{printable(str(path))} is a folder: name a file to write to")
        if path.exists() and not path.is_file():  # which the rename would replace, as root even /dev/null
            raise UserError(f"{printable(str(path))} is no regular file: name another one to write to")
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=folder):  # as `atomic.replacing` will
            pass
    except OSError as error:
        raise UserError(f"{printable(str(path))} cannot be written: {error.strerror}") from None


def leftovers(folder: Path, name: str | None = None) -> Iterator[Path]:
    """Find the temporary folders that killed processes left in `folder`, from writes to `name` or to any file.

    Each is locked until the next one is requested, so that removing it cannot collide with a new writer.
    """
    pattern = re.compile(rf"\.{re.escape(name) if name else '.+'}\.{_RANDOM}")
    for found in sorted(folder.iterdir()):
        if pattern.fullmatch(found.name) and found.is_dir() and not found.is_symlink():
            with _lock(found, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_dead:
                if is_dead:
                    yield found


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    while True:
        with (
            tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name,
            _lock(Path(name), fcntl.LOCK_EX),
        ):
            if os.path.exists(name):  # else it was removed as a leftover before it was locked
                yield Path(name)
                return


@contextmanager
def _lock(folder: Path, how: int) -> Iterator[bool]:
    """Hold the lock of a folder, which the kernel releases when this process is killed.

    Yields False if another process holds it, or if this file system has no locks: then nothing is ever a leftover.
    """
    with ExitStack() as opened:
        is_held = False
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            opened.callback(os.close, descriptor)
            fcntl.flock(descriptor, how)
            is_held = True
        yield is_held


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
