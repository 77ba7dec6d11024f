"""MD5s, by which DVC names contents."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path


def md5_of(content: bytes) -> str:
    """Return the MD5 of `content`."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def file_md5(path: Path) -> str:
    """Return the MD5 of a file. Raises OSError if it cannot be read."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def folder_md5(md5s: Mapping[str, str]) -> str:
    """Return DVC's hash of a folder, given the MD5s of its files by their paths in it: the MD5 of that list, followed by `.dir`."""
    files = [{"md5": md5, "relpath": path} for path, md5 in sorted(md5s.items())]
    return f"{md5_of(json.dumps(files, sort_keys=True).encode())}.dir"


def path_md5(path: Path) -> str:
    """Return the MD5 of a file or folder. Raises OSError if it cannot be read."""
    if not path.is_dir():
        return file_md5(path)
    files = (each for each in path.rglob("*") if each.is_file())
    return folder_md5({each.relative_to(path).as_posix(): file_md5(each) for each in files})


def md5_if_readable(path: Path) -> str | None:
    """Return the MD5 of a file or folder, links followed; None if there is nothing to read."""
    try:
        return path_md5(path)
    except OSError:
        return None
