"""Networks, by the name that model.name gives. The next network is a file here and a name in params.py."""

import importlib

import torch
from torch import nn

from samebits import params
from samebits.generators import derived_seed
from samebits.models.initialization import initialize


def build(model: params.Model, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> nn.Module:
    """Build and initialize a network that maps float32 (N, channels, height, width) to logits (N, num_classes)."""
    module = importlib.import_module(f"{__name__}.{model.name}")
    # PyTorch's own initialization draws from the global CPU generator: seeded for this purpose, and put back afterwards.
    # (torch.manual_seed would seed those of the GPUs as well.)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(seed, "initialization"))
        network: nn.Module = module.Network(image_shape, num_classes)
        initialize(network, model.initialization)
    return network
