"""One line of what `samebits check` says."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

REPAIR = "run `samebits check --repair`, which removes it"


@dataclass(frozen=True)
class CheckResult:
    """The state of one thing that was checked, and what to do about it."""

    mark: Literal["ok", "note", "wrong"]
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.mark:<5}  {self.what}" + (f": {self.remedy}" if self.remedy else "")


ok, note, wrong = partial(CheckResult, "ok"), partial(CheckResult, "note"), partial(CheckResult, "wrong")


def shown(root: Path, path: Path) -> str:
    """Return `path` relative to `root` if it is below it, else as it is."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def size(num_bytes: int) -> str:
    """Return a size in MB or GB."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
