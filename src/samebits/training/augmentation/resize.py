"""Progressive resizing: the first epochs see smaller images, which cost less."""

import torch
import torch.nn.functional as F

from samebits.quantities import Sides


class Augmentation:
    """Resizes images to sides[0] pixels in height and width in the first epoch, sides[1] in the second, and so on; not in later ones."""

    def __init__(self, num_images: int, seed: int, device: torch.device, *, sides: Sides) -> None:
        self._sides = sides

    def begin_epoch(self, epoch: int) -> None:
        """Take note of the epoch, counted from 1."""
        self._side = self._sides[epoch - 1] if epoch <= len(self._sides) else None

    def __call__(self, images: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Return the images (B, channels, height, width), in the first epochs resized to float32 (B, channels, side, side)."""
        if self._side is None:
            return images
        return F.interpolate(images.float(), size=self._side, mode="bilinear", antialias=True)
