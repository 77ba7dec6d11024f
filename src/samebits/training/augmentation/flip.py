"""Alternating flip (Jordan 2024, arXiv 2404.00498, section 3.6): two epochs show both sides of every image."""

import torch

from samebits.generators import generator


class Augmentation:
    """Half of the images, drawn once, are mirrored in the odd epochs, and the others in the even ones."""

    def __init__(self, num_images: int, seed: int, device: torch.device) -> None:
        self._mirrored_at_first = torch.randint(2, (num_images,), generator=generator(seed, "flip")).bool().to(device)

    def begin_epoch(self, epoch: int) -> None:
        """Choose the images that `epoch`, counted from 1, mirrors."""
        self._mirrored = self._mirrored_at_first ^ (epoch % 2 == 0)

    def __call__(self, images: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Mirror those of the images (B, channels, height, width) that are to be mirrored."""
        return torch.where(self._mirrored[indices, None, None, None], images.flip(3), images)
