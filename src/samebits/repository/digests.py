"""MD5s, by which DVC names contents."""

import hashlib
from pathlib import Path


def md5_of(content: bytes) -> str:
    """Return the MD5 of `content`."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def file_md5(path: Path) -> str:
    """Return the MD5 of a file. Raises OSError if it cannot be read."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def md5_if_readable(path: Path) -> str | None:
    """Return the MD5 of a file's content, links followed; None if there is no file to read."""
    try:
        return file_md5(path)
    except OSError:
        return None
