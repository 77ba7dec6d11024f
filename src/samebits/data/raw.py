"""What a source gives: images as bytes with their labels."""

import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ImagesOnDisk:
    """Images uint8 (N, height, width, channels) that need not fit into memory: rows of it are read as they are asked for.

    They lie in a temporary file without a name, so nothing is left of them, however the process ends.
    """

    def __init__(self, image_shape: tuple[int, int, int], folder: Path) -> None:
        self._image_shape = image_shape  # height, width, channels
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as this object)
        self._number = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape that an array of all images would have."""
        return self._number, *self._image_shape

    def __len__(self) -> int:
        return self._number

    def append(self, image: NDArray[np.uint8]) -> None:
        """Add an image (height, width, channels) at the end."""
        self._file.seek(0, 2)
        self._file.write(image.tobytes())
        self._number += 1

    def __getitem__(self, rows: slice | NDArray[Any]) -> NDArray[np.uint8]:
        indices = np.arange(self._number)[rows]
        size = prod(self._image_shape)
        images = np.empty((len(indices), *self._image_shape), dtype=np.uint8)
        for row, index in enumerate(indices):
            self._file.seek(int(index) * size)
            images[row] = np.frombuffer(self._file.read(size), dtype=np.uint8).reshape(self._image_shape)
        return images


Images = NDArray[np.uint8] | ImagesOnDisk


@dataclass(frozen=True)
class RawSplit:
    """Images uint8 (N, height, width, channels), labels int64 (N,)."""

    images: Images
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[Any]) -> "RawSplit":
        """Return the images at `indices` (N,), copied."""
        return RawSplit(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class RawDataset:
    """The training and the test images of a source, its validation images where it has its own, and its classes' names."""

    class_names: tuple[str, ...]
    train: RawSplit
    test: RawSplit
    validation: RawSplit | None = None
