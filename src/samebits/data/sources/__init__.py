"""Where images come from. A data source is one file of this folder, and `data.source` of params.yaml names it.

Its module has `read(data, root) -> RawDataset`, where `data` is the section `data` of params.yaml and `root` the user's
repository. It may have `inspect(data, root)` too: see `inspect` below.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from samebits import params
from samebits.data.raw import RawDataset


def read(data: params.Data, root: Path) -> RawDataset:
    """Return the images of `data.source`. Raises UserError if they are missing or damaged."""
    dataset: RawDataset = import_module(f"{__name__}.{data.source}").read(data, root)
    return dataset


def inspect(data: params.Data, root: Path) -> tuple[Literal["ok", "note"], str] | None:
    """Check the raw files of `data.source` for `samebits check`; None if the source has nothing to check.

    Return "ok" or "note" and what was found. Raises UserError, with the remedy, if something is wrong.
    """
    module: Any = import_module(f"{__name__}.{data.source}")
    return module.inspect(data, root) if hasattr(module, "inspect") else None
