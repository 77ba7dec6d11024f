"""Networks, by the name that model.name gives. The next network is a file here and a name in params.py."""

import importlib

import torch
from torch import nn

from samebits import params
from samebits.errors import UserError
from samebits.generators import derived_seed


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
        _initialize(network, model.initialization)
    return network


def _initialize(network: nn.Module, name: str) -> None:
    """Set the weights of every convolution and fully connected layer in place, from the global generator.

    pytorch: as the layers made them, uniform with bound 1 / sqrt(fan_in). partial_identity: as the network speed makes
    its own. he: normal with variance 2 / fan_in, biases 0
    (He et al., Delving Deep into Rectifiers, 2015, equation 10). zero: all 0, which cannot break the symmetry.
    """
    if name in ("pytorch", "partial_identity"):
        return
    for layer in network.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        assert layer.bias is not None
        if name == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        else:
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
