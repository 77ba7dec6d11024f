"""The image files below a folder. Links are followed, each folder once; hidden files are skipped."""

import os
from collections import Counter

from samebits.data import images
from samebits.errors import printable


def below(folder: str) -> tuple[list[str], Counter[str]]:
    """List the images in `folder` and all folders within it, and count its other files by extension.

    The extension makes a file an image; nothing is opened. Folders that cannot be read are listed as images, so that
    reading them says what is wrong.
    """
    paths: list[str] = []
    others: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(
        folder, followlinks=True, onerror=lambda error: paths.append(str(error.filename))
    ):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            extension = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                others["hidden"] += 1
            elif extension in images.extensions():
                paths.append(os.path.join(parent, name))
            else:
                others[extension or name] += 1
    return paths, others


def folders_in(folder: str | os.PathLike[str]) -> list[str]:
    """Return the names of the folders in `folder`, sorted, without hidden ones."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def summary(others: Counter[str]) -> str:
    """Describe the skipped files in a few words."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(5))
    more = ", ..." if len(others) > 5 else ""
    return f"files that do not count as images ({printable(kinds)}{more})"
