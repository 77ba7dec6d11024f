"""Prepared data on disk: a safetensors file for each split, and a description that identifies them all.

`dataset.json` holds what the tensors mean (source, class names, normalization) and the SHA-256 of each split, so its own
hash stands for the whole.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from samebits import atomic
from samebits.data.normalization import Normalization, chunks
from samebits.errors import UserError

if TYPE_CHECKING:
    from samebits.data.raw import RawSplit

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


def write(folder: Path, description: Description, splits: dict[str, "RawSplit"]) -> None:
    """Normalize and write every split of SPLITS to `folder`, then the description; each file whole or not at all."""
    digests = {}
    for name in SPLITS:
        digests[name] = _write_split(folder / f"{name}.safetensors", description, splits[name])
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
            # Copied, for the file stays mapped: an edit would change the images of a training that runs.
            return Split(file.get_tensor("images").clone(), file.get_tensor("labels").clone())
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run `dvc repro`") from None
    except (SafetensorError, IsADirectoryError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({error}): remove it and run `dvc repro`")


def _write_split(path: Path, description: Description, split: "RawSplit") -> str:
    """Write a split as safetensors' own `save_file` would, byte for byte, but without holding its images; give its SHA-256."""
    digest = hashlib.sha256()
    with atomic.replacing(path) as temporary:
        try:
            with open(temporary, "wb") as file:
                for part in _safetensors(description, split):
                    file.write(part)
                    digest.update(part)
        except OSError as error:
            raise UserError(f"{path} could not be written: {error.strerror}") from None
    return digest.hexdigest()


def _safetensors(description: Description, split: "RawSplit") -> Iterator[bytes]:
    """Give the bytes of a safetensors file, whose format is eight bytes with the length of a JSON header, it, and the data."""
    labels = split.labels.astype("<i8").tobytes()
    shape = [len(split), *description.image_shape]
    header = {
        "__metadata__": {"samebits": json.dumps(description.to_json())},
        "labels": {"dtype": "I64", "shape": [len(split)], "data_offsets": [0, len(labels)]},
        "images": {"dtype": "F16", "shape": shape, "data_offsets": [len(labels), len(labels) + 2 * prod(shape)]},
    }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text + labels
    for part in chunks(split.images):
        yield description.normalization.apply(part).astype("<f2").tobytes()
