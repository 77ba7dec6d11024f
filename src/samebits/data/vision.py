"""torchvision, even beside a PyTorch that its native library does not fit. Nothing else imports torchvision."""

from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch


def _declare_operators() -> torch.library.Library | None:
    """Let `import torchvision` succeed even if its native library cannot load (its wheels are built for CUDA PyTorch).

    At import torchvision registers shape rules for `nms`, which fails if the operator is not declared. Nothing here calls
    it, so a declaration is enough.
    """
    spec = find_spec("torchvision")
    assert spec is not None and spec.origin is not None
    for native in sorted(Path(spec.origin).parent.glob("_C*.so")):
        with suppress(OSError):
            torch.ops.load_library(native)
            return None
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_LIBRARY = _declare_operators()  # declarations last as long as this object

from torchvision.datasets import CIFAR10, utils  # noqa: E402
from torchvision.datasets.utils import check_integrity  # noqa: E402

# Progress bars are for terminals: with disable=None, tqdm shows one only if standard error is a terminal.
utils.tqdm = partial(utils.tqdm, disable=None)

__all__ = ["CIFAR10", "check_integrity"]
