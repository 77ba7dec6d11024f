"""Augmentation: each image mirrored and shifted anew in every epoch, by index arithmetic alone."""

import torch

from samebits.generators import generator


class Augmentation:
    """What happens to each of `num_images` training images in each epoch; all of it follows from `seed`."""

    def __init__(self, flip: str, translate: int, num_images: int, seed: int, device: torch.device) -> None:
        self._flip = flip
        self._translate = translate
        self._num_images = num_images
        self._seed = seed
        self._device = device
        mirrored = torch.randint(2, (num_images,), generator=generator(seed, "flip"))
        self._mirrored_at_first = mirrored.bool().to(device)
        self.begin_epoch(1)

    def begin_epoch(self, epoch: int) -> None:
        """Draw the shifts of `epoch`, counted from 1.

        flip alternating: half of the images, drawn once, are mirrored in the odd epochs and the others in the even ones
        (Jordan 2024, arXiv 2404.00498, section 3.6): two epochs show both sides of every image.
        """
        self._mirrored = self._mirrored_at_first ^ (epoch % 2 == 0)
        shifts = torch.randint(
            -self._translate,
            self._translate + 1,
            (self._num_images, 2),
            generator=generator(self._seed, f"translation in epoch {epoch}"),
        )
        self._shifts = shifts.to(self._device)

    def __call__(self, images: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Return the images (N, channels, height, width) at `indices` (B,) as this epoch sees them.

        What a shift brings in from outside is mirrored at the border (reflection padding).
        """
        if self._flip == "none" and self._translate == 0:
            return images[indices]
        height, width = images.shape[2:]
        rows, columns = (torch.arange(size, device=self._device).expand(len(indices), size) for size in (height, width))
        if self._flip == "alternating":
            columns = torch.where(self._mirrored[indices, None], width - 1 - columns, columns)
        shifts = self._shifts[indices]
        rows = _reflected(rows + shifts[:, :1], height)
        columns = _reflected(columns + shifts[:, 1:], width)
        return images[indices[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _reflected(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Bring positions outside of 0 ... size - 1 back in, mirrored at the border pixel."""
    last = size - 1
    return last - (last - positions.abs()).abs()
