"""Prepared data on disk: a safetensors file for each split, and a description that identifies them all.

`dataset.json` says what the tensors mean (source, class names, normalization) and holds the SHA-256 of each split, so its
own hash identifies the whole. `raw_sha256` is the same for the same images, however they are normalized. `skipped` lists the
broken files that were left out, if there are any.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from samebits import atomic
from samebits.data.normalization import Normalization, chunks
from samebits.errors import UserError

if TYPE_CHECKING:
    from samebits.data.raw import RawSplit

TRAINED_ON = ("train", "validation")
SPLITS = (*TRAINED_ON, "test")
DESCRIPTION = "dataset.json"


@dataclass(frozen=True)
class Description:
    """A prepared data set without its tensors."""

    source: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # channels, height, width
    normalization: Normalization

    def to_json(self) -> dict[str, Any]:
        """Return plain values of JSON's types."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Description":
        """Return the description that `to_json` made the values from."""
        normalization = Normalization(*(tuple(values["normalization"][name]) for name in ("mean", "std")))
        channels, height, width = values["image_shape"]
        return cls(values["source"], tuple(values["class_names"]), (channels, height, width), normalization)


@dataclass(frozen=True)
class Split:
    """Normalized images float16 (N, channels, height, width), which need not fit into memory, and labels int64 (N,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """Return the split with its tensors on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


def write(folder: Path, description: Description, splits: dict[str, "RawSplit"], skipped: tuple[str, ...] = ()) -> None:
    """Normalize and write every split of SPLITS to `folder`, then the description; each file completely or not at all."""
    digests = {name: _write_split(folder / f"{name}.safetensors", description, splits[name]) for name in SPLITS}
    values = description.to_json() | {"num_images": {name: len(split) for name, split in splits.items()}}
    for place, key in enumerate(("sha256", "raw_sha256")):
        values[key] = {name: digest[place] for name, digest in digests.items()}
    if skipped:
        values["skipped"] = skipped
    atomic.write_text(folder / DESCRIPTION, json.dumps(values, indent=2) + "\n")


def read_description(folder: Path) -> Description:
    """Read `dataset.json`. Raises UserError if it is missing or damaged."""
    with _readable(folder / DESCRIPTION) as path:
        return Description.from_json(json.loads(path.read_text(encoding="utf-8")))


def require_written(folder: Path, digests: dict[str, str]) -> None:
    """Raise UserError unless dataset.json was written with these splits, given by name with their SHA-256."""
    described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["sha256"]
    for name, sha256 in digests.items():
        if described[name] != sha256:
            path = folder / f"{name}.safetensors"
            raise UserError(
                f"{path} is not what prepare wrote: run `dvc repro --force --single-item prepare`, then `dvc repro`"
            )


def read_split(folder: Path, name: str, copies: Path | None = None) -> Split:
    """Return one split of SPLITS; its images are mapped, so indexing reads them from disk.

    They are those of a private copy without a name: an edit of the file would change the images of a running training, and a
    truncation would kill it. The copy is that of `copies`, which `shared_copies` yielded in another process, or one beside
    the file. Raises UserError if the split is missing or damaged, or differs from what was copied.
    """
    with _readable(folder / f"{name}.safetensors") as path:
        if copies:
            copy = copies / path.name
            if _version(path.stat()) != _version(copy.stat()):
                raise UserError(f"{path} changed while the training was starting: run `dvc repro` again")
            return _mapped(str(copy))
        with _private_copy(path) as file:
            return _mapped(f"/dev/fd/{file.fileno()}")


def look_at_split(folder: Path, name: str) -> Split:
    """Return a split as `read_split` does, but without a copy: for a look at some images, which no result depends on."""
    with _readable(folder / f"{name}.safetensors") as path:
        return _mapped(str(path))


@contextmanager
def shared_copies(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """Yield a folder by which other processes of this user and machine map one private copy of each of these splits.

    The files have no name, so nothing of them is left however this process ends; the folder leads to them. Linux only.
    """
    with ExitStack() as opened:
        links = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="samebits-")))
        for name in names:
            with _readable(folder / f"{name}.safetensors") as path:
                copy = opened.enter_context(_private_copy(path))
                (links / path.name).symlink_to(f"/proc/{os.getpid()}/fd/{copy.fileno()}")
        yield links


@contextmanager
def _private_copy(path: Path) -> Iterator[IO[bytes]]:
    """Yield a copy beside a file, without a name, and with the same time of modification."""
    with path.open("rb") as original, tempfile.TemporaryFile(dir=path.parent) as copy:
        modified_ns = os.fstat(original.fileno()).st_mtime_ns
        try:
            # Without its blocks if the file system can share them.
            while os.copy_file_range(original.fileno(), copy.fileno(), 2**30):
                pass
        except (AttributeError, OSError):  # on macOS; across file systems of older kernels
            shutil.copyfileobj(original, copy)
        copy.flush()
        os.utime(copy.fileno(), ns=(modified_ns, modified_ns))
        yield copy


def _version(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _mapped(path: str) -> Split:
    with safe_open(path, framework="pt") as file:
        return Split(file.get_tensor("images"), file.get_tensor("labels").clone())


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """Turn what a missing or damaged file raises into a UserError."""
    try:
        yield path
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run `dvc repro`") from None
    except (SafetensorError, ValueError, KeyError, TypeError, IsADirectoryError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and run `dvc repro`") from None


def _write_split(path: Path, description: Description, split: "RawSplit") -> tuple[str, str]:
    """Write a split byte for byte as safetensors' own `save_file` would, but without holding its images in memory.

    Return the SHA-256 of the file, and that of the raw images uint8 (N, height, width, channels) followed by the labels
    int64 (N,).
    """
    raw_digest = hashlib.sha256()
    labels = split.labels.astype("<i8").tobytes()
    with atomic.replacing(path) as temporary:
        try:
            with temporary.open("wb+") as file:
                file.write(_header(description, len(split)) + labels)
                for images in chunks(split.images):
                    raw_digest.update(images.tobytes())
                    file.write(description.normalization.apply(images).astype("<f2").tobytes())
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256")
        except OSError as error:
            raise UserError(f"{path} could not be written: {error.strerror}") from None
    raw_digest.update(labels)
    return digest.hexdigest(), raw_digest.hexdigest()


def _header(description: Description, number: int) -> bytes:
    """Return the start of a safetensors file of `number` images: the length of a JSON header in eight bytes, and it."""
    shape = [number, *description.image_shape]
    start, end = 8 * number, 8 * number + 2 * prod(shape)
    header = {
        "__metadata__": {"samebits": json.dumps(description.to_json())},
        "labels": {"dtype": "I64", "shape": [number], "data_offsets": [0, start]},
        "images": {"dtype": "F16", "shape": shape, "data_offsets": [start, end]},
    }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
