"""Telling versions of a file apart without reading it."""

from pathlib import Path

# Inode, size, and when content and anything else last changed, in nanoseconds: no write leaves all of them as they were.
Signature = tuple[int, int, int, int] | None

# Of each file that this process has written whole, by its path from the working folder.
written: dict[str, Signature] = {}


def signature(path: Path) -> Signature:
    """Return the signature of a file as it is now; None if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
