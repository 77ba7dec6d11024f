"""The network of "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (Jordan 2024, arXiv 2404.00498, section 3)."""

from itertools import pairwise, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from samebits.quantities import ThreeWidths

MIN_SIDE = 9  # pixels; less is nothing after the three poolings
NUM_WHITENED = 5000  # images whose patches the whitening filters are made from
_WIDTHS = [64, 256, 256]
_PATCH_SIDE = 2
_LEAST_CHANNELS_OF_TILES = 64  # with fewer, the transformations take longer than the products that they save

# What transforms the rows and the columns of a tile of inputs, of a filter, and of their products.
_OF_INPUTS, _OF_FILTERS, _OF_OUTPUTS = (
    torch.kron(each, each)
    for each in (
        torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
        torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
        torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]]),
    )
)


class _TiledConvolution(torch.autograd.Function):
    """3×3 convolution by tiles: 16 products of numbers for 2×2 outputs instead of 36.

    This is F(2×2, 3×3) of Lavin and Gray 2015, arXiv 1509.09308, section 4.1, after Winograd: the products are those of tiles of 4×4 inputs with
    filters, both transformed by matrices of small whole numbers and halves.
    """

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Map (N, height + 2, width + 2, in) and a matrix (out, 3 * 3 * in) to (N, height, width, out), with even height and width."""
        num_images, height, width, num_channels = features.shape
        grid = (num_images, height // 2 - 1, width // 2 - 1)  # of tiles, each two pixels further
        filters = weight.unflatten(1, (9, num_channels)).permute(1, 2, 0).flatten(1)
        filters = (_OF_FILTERS.to(weight) @ filters).to(features.dtype).view(16, num_channels, -1)
        tiles = features.unfold(1, 4, 2).unfold(2, 4, 2).permute(4, 5, 0, 1, 2, 3).reshape(16, -1)
        tiles = (_OF_INPUTS.to(features) @ tiles).view(16, -1, num_channels)
        ctx.save_for_backward(tiles, filters)
        ctx.grid = grid
        outputs = _OF_OUTPUTS.to(features) @ torch.bmm(tiles, filters).flatten(1)
        return outputs.view(2, 2, *grid, -1).permute(2, 3, 0, 4, 1, 5).flatten(1, 2).flatten(2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map the gradient of the outputs to those of the features and the matrix."""
        tiles, filters = ctx.saved_tensors
        num_images, num_rows, num_columns = ctx.grid
        num_channels, height, width = tiles.shape[2], 2 * num_rows, 2 * num_columns
        outputs = gradient.unflatten(1, (num_rows, 2)).unflatten(3, (num_columns, 2)).permute(2, 4, 0, 1, 3, 5)
        products = (_OF_OUTPUTS.T.to(gradient) @ outputs.reshape(4, -1)).view(16, tiles.shape[1], -1)
        of_filters = torch.bmm(tiles.mT, products).flatten(1)
        of_filters = _OF_FILTERS.T @ of_filters.to(_OF_FILTERS.dtype)
        of_weight = of_filters.view(9, num_channels, -1).permute(2, 0, 1).flatten(1)
        of_tiles = _OF_INPUTS.T.to(gradient) @ torch.bmm(products, filters.mT).flatten(1)
        of_tiles = of_tiles.view(4, 4, *ctx.grid, num_channels)
        of_features = gradient.new_zeros(num_images, height + 2, width + 2, num_channels)
        for row, column in product(range(4), range(4)):
            of_features[:, row : row + height : 2, column : column + width : 2] += of_tiles[row, column]
        return of_features, of_weight


class Convolution(nn.Module):
    """3×3 convolution without bias, its filters one matrix (out, 3 * 3 * in): the shape that Muon orthogonalizes.

    Partial identity initialization (section 3.3): the first `in` filters pass their channel on, the others are drawn as
    PyTorch draws a convolution's. With `is_pooled` a pooling by 2 follows, which drops an odd last row or column: these
    are not computed.
    """

    def __init__(self, in_channels: int, out_channels: int, is_pooled: bool = False) -> None:
        super().__init__()
        self._is_pooled = is_pooled
        self._is_tiled = is_pooled and in_channels >= _LEAST_CHANNELS_OF_TILES
        filters = nn.Conv2d(in_channels, out_channels, 3).weight.detach()
        nn.init.dirac_(filters[:in_channels])
        self.weight = nn.Parameter(filters.permute(0, 2, 3, 1).flatten(1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (N, in, height, width) to (N, out, height, width); with `is_pooled` to even numbers of rows and columns."""
        padding = 1
        if self._is_pooled:
            odd_rows, odd_columns = (size % 2 for size in features.shape[2:])
            features, padding = F.pad(features, (1, 1 - odd_columns, 1, 1 - odd_rows)), 0
            # A GPU has its own algorithms; without a gradient there is less to save.
            if self._is_tiled and self.training and features.device.type == "cpu":
                with torch.autocast("cpu", enabled=False):  # the filters are transformed with all their digits
                    tiled: torch.Tensor = _TiledConvolution.apply(features.permute(0, 2, 3, 1), self.weight)  # type: ignore[no-untyped-call]
                return tiled.permute(0, 3, 1, 2)
        filters = self.weight.unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)  # in memory: channels last
        return F.conv2d(features, filters, padding=padding)


class Block(nn.Module):
    """Convolution, max-pooling by 2, BatchNorm, GELU; convolution, BatchNorm, GELU. BatchNorm has a bias and no scale."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = Convolution(in_channels, out_channels, is_pooled=True)
        self.norm1 = _batch_norm(out_channels)
        self.conv2 = Convolution(out_channels, out_channels)
        self.norm2 = _batch_norm(out_channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (N, in, height, width) to (N, out, height // 2, width // 2)."""
        features = F.gelu(self.norm1(F.max_pool2d(self.conv1(features), 2)))
        return F.gelu(self.norm2(self.conv2(features)))


class Network(nn.Module):
    """Patch whitening to two filters for each number of a 2×2 patch, three blocks, global max-pooling, a linear layer.

    `widths` are the channels of the blocks, by default 64, 256 and 256.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], num_classes: int, *, widths: ThreeWidths | None = None
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        self.whitening = nn.Conv2d(channels, 2 * channels * _PATCH_SIDE**2, _PATCH_SIDE)
        self.whitening.weight.requires_grad = False
        channels_between = (self.whitening.out_channels, *(widths or _WIDTHS))
        self.blocks = nn.Sequential(*(Block(before, after) for before, after in pairwise(channels_between)))
        self.head = nn.Linear(channels_between[-1], num_classes, bias=False)
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
