"""Cutout (DeVries and Taylor 2017, arXiv 1708.04552): a square of each image is blanked out, another one in every epoch."""

import torch

from samebits.generators import generator
from samebits.quantities import Count


class Augmentation:
    """Sets a square of `side` pixels to 0, the mean of normalized images. Its centre is any pixel, so it may reach over the border."""

    def __init__(self, num_images: int, seed: int, device: torch.device, *, side: Count) -> None:
        self._num_images, self._seed, self._device, self._side = num_images, seed, device, side

    def begin_epoch(self, epoch: int) -> None:
        """Draw the centres of `epoch`, as shares of height and width."""
        random = generator(self._seed, f"cutout in epoch {epoch}")
        self._centres = torch.rand((self._num_images, 2), generator=random).to(self._device)

    def __call__(self, images: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Blank out a square of each of the images (B, channels, height, width)."""
        rows, columns = (
            self._covered(self._centres[indices, axis], size) for axis, size in enumerate(images.shape[2:])
        )
        return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)

    def _covered(self, centres: torch.Tensor, size: int) -> torch.Tensor:
        """Return which of `size` rows or columns lie in the square: bool (B, size)."""
        first = (centres * size).long() - self._side // 2
        positions = torch.arange(size, device=centres.device)
        return (positions >= first[:, None]) & (positions < first[:, None] + self._side)
