"""The image files below a folder: links are followed, also those in circles; hidden files are passed over."""

import os
from collections import Counter
from dataclasses import dataclass, field

from samebits.data import images
from samebits.errors import printable


@dataclass
class Listing:
    """Paths of images in sorted order, with folders that cannot be read; and how many other files there are, by ending."""

    paths: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def below(folder: str) -> Listing:
    """List `folder` and all folders within it. An image is told by its ending; nothing is opened."""
    listing = Listing()
    seen: set[tuple[int, int]] = set()

    def cannot_read(error: OSError) -> None:
        listing.paths.append(str(error.filename))  # reading it as an image says what is wrong

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=cannot_read):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            ending = os.path.splitext(name)[1].lower()
            if ending in images.suffixes() and not name.startswith("."):
                listing.paths.append(os.path.join(parent, name))
            else:
                listing.others["hidden" if name.startswith(".") else ending or name] += 1
    return listing


def summary(others: Counter[str]) -> str:
    """Say in a few words what kinds of files were passed over."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(5))
    more = ", ..." if len(others) > 5 else ""
    return f"what is no image by its name ({printable(kinds)}{more})"
