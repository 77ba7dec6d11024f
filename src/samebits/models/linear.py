"""Softmax regression on the pixels: the baseline that any network has to beat."""

import math

import torch
from torch import nn

from samebits import models
from samebits.quantities import Initialization


class Network(nn.Module):
    """One fully connected layer from all pixels to the classes."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, *, initialization: Initialization) -> None:
        super().__init__()
        self.fc = nn.Linear(math.prod(image_shape), num_classes)
        models.initialize(self, initialization)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map float32 (N, channels, height, width) to logits (N, num_classes)."""
        logits: torch.Tensor = self.fc(images.flatten(1))
        return logits
