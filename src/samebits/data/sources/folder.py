"""The user's own images, in the layout that torchvision's ImageFolder reads: train/<class>/*, and so on.

Without a folder test/ (or validation/, which may be called valid/ or val/), the hash of each file in train/ and `data.seed`
alone decide whether the image goes there. So adding images moves none of the others, and two copies of one file are never on both sides.
"""

import hashlib
import os
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from samebits import params
from samebits.data import decoding, image_files
from samebits.data.raw import RawDataset, RawSplit, mapped
from samebits.errors import UserError, printable
from samebits.paths import DATASET

PARTS = ("train", "validation", "test")
_NAMES = {part: (part,) for part in PARTS} | {"validation": ("validation", "valid", "val")}
_MAX_CLASSES = 1000  # that the figures can show
_NAMED = 5  # at most so many examples in a message
_COPIES = ("in two of training, validation and test", "in two classes", "twice in one class")


@dataclass(frozen=True)
class _File:
    path: str
    part: str  # the folder of PARTS that it lies in
    label: int


def inspect(data: params.Data, root: Path) -> tuple[Literal["ok", "note"], str]:
    """Look for training images. Raises UserError if there is no folder for them."""
    folder = root / data.path
    if not (folder / "train").is_dir():
        raise UserError(f"data.path names {folder}, which has no folder train; restore it, or `dvc checkout` it")
    return "ok", f"{folder} holds training images, whose content is a dependency of prepare"


def read(data: params.Data, _root: Path) -> RawDataset:
    """Read the images below `data.path`, resized to `data.image_size`, in an order that their relative paths decide.

    The path starts at the working folder, which DVC has looked at, in temporary experiments too. The images are kept on
    disk; memory holds only paths, labels and hashes. Raises UserError if this is not a data set of two classes or more.
    """
    if data.num_validation:
        raise UserError(
            f"params.yaml: data.num_validation is {data.num_validation}: must be 0 for data.source folder, "
            "where data.folder.validation_percent sets validation images aside"
        )
    root = Path(data.path)
    folders = _part_folders(root)
    class_names = _class_names(folders)
    files = _files(root, folders, class_names)
    # Files without names: nothing is left of them, however the process ends.
    images = {part: tempfile.TemporaryFile(dir=Path()) for part in PARTS}  # noqa: SIM115 (`mapped` closes them)
    labels: dict[str, list[int]] = {part: [] for part in PARTS}
    first: dict[bytes, tuple[_File, str]] = {}  # for each content, the first file that has it, and its part
    copies: dict[str, list[tuple[_File, _File]]] = {kind: [] for kind in _COPIES}
    broken: dict[str, str] = {}  # the path of each file that cannot be read, and why
    own_parts = folders.keys()
    outcomes = decoding.decode([file.path for file in files], (3, data.image_size, data.image_size))
    for file, outcome in zip(tqdm(files, desc="Reading", unit=" images", disable=None), outcomes, strict=True):
        if isinstance(outcome, str):
            broken[os.path.relpath(file.path, root)] = outcome
            continue
        part = _part(file.part, outcome.digest, data, own_parts)
        original, its_part = first.setdefault(outcome.digest, (file, part))
        if original is not file:
            kind = 0 if its_part != part else 1 if original.label != file.label else 2
            copies[_COPIES[kind]].append((original, file))
        images[part].write(outcome.pixels.tobytes())
        labels[part].append(file.label)
    skipped = tuple(sorted(broken))
    if broken:
        what = f"{len(broken):,} of {len(files):,} images"
        named = _some([f"{name} {broken[name]}" for name in skipped])
        if data.folder.broken == "stop":
            remedy = "fix or remove them, or set data.folder.broken to skip in params.yaml"
            raise UserError(f"{what} are unusable: {named}: {remedy}")
        print(f"note: skipped {what}: {named}; {DATASET} lists them all", file=sys.stderr)
    _report_copies(root, copies, data.folder.duplicates)
    splits = {}
    for part in PARTS:
        pixels = mapped(images[part], (len(labels[part]), data.image_size, data.image_size, 3))
        splits[part] = RawSplit(pixels, np.array(labels[part], dtype=np.int64))
    _require_every_class(splits, class_names, own_parts, data, bool(skipped))
    return RawDataset(class_names, splits["train"], splits["test"], splits["validation"], skipped)


def _part_folders(root: Path) -> dict[str, Path]:
    """Return the folders of the parts that `root` has, and print a note about its other folders."""
    if not (root / "train").is_dir():
        what = "has no folder train" if root.is_dir() else "is not a folder"
        raise UserError(f"data.path names {root}, which {what}: it must hold train/<class>/*, with two classes or more")
    found = {part: [name for name in names if (root / name).is_dir()] for part, names in _NAMES.items()}
    for part, names in found.items():
        if len(names) > 1:
            raise UserError(f"{root} has the folders {' and '.join(names)}, which all hold {part} images: keep one")
    if others := sorted(set(image_files.folders_in(root)) - {name for names in found.values() for name in names}):
        known = ", ".join(name for names in _NAMES.values() for name in names)
        print(f"note: {root}: ignored {_some(others)}: the folders that count are {known}", file=sys.stderr)
    return {part: root / names[0] for part, names in found.items() if names}


