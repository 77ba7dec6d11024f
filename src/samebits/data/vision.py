"""torchvision, also beside a PyTorch that its native part was not built for. Nothing else imports torchvision."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch


def _declare_operators() -> torch.library.Library | None:
    """Let `import torchvision` succeed where its native library cannot load (its wheels are built for CUDA PyTorch).

    torchvision registers shape rules for `nms` at import and fails where the operator is not even declared. A
    declaration is enough: nothing here calls it.
    """
    spec = find_spec("torchvision")
    assert spec is not None and spec.origin is not None
    for native in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            torch.ops.load_library(native)
            return None
        except OSError:
            pass
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_LIBRARY = _declare_operators()  # declarations last as long as this object

from torchvision.datasets import CIFAR10, utils  # noqa: E402
from torchvision.datasets.utils import check_integrity  # noqa: E402

# A download's progress bar is for terminals: to tqdm, None means hidden unless standard error is one.
utils.tqdm = partial(utils.tqdm, disable=None)

__all__ = ["CIFAR10", "check_integrity"]
