"""What a data source returns: images as bytes, with their labels."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def mapped(file: IO[bytes], shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Close `file`, to which images of `shape` (N, height, width, channels) were written, and return them.

    They need not fit into memory: indexing reads them from disk.
    """
    with file:
        file.flush()
        return np.memmap(file, np.uint8, "r", shape=shape) if shape[0] else np.empty(shape, np.uint8)


def on_disk(parts: Iterable[NDArray[np.uint8]], image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return the images of all parts (n, height, width, channels), which are written to disk one after another.

    Their file has no name: nothing is left of it, however the process ends.
    """
    with tempfile.TemporaryFile(dir=Path()) as file:
        number = 0
        for part in parts:
            file.write(part.tobytes())
            number += len(part)
        return mapped(file, (number, *image_shape))


@dataclass(frozen=True)
class RawSplit:
    """Images uint8 (N, height, width, channels), labels int64 (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[Any]) -> "RawSplit":
        """Return a copy, on disk, of the images at `indices` (N,)."""
        parts = np.array_split(indices, len(indices) // 1000 + 1)
        height, width, channels = self.images.shape[1:]
        images = on_disk((self.images[part] for part in parts), (height, width, channels))
        return RawSplit(images, self.labels[indices])


@dataclass(frozen=True)
class RawDataset:
    """Training and test images of a source with the names of the classes, and validation images if it has its own.

    `skipped` names the files that could not be read, sorted.
    """

    class_names: tuple[str, ...]
    train: RawSplit
    test: RawSplit
    validation: RawSplit | None = None
    skipped: tuple[str, ...] = ()
