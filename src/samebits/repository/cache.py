"""DVC's cache of a repository: its objects, and the records of stages that ran."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samebits.errors import UserError
from samebits.repository.digests import file_md5, md5_of

_OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")  # every other file is temporary


@dataclass(frozen=True)
class Cache:
    """The cache folder `root`: objects by MD5 in files/md5, run records in runs."""

    root: Path

    def path(self, md5: str) -> Path:
        """Return where the object of this name is, if it is there."""
        return self.root / "files" / "md5" / md5[:2] / md5[2:]

    def objects(self) -> Iterator[Path]:
        """Return the paths of all objects. Raises OSError if the cache cannot be listed."""
        store = self.root / "files" / "md5"
        folders = [folder for folder in store.iterdir() if folder.is_dir()] if store.is_dir() else []
        return (path for folder in folders for path in folder.iterdir() if _OBJECT.fullmatch(folder.name + path.name))

    def read(self, md5: str) -> bytes | None:
        """Return the content of an object; None if it is missing or damaged."""
        try:
            content = self.path(md5).read_bytes()
        except OSError:
            return None
        return content if md5_of(content) == md5.removesuffix(".dir") else None

    def is_whole(self, md5: str) -> bool:
        """Return whether an object has the content that its name says. Raises OSError if it cannot be read."""
        return file_md5(self.path(md5)) == md5.removesuffix(".dir")

    def members(self, md5: str) -> dict[str, str]:
        """Return the MD5s of a folder's files by their paths in it; none for a file, or if the list is missing or damaged."""
        return members((md5.endswith(".dir") and self.read(md5)) or b"[]")

    def holds(self, md5: str) -> bool:
        """Return whether an object is there, with all files of a folder."""
        return all(self.path(each).is_file() for each in (md5, *self.members(md5).values()))

    def records(self) -> Iterator[Path]:
        """Return the paths of the run cache's records: what ran on which inputs, and what came out."""
        return (path for path in sorted((self.root / "runs").glob("??/*/*")) if len(path.name) == 64)


def members(listing: bytes) -> dict[str, str]:
    """Return the MD5s of a folder's files by their paths in it, from the object that lists them."""
    return {entry["relpath"]: entry["md5"] for entry in json.loads(listing)}


def remove_record(path: Path) -> None:
    """Remove a record of the run cache, and its folder with the last one: an empty folder makes DVC fail."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()


def of(root: Path) -> Cache:
    """Return the cache of the repository in `root`. Raises UserError if DVC cannot tell."""
    return Cache(Path(settings(root)["cache"].get("dir") or root / ".dvc" / "cache"))


def settings(root: Path) -> dict[str, Any]:
    """Return DVC's settings for the repository in `root`. Raises UserError if there are none, or DVC cannot read them."""
    if not (root / ".dvc").is_dir():
        raise UserError(f"{root} has no .dvc: run this in the root of a clone of samebits")
    try:
        from dvc.config import Config, ConfigError
    except ImportError as error:
        raise UserError(f"DVC cannot be imported ({error}): run `pip install -e .`") from None
    try:
        return dict(Config(str(root / ".dvc")))
    except ConfigError as error:
        raise UserError(f"DVC cannot read its configuration ({error}): fix .dvc/config") from None
