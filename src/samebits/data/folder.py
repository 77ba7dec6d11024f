"""The user's own images, in the layout that torchvision's ImageFolder reads: train/<class>/*, and so on.

Where there is no test/ (or validation/), each image of train/ goes there or not by the hash of its own bytes and `data.seed`
alone. So images that are added move none of the others, and the same file, wherever it lies, is never on both sides.
"""

import hashlib
import os
import sys
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from samebits import params
from samebits.data import decoding, image_files
from samebits.data.raw import ImagesOnDisk, RawDataset, RawSplit
from samebits.errors import UserError, printable

PARTS = ("train", "validation", "test")
_MAX_CLASSES = 1000  # that the figures can show
_NAMED = 5  # of the things that are wrong alike


@dataclass(frozen=True)
class _File:
    path: str
    part: str  # the folder of PARTS that it lies in
    label: int


def read(root: Path, data: params.Data) -> RawDataset:
    """Read the images below `root`, resized to `data.image_size`, in an order that their paths decide.

    They are kept on disk, so memory holds no more than paths, labels and hashes. Raises UserError with one line for
    whatever makes the folder no data set of at least two classes.
    """
    if data.num_validation:
        raise UserError(
            f"params.yaml: data.num_validation is {data.num_validation}: must be 0 for data.source folder, "
            "where data.folder.validation_percent cuts validation images"
        )
    class_names = _class_names(root)
    listed = _files(root, class_names)
    shape = (3, data.image_size, data.image_size)
    images = {part: ImagesOnDisk((data.image_size, data.image_size, 3), Path()) for part in PARTS}
    labels: dict[str, list[int]] = {part: [] for part in PARTS}
    first: dict[bytes, tuple[int, str]] = {}  # for each content the file that was there first, and its part
    copies = _Copies()
    broken: list[str] = []
    own_parts = {part for part in PARTS if (root / part).is_dir()}
    with tqdm(total=len(listed), desc="Reading", unit=" images", disable=None) as bar:
        outcomes = decoding.decode([file.path for file in listed], shape)
        for index, (file, outcome) in enumerate(zip(listed, outcomes, strict=True)):
            bar.update()
            if isinstance(outcome, str):
                broken.append(f"{_shown(root, file.path)} {printable(outcome)}")
                continue
            part = _part(file.part, outcome.digest, data, own_parts)
            earlier, part_of_earlier = first.setdefault(outcome.digest, (index, part))
            if earlier != index:
                copies.add(root, listed[earlier], file, part_of_earlier != part)
            images[part].append(outcome.pixels)
            labels[part].append(file.label)
    if broken:
        raise UserError(
            f"{len(broken):,} of {len(listed):,} images cannot be used: {_some(broken)}: mend or remove them"
        )
    copies.report(data.folder.duplicates)
    splits = {part: RawSplit(images[part], np.array(labels[part], dtype=np.int64)) for part in PARTS}
    for part in ("train", "test"):
        _require_every_class(part, splits, class_names, own_parts, data)
    return RawDataset(class_names, splits["train"], splits["test"], splits["validation"])


