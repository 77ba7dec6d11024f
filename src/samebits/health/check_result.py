"""One line of what `samebits check` says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line: how it stands with something, and what to do where it is wrong."""

    mark: Literal["ok", "wrong", "note"]
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.mark:<5}  {self.what}" + (f": {self.remedy}" if self.remedy else "")


def shown(root: Path, path: Path) -> str:
    """Return `path` as a line names it: from `root`, where it lies in it."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
