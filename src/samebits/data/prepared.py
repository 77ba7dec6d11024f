"""Prepared data on disk: a safetensors file for each split, cut into parts, and a description that identifies them all.

Parts have PART_BYTES each but for the last, so DVC sends and stores a large split piece by piece: a transfer that breaks off costs
one of them. One after the other they are the file: `cat data/prepared/train/* > train.safetensors`.

`dataset.json` says what the tensors mean (source, class names, normalization) and holds the SHA-256 of each split, so its
own hash identifies the whole. `raw_sha256` is the same for the same images, however they are normalized. `skipped` lists the
broken files that were left out, if there are any.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from samebits import atomic
from samebits.data.normalization import Normalization, chunks
from samebits.errors import UserError

if TYPE_CHECKING:
    from samebits.data.raw import RawSplit

PART_BYTES = 64_000_000  # whole blocks of any file system, so that it can share them with a copy
TRAINED_ON = ("train", "validation")
SPLITS = (*TRAINED_ON, "test")
DESCRIPTION = "dataset.json"

_NO_FILE = (IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True)
class Description:
    """A prepared data set without its tensors."""

    source: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # channels, height, width
    normalization: Normalization

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Description":
        """Return the description whose `asdict` was written as JSON, read back as `values`."""
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
    """Normalize and write every split of SPLITS to `folder`, then the description; each of them completely or not at all."""
    digests = {name: _write_split(folder / name, description, splits[name]) for name in SPLITS}
    values = asdict(description) | {"num_images": {name: len(split) for name, split in splits.items()}}
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
    with _readable(folder / DESCRIPTION) as path:
        described = json.loads(path.read_text(encoding="utf-8"))["sha256"]
    for name, sha256 in digests.items():
        if described[name] != sha256:
            raise UserError(
                f"{folder / name} is not what prepare wrote: run `dvc repro --force --single-item prepare`, then `dvc repro`"
            )


def read_split(folder: Path, name: str, copies: Path | None = None) -> Split:
    """Return one split of SPLITS; its images are mapped, so indexing reads them from disk.

    They come from a private copy of all parts, a file without a name, because an edit of a part would change the images of a
    running training, and a truncation would kill it. The copy is the one in `copies`, which `shared_copies` yielded in another
    process, or else a new one beside the parts. Raises UserError if a part is missing, damaged or one too many, or if the split differs from what was copied.
    """
    with _readable(folder / name) as path:
        if copies:
            copy = copies / name
            if _version(path.iterdir()) != _version([copy]):
                raise UserError(f"{path} changed while the training was starting: run `dvc repro` again")
            return _mapped(str(copy))
        with _private_copy(path, _parts(path)) as file:
            return _mapped(f"/dev/fd/{file.fileno()}")


def look_at(path: Path) -> Split:
    """Return a split as `read_split` does, but of one part without a copy: for a look at images, which no result depends on.

    `path` is the folder of the split, or the one file that it is in results of earlier versions.
    """
    parts = [path] if path.is_file() else _parts(path)
    if len(parts) > 1:
        return read_split(path.parent, path.name)
    with _readable(parts[0]):
        return _mapped(str(parts[0]))


@contextmanager
def shared_copies(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """Yield a folder through which other processes of this user on this machine map one private copy of each split in `names`.

    The files have no name, so nothing of them is left however this process ends; the folder leads to them. Linux only.
    """
    with ExitStack() as opened:
        links = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="samebits-")))
        for name in names:
            copy = opened.enter_context(_private_copy(folder / name, _parts(folder / name)))
            (links / name).symlink_to(f"/proc/{os.getpid()}/fd/{copy.fileno()}")
        yield links


@contextmanager
def _private_copy(path: Path, parts: list[Path]) -> Iterator[IO[bytes]]:
    """Yield one copy of the parts of a split, beside its folder, without a name, and with the time of the last modification."""
    _, modified_ns = _version(parts)
    with tempfile.TemporaryFile(dir=path.parent) as copy:
        try:
            for part in parts:
                _append(part, copy)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            os.ftruncate(copy.fileno(), 0)  # room for what has not been flushed
            raise UserError(
                f"{path} could not be copied: {error.strerror}; whoever reads it maps a copy in {path.parent}, as large as the split: "
                "make room there"
            ) from None
        os.utime(copy.fileno(), ns=(modified_ns, modified_ns))
        yield copy


def _append(path: Path, copy: IO[bytes]) -> None:
    with path.open("rb") as original:
        try:
            # Without its blocks if the file system can share them.
            while os.copy_file_range(original.fileno(), copy.fileno(), 2**30):
                pass
        except (AttributeError, OSError):  # on macOS; across file systems of older kernels
            shutil.copyfileobj(original, copy)
    copy.flush()


def _version(files: Iterable[Path]) -> tuple[int, int]:
    """Return the size of some files together, and when the last of them was changed."""
    found = [each.stat() for each in files]
    return sum(each.st_size for each in found), max(each.st_mtime_ns for each in found)


def _parts(folder: Path) -> list[Path]:
    """Return the parts of a split, in their order. Raises UserError unless these and no others are there, of the right sizes."""
    with _readable(folder):
        found = {*folder.iterdir()}
    first = folder / _part_name(0)
    with _readable(first), first.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(size, PART_BYTES)))
        num_bytes = 8 + size + max(each["data_offsets"][1] for name, each in header.items() if name != "__metadata__")
        starts = range(0, num_bytes, PART_BYTES)
    parts: list[Path] = []
    for start in starts:
        parts.append(folder / _part_name(len(parts)))
        with _readable(parts[-1]) as part:
            size, expected = part.stat().st_size, min(PART_BYTES, num_bytes - start)
            if size != expected:
                raise ValueError(f"{size:,} bytes instead of {expected:,}")
    if others := sorted(found - {*parts}):
        raise UserError(f"{others[0]} is no part of the prepared images: remove it and run `dvc repro`")
    return parts


def _part_name(number: int) -> str:
    return f"{number:04d}.part"


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
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, *_NO_FILE) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and run `dvc repro`") from None


def _write_split(path: Path, description: Description, split: "RawSplit") -> tuple[str, str]:
    """Write a split byte for byte as safetensors' own `save_file` would, but in parts, and without holding its images in memory.

    Return the SHA-256 of that file, and that of the raw images uint8 (N, height, width, channels) followed by the labels
    int64 (N,).
    """
    raw_digest = hashlib.sha256()
    labels = split.labels.astype("<i8").tobytes()

    def contents() -> Iterator[bytes]:
        yield _header(description, len(split)) + labels
        for images in chunks(split.images):
            raw_digest.update(images.tobytes())
            yield description.normalization.apply(images).astype("<f2").tobytes()

    digest = write_parts(path, contents())
    raw_digest.update(labels)
    return digest, raw_digest.hexdigest()


def write_parts(folder: Path, contents: Iterable[bytes]) -> str:
    """Write a safetensors file, given piece by piece, to `folder` in parts; return the SHA-256 of the whole."""
    digest, num_bytes = hashlib.sha256(), 0
    with atomic.replacing(folder, is_folder=True) as temporary, ExitStack() as opened:
        try:
            for content in contents:
                digest.update(content)
                rest = memoryview(content)
                while rest:
                    number, used = divmod(num_bytes, PART_BYTES)
                    if used == 0:
                        opened.close()
                        file = opened.enter_context((temporary / _part_name(number)).open("wb"))
                    num_bytes += file.write(rest[: PART_BYTES - used])
                    rest = rest[PART_BYTES - used :]
            opened.close()
        except OSError as error:
            raise UserError(f"{folder} could not be written: {error.strerror}") from None
    return digest.hexdigest()


def _header(description: Description, number: int) -> bytes:
    """Return the start of a safetensors file of `number` images: the length of a JSON header in eight bytes, and it."""
    shape = [number, *description.image_shape]
    start, end = 8 * number, 8 * number + 2 * math.prod(shape)
    header = {
        "__metadata__": {"samebits": json.dumps(asdict(description))},
        "labels": {"dtype": "I64", "shape": [number], "data_offsets": [0, start]},
        "images": {"dtype": "F16", "shape": shape, "data_offsets": [start, end]},
    }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
