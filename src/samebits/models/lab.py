"""The lab's network: two convolutions, three fully connected layers (after LeNet-5, LeCun et al. 1998)."""

import torch
import torch.nn.functional as F
from torch import nn

from samebits import models
from samebits.quantities import Initialization

MIN_SIDE = 16  # pixels; two convolutions and poolings leave nothing of a smaller image


class Network(nn.Module):
    """Convolution to 6 and to 16 channels, 5×5 each, max-pooling by 2 after both; 120, 84, num_classes; ReLU between."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, *, initialization: Initialization) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        pooled = [((size - 4) // 2 - 4) // 2 for size in (height, width)]
        self.fc1 = nn.Linear(16 * pooled[0] * pooled[1], 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)
        models.initialize(self, initialization)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map float32 (N, channels, height, width) to logits (N, num_classes)."""
        features = self.pool(F.relu(self.conv1(images)))
        features = self.pool(F.relu(self.conv2(features)))
        hidden = F.relu(self.fc1(features.flatten(1)))
        hidden = F.relu(self.fc2(hidden))
        logits: torch.Tensor = self.fc3(hidden)
        return logits
