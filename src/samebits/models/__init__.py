"""Networks, by the name that model.name gives. The next network is a file here and a name in params.py."""

import importlib

import torch
from torch import nn

from samebits import params
from samebits.errors import UserError
from samebits.generators import derived_seed
from samebits.models.initialization import initialize


def build(model: params.Model, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> nn.Module:
    """Build and initialize a network that maps float32 (N, channels, height, width) to logits (N, num_classes).

    Raises UserError for images that are smaller than the network can take.
    """
    module = importlib.import_module(f"{__name__}.{model.name}")
    _, height, width = image_shape
    least: int | None = getattr(module, "MIN_SIDE", None)
    if least and min(height, width) < least:
        raise UserError(
            f"the network {model.name} needs images of at least {least}x{least} pixels, not {height}x{width}: "
            "set model.name of this recipe in params.yaml to linear"
        )
    # PyTorch's own initialization draws from the global CPU generator: seeded for this purpose, and put back afterwards.
    # (torch.manual_seed would seed those of the GPUs as well.)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(seed, "initialization"))
        network: nn.Module = module.Network(image_shape, num_classes)
        initialize(network, model.initialization)
    return network
