"""Prepared data on disk: a safetensors file for each split, and a description that identifies them all.

`dataset.json` holds what the tensors mean (source, class names, normalization) and the SHA-256 of each split, so its own
hash stands for the whole.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from samebits import atomic
from samebits.data.normalization import Normalization
from samebits.data.raw import RawSplit
from samebits.errors import UserError

SPLITS = ("train", "validation", "test")
DESCRIPTION = "dataset.json"


@dataclass(frozen=True)
class Description:
    """What a prepared data set is, without its tensors."""

    source: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # channels, height, width
    normalization: Normalization

    def to_json(self) -> dict[str, Any]:
        """Give plain values, in JSON's types."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Description":
        """Read back what `to_json` gave."""
        normalization = Normalization(*(tuple(values["normalization"][name]) for name in ("mean", "std")))
        channels, height, width = values["image_shape"]
        return cls(values["source"], tuple(values["class_names"]), (channels, height, width), normalization)


@dataclass(frozen=True)
class Split:
    """Normalized images float16 (N, channels, height, width) and labels int64 (N,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """Give the split with its tensors on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


def write(folder: Path, description: Description, splits: dict[str, RawSplit]) -> None:
    """Normalize and write every split of SPLITS to `folder`, then the description; each file whole or not at all."""
    digests = {}
    for name in SPLITS:
        images = description.normalization.apply(splits[name].images)
        digests[name] = _write_split(folder / f"{name}.safetensors", description, images, splits[name].labels)
    counts = {name: len(split) for name, split in splits.items()}
    text = json.dumps(description.to_json() | {"num_images": counts, "sha256": digests}, indent=2)
    atomic.write_text(folder / DESCRIPTION, text + "\n")


def read_description(folder: Path) -> Description:
    """Read `dataset.json`. Raises UserError where it is missing or damaged."""
    path = folder / DESCRIPTION
    try:
        return Description.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run `dvc repro`") from None
    except (ValueError, KeyError, TypeError, IsADirectoryError) as error:
        raise _damaged(path, error) from None


def read_split(folder: Path, name: str) -> Split:
    """Read one split of SPLITS into memory. Raises UserError where it is missing or damaged."""
    path = folder / f"{name}.safetensors"
    try:
        path.open("rb").close()  # safe_open takes whatever it may not read for missing
        with safe_open(path, framework="pt") as file:
            return Split(file.get_tensor("images"), file.get_tensor("labels"))
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run `dvc repro`") from None
    except (SafetensorError, IsADirectoryError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({error}): remove it and run `dvc repro`")


def _write_split(path: Path, description: Description, images: NDArray[np.float16], labels: NDArray[np.int64]) -> str:
    # One metadata key: with more their order, and so the bytes, would vary.
    metadata = {"samebits": json.dumps(description.to_json())}
    with atomic.replacing(path) as temporary:
        try:
            save_file({"images": images, "labels": labels}, temporary, metadata)
        except SafetensorError as error:
            raise UserError(f"{path} could not be written: {error}") from None
        with open(temporary, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
