"""What a source gives: images as bytes with their labels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RawSplit:
    """Images uint8 (N, height, width, channels), labels int64 (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[Any]) -> "RawSplit":
        """Give the images at `indices` (N,), copied."""
        return RawSplit(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class RawDataset:
    """The training and the test images of a source, and the names of their classes."""

    class_names: tuple[str, ...]
    train: RawSplit
    test: RawSplit
