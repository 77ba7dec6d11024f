"""ResNet-18 for small images (He et al., Deep Residual Learning for Image Recognition, 2015, arXiv 1512.03385).

The form that is usual on CIFAR-10: the blocks of the paper's 18-layer network (table 1), begun by one 3×3 convolution
without stride and pooling, as in the paper's section 4.2, since 32×32 pixels leave nothing to shrink.
"""

import torch
import torch.nn.functional as F
from torch import nn

from samebits import models
from samebits.quantities import Width

_BLOCKS_PER_STAGE = 2


class Block(nn.Module):
    """Two 3×3 convolutions with BatchNorm, beside a shortcut: the identity, or a 1×1 convolution if the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (N, in, height, width) to (N, out, height / stride, width / stride), rounded up."""
        hidden = F.relu(self.norm1(self.conv1(features)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(features))


class Network(nn.Module):
    """A convolution to `width` channels, four stages of two blocks with 1, 2, 4 and 8 times as many, global mean, linear."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, *, width: Width = 64) -> None:
        super().__init__()
        self.conv = nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        blocks, channels = [], width
        for stage in range(4):
            for block in range(_BLOCKS_PER_STAGE):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Block(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, num_classes)
        models.initialize(self, "he")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map float32 (N, channels, height, width) to logits float32 (N, num_classes)."""
        features = F.relu(self.norm(self.conv(images.contiguous(memory_format=torch.channels_last))))
        logits: torch.Tensor = self.fc(self.blocks(features).mean((2, 3)))
        return logits.float()