def _class_names(root: Path) -> tuple[str, ...]:
    """The names of the folders in train/, in sorted order, as ImageFolder takes them. All parts must have the same."""
    if not (root / "train").is_dir():
        what = "has no folder train" if root.is_dir() else "is no folder"
        raise UserError(f"data.path names {root}, which {what}: it must hold train/<class>/*, with two classes or more")
    names = {part: _folders(root / part) for part in PARTS if (root / part).is_dir()}
    class_names = names["train"]
    if not 2 <= len(class_names) <= _MAX_CLASSES:
        raise UserError(f"{root}/train holds {len(class_names)} class folders: there must be 2 to {_MAX_CLASSES:,}")
    if odd := [name for name in class_names if not name.isprintable()]:
        raise UserError(f"{root}/train/{printable(odd[0])} cannot be the name of a class: rename it to plain text")
    alike: dict[str, str] = {}
    for name in class_names:
        other = alike.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise UserError(
                f"the classes {other} and {name} of {root}/train differ only in case or in how accents are "
                "written, which some file systems take for one: rename one of them, or join them"
            )
    for part, found in names.items():
        if missing := sorted(set(class_names) - set(found)):
            raise UserError(f"{root}/{part} has no folder for {_some(missing)}: train has one")
        if unknown := sorted(set(found) - set(class_names)):
            raise UserError(f"{root}/{part} has a folder for {_some(unknown)}: train has none")
    return tuple(class_names)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _files(root: Path, class_names: tuple[str, ...]) -> list[_File]:
    """List the images of all classes and parts. Raises UserError for a class without any."""
    listed: list[_File] = []
    others: Counter[str] = Counter()
    for part in PARTS:
        if not (root / part).is_dir():
            continue
        others["outside of a class"] += sum(entry.is_file() for entry in os.scandir(root / part))
        for label, name in enumerate(class_names):
            listing = image_files.below(os.path.join(root, part, name))
            others += listing.others
            if not listing.paths:
                raise UserError(f"{root}/{part}/{name} holds no image: put some there, or remove the class")
            listed += [_File(path, part, label) for path in listing.paths]
    if others := +others:
        print(f"note: {root}: passed over {image_files.summary(others)}", file=sys.stderr)
    # Mixed, so that the first images show all classes; by names relative to the folder, wherever that lies.
    return sorted(listed, key=lambda file: hashlib.sha256(os.fsencode(os.path.relpath(file.path, root))).digest())


def _part(own: str, digest: bytes, data: params.Data, own_parts: set[str]) -> str:
    """Return the part of PARTS that a file which lies in `own` belongs to."""
    if own != "train":
        return own
    place = int.from_bytes(hashlib.sha256(f"{data.seed}/".encode() + digest).digest()[:8], "big") * 100 >> 64
    num_test = 0 if "test" in own_parts else data.folder.test_percent
    num_validation = 0 if "validation" in own_parts else data.folder.validation_percent
    if place < num_test:
        return "test"
    return "validation" if place < num_test + num_validation else "train"


class _Copies:
    """Files of equal content: how many there are, and the first few by name."""

    def __init__(self) -> None:
        self._number = {"parts": 0, "classes": 0, "same": 0}
        self._named: dict[str, list[str]] = {kind: [] for kind in self._number}

    def add(self, root: Path, one: _File, other: _File, is_across_parts: bool) -> None:
        kind = "parts" if is_across_parts else "classes" if one.label != other.label else "same"
        self._number[kind] += 1
        if len(self._named[kind]) < _NAMED:
            self._named[kind].append(f"{_shown(root, one.path)} = {_shown(root, other.path)}")

    def report(self, duplicates: str) -> None:
        """Say what there is; raises UserError for copies across parts, unless `duplicates` is allow."""
        notes = {
            "parts": "the same file in two of training, validation and test",
            "classes": "the same file in two classes",
            "same": "the same file twice in one class",
        }
        for kind, what in notes.items():
            if not (number := self._number[kind]):
                continue
            more = ", ..." if number > len(self._named[kind]) else ""
            line = f"{what}, {number:,} in all ({', '.join(self._named[kind])}{more})"
            if kind == "parts" and duplicates == "fail":
                raise UserError(f"{line}: remove one of each, or set data.folder.duplicates to allow in params.yaml")
            print(f"note: {line}", file=sys.stderr)


def _require_every_class(
    part: str, splits: dict[str, RawSplit], class_names: tuple[str, ...], own_parts: set[str], data: params.Data
) -> None:
    counts = np.bincount(splits[part].labels, minlength=len(class_names))
    empty = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if not empty:
        return
    cut = " and ".join(f"data.folder.{name}_percent" for name in ("test", "validation") if name not in own_parts)
    totals = np.bincount(np.concatenate([split.labels for split in splits.values()]), minlength=len(class_names))
    named = [f"{name} ({totals[class_names.index(name)]:,} in all)" for name in empty]
    raise UserError(
        f"no {'training' if part == 'train' else part} image is left of {_some(named)} by {cut} and data.seed "
        f"{data.seed}: add images, change these in params.yaml, or make folders test and validation yourself"
    )


def _some(texts: list[str]) -> str:
    return ", ".join(printable(text) for text in texts[:_NAMED]) + (", ..." if len(texts) > _NAMED else "")


def _shown(root: Path, path: str) -> str:
    return printable(os.path.relpath(path, root))
