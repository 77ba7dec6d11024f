"""Images read from disk before the mini-batch that needs them: this decides the time, and no bit."""

import ctypes
import mmap
import resource
from concurrent.futures import ThreadPoolExecutor

import torch

_MOST_FAULTS = 0.01  # for each image: more than that, and memory does not hold the images


class ReadAhead:
    """Asks the system to read images (N, ...), which are mapped from disk, before a training needs them. On a GPU it does nothing.

    Otherwise a training on more images than memory waits for the disk at each image.
    """

    def __init__(self, images: torch.Tensor) -> None:
        self._is_on_disk = images.device.type == "cpu"
        self._start, self._image_bytes = images.data_ptr(), images[:1].nbytes
        self._madvise = ctypes.CDLL(None).madvise
        self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        self._thread = ThreadPoolExecutor(1)
        self._num_faults = _num_faults()
        self._is_needed = False
        if self._is_on_disk:
            # Else the system reads up to megabytes around each image, which are gone before they are needed.
            self._advise(0, len(images), mmap.MADV_RANDOM)

    def expect(self, indices: torch.Tensor) -> None:
        """Begin to read the images at `indices` (B,), as soon as a training has had to wait for the disk."""
        before, self._num_faults = self._num_faults, _num_faults()
        self._is_needed |= self._is_on_disk and self._num_faults - before > _MOST_FAULTS * len(indices)
        if self._is_needed:
            self._thread.submit(self._read, indices.tolist())

    def _read(self, indices: list[int]) -> None:
        for index in indices:
            self._advise(index, 1, mmap.MADV_WILLNEED)

    def _advise(self, index: int, number: int, advice: int) -> None:
        start = self._start + index * self._image_bytes
        page = start - start % mmap.PAGESIZE
        self._madvise(page, start + number * self._image_bytes - page, advice)


def _num_faults() -> int:
    """Return how often this process has waited for a page from disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt
