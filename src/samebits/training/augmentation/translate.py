"""Random translation: each image is shifted anew in every epoch."""

import torch

from samebits.errors import UserError
from samebits.generators import generator
from samebits.quantities import Count


class Augmentation:
    """Shifts by up to `pixels` in each direction. What a shift brings in is mirrored at the border (reflection padding)."""

    def __init__(self, num_images: int, seed: int, device: torch.device, *, pixels: Count) -> None:
        self._num_images, self._seed, self._device, self._pixels = num_images, seed, device, pixels

    def begin_epoch(self, epoch: int) -> None:
        """Draw the shifts of `epoch`."""
        random = generator(self._seed, f"translation in epoch {epoch}")
        shifts = torch.randint(-self._pixels, self._pixels + 1, (self._num_images, 2), generator=random)
        self._shifts = shifts.to(self._device)

    def __call__(self, images: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Shift the images (B, channels, height, width). Raises UserError if a shift could leave nothing of them."""
        if self._pixels >= (side := min(images.shape[2:])):
            raise UserError(
                f"train.augmentation of this recipe in params.yaml shifts by {self._pixels} pixels images of {side}: "
                f"pixels must be less"
            )
        shifts = self._shifts[indices]
        rows, columns = (
            _reflected(torch.arange(size, device=images.device) + shifts[:, axis, None], size)
            for axis, size in enumerate(images.shape[2:])
        )
        each = torch.arange(len(images), device=images.device)[:, None, None]
        return images[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _reflected(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Bring positions outside of 0 ... size - 1 back in, mirrored at the border pixel."""
    last = size - 1
    return last - (last - positions.abs()).abs()
