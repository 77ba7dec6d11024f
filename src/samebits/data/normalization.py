"""z = (x - mean) / std for each channel, with x = pixel / 255; exact on every processor."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samebits.errors import UserError

if TYPE_CHECKING:
    from samebits.data.raw import Images

_CHUNK_BYTES = 2**22


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, of pixels scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Normalize uint8 (N, height, width, channels) to float16 (N, channels, height, width).

        There are only 256 pixel values, so each channel is a table look-up: computed in float64, rounded once. float16
        keeps the 256 values apart (11 bits), so `pixels` recovers the original; bfloat16 (8 bits) would not.
        """
        num_images, height, width, num_channels = images.shape
        normalized = np.empty((num_images, num_channels, height, width), dtype=np.float16)
        x = np.arange(256, dtype=np.float64) / 255
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            table = ((x - mean) / std).astype(np.float16)
            for start in range(0, num_images, 1000):  # a chunk keeps the index array of `take` small
                part = slice(start, start + 1000)
                np.take(table, images[part, :, :, channel], out=normalized[part, channel])
        return normalized

    def pixels(self, normalized: NDArray[np.float16]) -> NDArray[np.uint8]:
        """Return the exact uint8 (N, height, width, channels) that `apply` normalized."""
        mean, std = (np.array(values).reshape(1, -1, 1, 1) for values in (self.mean, self.std))
        scaled = np.rint((normalized.astype(np.float64) * std + mean) * 255).astype(np.uint8)
        return np.ascontiguousarray(scaled.transpose(0, 2, 3, 1))


def of_images(kind: str, images: "Images") -> Normalization:
    """Return the normalization of `kind` (per_channel, half, none) for training images (N, height, width, channels).

    per_channel takes mean and standard deviation over all pixels of a channel (Krizhevsky 2009 and the lab), from
    integer sums. Raises UserError if a channel never varies, or so rarely that float16 cannot hold the result.
    """
    if kind == "per_channel":
        moments = [_mean_and_std(counts) for counts in _histograms(images)]
    else:
        moments = [{"half": (0.5, 0.5), "none": (0.0, 1.0)}[kind]] * images.shape[-1]
    means, stds = zip(*moments, strict=True)
    smallest = min(stds)
    if smallest < 1 / np.finfo(np.float16).max:
        images_of_one_value = "all" if smallest == 0 else "nearly all"
        raise UserError(
            f"channel {stds.index(smallest)} has one value in {images_of_one_value} training images: "
            "set data.normalization to half or none in params.yaml"
        )
    return Normalization(means, stds)


def chunks(images: "Images") -> Iterator[NDArray[np.uint8]]:
    """Return all images in parts of a few megabytes."""
    size = max(1, _CHUNK_BYTES // math.prod(images.shape[1:]))
    return (images[start : start + size] for start in range(0, len(images), size))


def _histograms(images: "Images") -> NDArray[np.int64]:
    """Count how often each channel has each of the 256 values: (channels, 256)."""
    counts = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for part in chunks(images):
        for channel, values in enumerate(counts):
            values += np.bincount(part[..., channel].reshape(-1), minlength=256)
    return counts


def _mean_and_std(counts: NDArray[np.int64]) -> tuple[float, float]:
    """Return mean and population standard deviation of pixel / 255 from a histogram (256,), each rounded once."""
    number, total, total_of_squares = (
        sum(value**power * int(count) for value, count in enumerate(counts)) for power in (0, 1, 2)
    )
    mean = Fraction(total, number * 255)
    variance = Fraction(total_of_squares, number * 255**2) - mean**2
    return float(mean), math.sqrt(variance)
