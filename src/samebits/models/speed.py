"""The network of "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (Jordan 2024, arXiv 2404.00498, section 3)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

MIN_SIDE = 9  # pixels; less is nothing after the three poolings
NUM_WHITENED = 5000  # images whose patches the whitening filters are made from
_WIDTHS = (64, 256, 256)
_PATCH_SIDE = 2


class Convolution(nn.Module):
    """3×3 convolution without bias, its filters one matrix (out, 3 * 3 * in): the shape that Muon orthogonalizes.

    Partial identity initialization (section 3.3): the first `in` filters pass their channel on, the others are drawn as
    PyTorch draws a convolution's.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        filters = nn.Conv2d(in_channels, out_channels, 3).weight.detach()
        nn.init.dirac_(filters[:in_channels])
        self.weight = nn.Parameter(filters.permute(0, 2, 3, 1).flatten(1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (N, in, height, width) to (N, out, height, width)."""
        filters = self.weight.unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)  # in memory: channels last
        return F.conv2d(features, filters, padding=1)


class Block(nn.Module):
    """Convolution, max-pooling by 2, BatchNorm, GELU; convolution, BatchNorm, GELU. BatchNorm has a bias and no scale."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = Convolution(in_channels, out_channels)
        self.norm1 = _batch_norm(out_channels)
        self.conv2 = Convolution(out_channels, out_channels)
        self.norm2 = _batch_norm(out_channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (N, in, height, width) to (N, out, height // 2, width // 2)."""
        features = F.gelu(self.norm1(F.max_pool2d(self.conv1(features), 2)))
        return F.gelu(self.norm2(self.conv2(features)))


class Network(nn.Module):
    """Patch whitening to two filters for each number of a 2×2 patch, three blocks, global max-pooling, a linear layer."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels = image_shape[0]
        self.whitening = nn.Conv2d(channels, 2 * channels * _PATCH_SIDE**2, _PATCH_SIDE)
        self.whitening.weight.requires_grad = False
        widths = (self.whitening.out_channels, *_WIDTHS)
        self.blocks = nn.Sequential(*(Block(before, after) for before, after in pairwise(widths)))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()

    def parameter_groups(self) -> dict[str, list[torch.Tensor]]:
        """Return the parameters by what an optimizer does with them."""
        assert self.whitening.bias is not None
        modules = list(self.modules())
        return {
            "filters": [part.weight for part in modules if isinstance(part, Convolution)],
            "whitening_bias": [self.whitening.bias],
            "biases": [part.bias for part in modules if isinstance(part, nn.BatchNorm2d)],
            "head": [self.head.weight],
        }

    @torch.no_grad()
    def initialize_from(self, images: torch.Tensor) -> None:
        """Set the whitening filters from normalized images (N, channels, height, width), as section 3.2 says.

        Each filter is an eigenvector of the covariance of the images' patches over the root of its eigenvalue, once
        with either sign.
        """
        patches = F.unfold(images[:NUM_WHITENED].float(), _PATCH_SIDE).transpose(1, 2).flatten(0, 1)
        # On the CPU in double precision: any thread count and any device give the same eigenvectors but for rounding.
        covariance = (patches.T @ patches / len(patches)).double().cpu()
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
        filters = (eigenvectors / (eigenvalues + 5e-4).sqrt()).T.reshape(-1, *self.whitening.weight.shape[1:])
        self.whitening.weight.copy_(torch.cat((filters, -filters)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map float32 (N, channels, height, width) to logits float32 (N, num_classes)."""
        features = self.blocks(F.gelu(self.whitening(images.contiguous(memory_format=torch.channels_last))))
        features = features.amax((2, 3)).float()
        with torch.autocast(features.device.type, enabled=False):  # logits keep all their digits
            logits: torch.Tensor = self.head(features) / features.shape[1]
        return logits


def _batch_norm(num_channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(num_channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad = False
    return norm
