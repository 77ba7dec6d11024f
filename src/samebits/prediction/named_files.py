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
    """Paths of images, in order; their true class, if it is known; and whether each named folder holds an image."""

    paths: list[str]
    labels: list[int] | None
    are_complete: bool


def find(named: Sequence[str]) -> NamedFiles:
    """List each file in `named` and each image in its folders. `-` stands for the names on standard input.

    What is no file but a pattern, such as `images/*.png`, stands for the files that match it.
    """
    paths: list[str] = []
    others: Counter[str] = Counter()
    are_complete = True
    for path in _expanded(named):
        if not os.path.isdir(path):
            paths.append(path)
            continue
        found, skipped = image_files.below(path)
        paths += found
        others += skipped
        if not found:
            are_complete = False
            print(f"error: {printable(path)} holds no image", file=sys.stderr)
    _require_some(paths, others)
    return NamedFiles(paths, None, are_complete)


def find_labelled(named: Sequence[str], class_names: tuple[str, ...]) -> NamedFiles:
    """List the images of folders that hold one folder for each class: <folder>/<class>/*, as in a data set's test/.

    Raises UserError if a folder in them is no class of `class_names`, or if one of `named` is something else.
    """
    paths: list[str] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    are_complete = True
    for folder in named:
        num_before = len(paths)
        found = image_files.folders_in(folder) if os.path.isdir(folder) else []
        if unknown := [name for name in found if name not in class_names]:
            what = f"{listed([printable(each) for each in unknown])}, no class of the network"
        elif not found:
            what = "no folder of a class of the network"
        else:
            for name in found:
                images, skipped = image_files.below(os.path.join(folder, name))
                paths += images
                labels += [class_names.index(name)] * len(images)
                others += skipped
            if len(paths) == num_before:
                are_complete = False
                print(f"error: {printable(folder)} holds no image", file=sys.stderr)
            continue
        known = listed([printable(name) for name in class_names], 10)
        raise UserError(
            f"--labelled {printable(folder)} holds {what} ({known}): name a folder that holds one folder for each class"
        )
    _require_some(paths, others)
    return NamedFiles(paths, labels, are_complete)


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


def _require_some(paths: list[str], others: Counter[str]) -> None:
    if others:
        print(f"note: passed over {image_files.summary(others)}", file=sys.stderr)
    if not paths:
        raise UserError("there is no image to predict")
