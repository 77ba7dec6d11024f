"""Augmentations: what happens to a training image depends on its index and the epoch, never on its mini-batch.

Each is one file here: a class `Augmentation` whose keyword-only arguments are its settings in params.yaml.
"""

from collections.abc import Sequence
from typing import Protocol

import torch

from samebits import params, parts


class Augmentation(Protocol):
    """One augmentation of a training."""

    def begin_epoch(self, epoch: int) -> None:
        """Prepare what `epoch`, counted from 1, needs."""

    def __call__(self, images: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Return images (B, channels, height, width), float16 or float32, at `indices` (B,) of all, as this epoch sees them."""


def build(sections: Sequence[params.Part], num_images: int, seed: int, device: torch.device) -> list[Augmentation]:
    """Build the augmentations of `num_images` training images; all of their random numbers follow from `seed`."""
    return [parts.load("augmentation", each.name)(num_images, seed, device, **each.settings) for each in sections]
