"""What a data source returns: images as bytes, with their labels."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ImagesOnDisk:
    """Images uint8 (N, height, width, channels) that need not fit into memory: indexing reads rows from disk.

    They lie in a temporary file in `folder` that has no name, so nothing is left of it, however the process ends.
    """

    def __init__(self, image_shape: tuple[int, int, int], folder: Path) -> None:
        self._image_shape = image_shape  # height, width, channels
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as this object)
        self._number = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of an array of all images."""
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
        images = np.empty((len(indices), *self._image_shape), dtype=np.uint8)
        for image, index in zip(images, indices, strict=True):
            self._file.seek(int(index) * image.size)
            self._file.readinto(image.data)
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
        """Return a copy of the images at `indices` (N,)."""
        return RawSplit(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class RawDataset:
    """Training and test images of a source with the names of the classes, and validation images if it has its own."""

    class_names: tuple[str, ...]
    train: RawSplit
    test: RawSplit
    validation: RawSplit | None = None
