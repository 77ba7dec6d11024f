"""The image files below a folder. Links are followed, each folder once; hidden files are skipped."""

import os
from collections import Counter
from dataclasses import dataclass, field

from samebits.data import images
from samebits.errors import printable


@dataclass
class Listing:
    """Paths of images, sorted, with folders that cannot be read; and the number of other files by extension."""

    paths: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def below(folder: str) -> Listing:
    """List `folder` and all folders within it. The extension makes a file an image; nothing is opened."""
    listing = Listing()
    seen: set[tuple[int, int]] = set()

    def keep(error: OSError) -> None:
        listing.paths.append(str(error.filename))  # reading it as an image says what is wrong

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=keep):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            extension = os.path.splitext(name)[1].lower()
            if extension in images.extensions() and not name.startswith("."):
                listing.paths.append(os.path.join(parent, name))
            else:
                listing.others["hidden" if name.startswith(".") else extension or name] += 1
    return listing


def summary(others: Counter[str]) -> str:
    """Describe the skipped files in a few words."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(5))
    more = ", ..." if len(others) > 5 else ""
    return f"files that are not images by their extension ({printable(kinds)}{more})"
