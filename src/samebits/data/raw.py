"""What a data source returns: images as bytes, with their labels."""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class RawSplit:
    """Images uint8 (N, height, width, channels), labels int64 (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[Any]) -> "RawSplit":
        """Return a copy of the images at `indices` (N,)."""
        return RawSplit(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class RawDataset:
    """Training and test images of a source with the names of the classes, and validation images if it has its own."""

    class_names: tuple[str, ...]
    train: RawSplit
    test: RawSplit
    validation: RawSplit | None = None
