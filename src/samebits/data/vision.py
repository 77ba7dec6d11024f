"""torchvision, even beside a PyTorch that its native library does not fit. Nothing else imports torchvision."""

from functools import partial

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # Its wheels are built for CUDA PyTorch. Without its native library it fails at import, where it registers shape rules for
    # `nms`. Nothing here calls that operator, so a declaration, which lasts as long as this object, is enough.
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    _LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision.datasets import CIFAR10, utils
from torchvision.datasets.utils import check_integrity

# Progress bars are for terminals: with disable=None, tqdm shows one only if standard error is a terminal.
utils.tqdm = partial(utils.tqdm, disable=None)

__all__ = ["CIFAR10", "check_integrity"]
