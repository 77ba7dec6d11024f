"""The image files that a user names: as files, folders or patterns, on standard input, or as one folder for each class."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from samebits.data import image_files
from samebits.errors import UserError, listed, printable


@dataclass(frozen=True)
class NamedFiles:
    """Paths of images, in order; the true class of each, None if it is not known; and whether each named folder holds an image."""

    paths: list[str]
    classes: list[str | None]
    are_complete: bool


def find(named: Sequence[str], class_names: tuple[str, ...] | None) -> NamedFiles:
    """List each file in `named` and each image in its folders. `-` stands for the names on standard input.

    What is no file but a pattern, such as `images/*.png`, stands for the files that match it. With `class_names`, `named`
    are folders that hold one folder for each class: <folder>/<class>/*, as in a data set's test/. Raises UserError if a folder
    in them is no class, if one of `named` is something else, or if there is no image at all.
    """
    files: list[tuple[str, str | None]] = []
    others: Counter[str] = Counter()
    are_complete = True
    for name in _expanded(named):
        if class_names is None and not os.path.isdir(name):
            files.append((name, None))
            continue
        num_before = len(files)
        for folder, true in [(name, None)] if class_names is None else _class_folders(name, class_names):
            images, skipped = image_files.below(folder)
            files += [(image, true) for image in images]
            others += skipped
        if len(files) == num_before:
            are_complete = False
            print(f"error: {printable(name)} holds no image", file=sys.stderr)
    if others:
        print(f"note: passed over {image_files.summary(others)}", file=sys.stderr)
    if not files:
        raise UserError("there is no image to predict")
    return NamedFiles([path for path, _ in files], [true for _, true in files], are_complete)


def _class_folders(folder: str, class_names: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """Return the folders in a folder, each with the class that it is called by. Raises UserError if one is called otherwise."""
    found = image_files.folders_in(folder) if os.path.isdir(folder) else []
    unknown = [printable(name) for name in found if name not in class_names]
    if found and not unknown:
        return [(os.path.join(folder, name), name) for name in found]
    what = f"{listed(unknown)}, no class of the network" if unknown else "no folder of a class of the network"
    known = listed([printable(name) for name in class_names], 10)
    raise UserError(
        f"--labelled {printable(folder)} holds {what} ({known}): name a folder that holds one folder for each class"
    )


def _expanded(named: Sequence[str]) -> Iterator[str]:
    for path in named:
        if path == "-":
            text = sys.stdin.buffer.read()
            names = text.split(b"\0" if b"\0" in text else b"\n")  # as `find -print0` separates them, or `ls`
            yield from (os.fsdecode(name) for name in names if name)
        elif glob.has_magic(path) and not os.path.lexists(path):
            yield from sorted(glob.glob(path, recursive=True)) or [path]
        else:
            yield path