def _class_names(folders: dict[str, Path]) -> tuple[str, ...]:
    """Return the names of the folders in train/, in sorted order, like ImageFolder. All parts must have the same."""
    names = {part: image_files.folders_in(folder) for part, folder in folders.items()}
    train, class_names = folders["train"], names["train"]
    if not 2 <= len(class_names) <= _MAX_CLASSES:
        raise UserError(f"{train} holds {len(class_names)} class folders: there must be 2 to {_MAX_CLASSES:,}")
    seen: dict[str, str] = {}
    for name in class_names:
        if not name.isprintable():
            raise UserError(f"{train}/{printable(name)} cannot be the name of a class: rename it to plain text")
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise UserError(
                f"the classes {other} and {name} of {train} differ only in case or in how accents are encoded, "
                "which some file systems do not distinguish: rename one of them, or merge them"
            )
    for part, found in names.items():
        if missing := sorted(set(class_names) - set(found)):
            raise UserError(f"{folders[part]} has no folder for {_some(missing)}, but train has one")
        if unknown := sorted(set(found) - set(class_names)):
            raise UserError(f"{folders[part]} has a folder for {_some(unknown)}, but train has none")
    return tuple(class_names)


def _files(root: Path, folders: dict[str, Path], class_names: tuple[str, ...]) -> list[_File]:
    """List the images of all classes and parts. Raises UserError for a class without any."""
    listed: list[_File] = []
    others: Counter[str] = Counter()
    for part, folder in folders.items():
        others["outside of a class"] += sum(entry.is_file() for entry in os.scandir(folder))
        for label, name in enumerate(class_names):
            paths, skipped = image_files.below(os.path.join(folder, name))
            others += skipped
            if not paths:
                raise UserError(f"{folder}/{name} holds no image: put some there, or remove the class")
            listed += [_File(path, part, label) for path in paths]
    if others := +others:
        print(f"note: {root}: skipped {image_files.summary(others)}", file=sys.stderr)
    # Shuffled, so that the first images show all classes; by relative names, so the folder may lie anywhere.
    return sorted(listed, key=lambda file: hashlib.sha256(os.fsencode(os.path.relpath(file.path, root))).digest())


def _part(own: str, digest: bytes, data: params.Data, own_parts: Set[str]) -> str:
    """Return the part of PARTS that a file which lies in `own` belongs to."""
    if own != "train":
        return own
    place = int.from_bytes(hashlib.sha256(f"{data.seed}/".encode() + digest).digest()[:8], "big") * 100 >> 64
    num_test = 0 if "test" in own_parts else data.folder.test_percent
    num_validation = 0 if "validation" in own_parts else data.folder.validation_percent
    if place < num_test:
        return "test"
    return "validation" if place < num_test + num_validation else "train"


def _report_copies(root: Path, copies: dict[str, list[tuple[_File, _File]]], duplicates: str) -> None:
    """Print a note for each kind of copies. Raises UserError for copies across parts, unless `duplicates` is allow."""
    for kind in (kind for kind in _COPIES if copies[kind]):
        named = [" = ".join(os.path.relpath(each.path, root) for each in both) for both in copies[kind]]
        line = f"the same file {kind}, {len(named):,} in all ({_some(named)})"
        if kind == _COPIES[0] and duplicates == "fail":
            raise UserError(f"{line}: remove one of each, or set data.folder.duplicates to allow in params.yaml")
        print(f"note: {line}", file=sys.stderr)


def _require_every_class(
    splits: dict[str, RawSplit], class_names: tuple[str, ...], own_parts: Set[str], data: params.Data, are_skipped: bool
) -> None:
    counts = {part: np.bincount(split.labels, minlength=len(class_names)) for part, split in splits.items()}
    totals = sum(counts.values(), start=np.zeros(len(class_names), dtype=np.int64))
    for part, what in (("train", "training"), ("test", "test")):
        named = [f"{class_names[label]} ({totals[label]:,} in all)" for label in np.flatnonzero(counts[part] == 0)]
        if not named:
            continue
        cut = [f"data.folder.{name}_percent" for name in ("test", "validation") if name not in own_parts]
        causes = [*cut, f"data.seed {data.seed}"] if cut else []
        causes += ["the skipped files"] if are_skipped else []
        raise UserError(
            f"{' and '.join(causes)} leave no {what} image of {_some(named)}: "
            "add images, change these in params.yaml, or make folders test and validation yourself"
        )


def _some(texts: list[str]) -> str:
    return ", ".join(printable(text) for text in texts[:_NAMED]) + (", ..." if len(texts) > _NAMED else "")
