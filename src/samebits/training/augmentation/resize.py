"""Progressive resizing: the first epochs see smaller images, which cost less."""

import torch
import torch.nn.functional as F

from samebits.quantities import Count


class Augmentation:
    """Resizes images to `side` pixels in height and width in the first `num_epochs`."""

    def __init__(self, num_images: int, seed: int, device: torch.device, *, num_epochs: Count, side: Count) -> None:
        self._num_epochs, self._side = num_epochs, side

    def begin_epoch(self, epoch: int) -> None:
        """Take note of the epoch, counted from 1."""
        self._is_early = epoch <= self._num_epochs

    def __call__(self, images: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Return the images (B, channels, height, width) as float32 (B, channels, side, side) in early epochs."""
        if not self._is_early:
            return images
        return F.interpolate(images.float(), size=self._side, mode="bilinear", antialias=True)
