"""Prepared data on disk: a safetensors file for each split, and a description that identifies them all.

`dataset.json` holds what the tensors mean (source, class names, normalization) and the SHA-256 of each split, so its own
hash stands for the whole. `raw_sha256` tells whether two splits hold the same images, however they are normalized.
"""

import hashlib
import json
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
        """Return plain values, in JSON's types."""
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
        """Return the split with its tensors on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


def write(folder: Path, description: Description, splits: dict[str, "RawSplit"]) -> None:
    """Normalize and write every split of SPLITS to `folder`, then the description; each file whole or not at all."""
    digests = {name: _write_split(folder / f"{name}.safetensors", description, splits[name]) for name in SPLITS}
    values = description.to_json() | {"num_images": {name: len(split) for name, split in splits.items()}}
    for place, key in enumerate(("sha256", "raw_sha256")):
        values[key] = {name: digest[place] for name, digest in digests.items()}
    atomic.write_text(folder / DESCRIPTION, json.dumps(values, indent=2) + "\n")


def read_description(folder: Path) -> Description:
    """Read `dataset.json`. Raises UserError where it is missing or damaged."""
    path = folder / DESCRIPTION
    try:
        return Description.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run `dvc repro`") from None
    except (ValueError, KeyError, TypeError, IsADirectoryError) as error:
        raise _damaged(path, error) from None


def require_written(folder: Path, digests: dict[str, str]) -> None:
    """Raise UserError if splits, named with their SHA-256, are not those that dataset.json was written with."""
    described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["sha256"]
    for name, sha256 in digests.items():
        if described[name] != sha256:
            path = folder / f"{name}.safetensors"
            raise UserError(
                f"{path} is not what prepare wrote: run `dvc repro --force --single-item prepare`, then `dvc repro`"
            )


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


def _write_split(path: Path, description: Description, split: "RawSplit") -> tuple[str, str]:
    """Write a split as safetensors' own `save_file` would, byte for byte, but without holding its images.

    Return the SHA-256 of the file, and that of the raw images uint8 (N, height, width, channels) and then the labels int64.
    """
    digest, raw_digest = hashlib.sha256(), hashlib.sha256()
    labels = split.labels.astype("<i8").tobytes()
    with atomic.replacing(path) as temporary:
        try:
            with open(temporary, "wb") as file:

                def write(part: bytes) -> None:
                    file.write(part)
                    digest.update(part)

                write(_header(description, len(split)))
                write(labels)
                for images in chunks(split.images):
                    raw_digest.update(images.tobytes())
                    write(description.normalization.apply(images).astype("<f2").tobytes())
        except OSError as error:
            raise UserError(f"{path} could not be written: {error.strerror}") from None
    raw_digest.update(labels)
    return digest.hexdigest(), raw_digest.hexdigest()


def _header(description: Description, number: int) -> bytes:
    """Return how a safetensors file of `number` images begins: eight bytes with the length of a JSON header, and it."""
    shape, num_label_bytes = [number, *description.image_shape], 8 * number
    header = {
        "__metadata__": {"samebits": json.dumps(description.to_json())},
        "labels": {"dtype": "I64", "shape": [number], "data_offsets": [0, num_label_bytes]},
        "images": {
            "dtype": "F16",
            "shape": shape,
            "data_offsets": [num_label_bytes, num_label_bytes + 2 * prod(shape)],
        },
    }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
