"""DVC's cache of a repository: where it is, what it holds, and the records of stages that ran."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samebits.errors import UserError
from samebits.repository.digests import file_md5, md5_of


@dataclass(frozen=True)
class Cache:
    """The cache folder `root`: objects by MD5 in files/md5, run records in runs."""

    root: Path

    def path(self, md5: str) -> Path:
        """Return where the object of that name lies, if it is there."""
        return self.root / "files" / "md5" / md5[:2] / md5[2:]

    def read(self, md5: str) -> bytes | None:
        """Return the content of an object; None where it is not there or does not hold what its name says."""
        try:
            content = self.path(md5).read_bytes()
        except OSError:
            return None
        return content if md5_of(content) == md5.removesuffix(".dir") else None

    def is_whole(self, md5: str) -> bool:
        """Tell whether the object holds what its name says. Raises OSError where it cannot be read."""
        return file_md5(self.path(md5)) == md5.removesuffix(".dir")

    def members(self, md5: str) -> list[str]:
        """Return the names of the files of a folder, an object whose name ends with `.dir`; none where it is not there."""
        content = self.read(md5) if md5.endswith(".dir") else None
        return [entry["md5"] for entry in json.loads(content)] if content else []

    def records(self) -> Iterator[Path]:
        """Return the records of DVC's run cache: what ran on which inputs, and what came out."""
        return (path for path in sorted((self.root / "runs").glob("??/*/*")) if len(path.name) == 64)


def remove_record(path: Path) -> None:
    """Remove a record of the run cache, and its folder with the last one: DVC fails where that is empty."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()


def of(root: Path) -> Cache:
    """Return the cache of the repository in `root`. Raises UserError where DVC cannot tell."""
    return Cache(Path(settings(root)["cache"].get("dir") or root / ".dvc" / "cache"))


def settings(root: Path) -> dict[str, Any]:
    """Return DVC's settings for the repository in `root`. Raises UserError where there is none, or DVC cannot read it."""
    if not (root / ".dvc").is_dir():
        raise UserError(f"{root} has no .dvc: run this in the root of a clone of samebits")
    try:
        from dvc.config import Config, ConfigError
    except ImportError as error:
        raise UserError(f"DVC cannot be imported ({error}): run `pip install -e .`") from None
    try:
        return dict(Config(str(root / ".dvc")))
    except ConfigError as error:
        raise UserError(f"DVC cannot read its configuration ({error}): mend .dvc/config") from None
