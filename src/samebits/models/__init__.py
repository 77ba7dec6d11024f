"""Networks. Each is one file here: a class `Network` whose keyword-only arguments are its settings in params.yaml.

A network may define MIN_SIDE, the least height and width of its images in pixels, and the methods
`initialize_from(images)`, for weights that the training images decide, and `parameter_groups()`, for an optimizer that treats some
parameters in another way than others.
"""

from typing import Any

import torch
from torch import nn

from samebits import params, parts
from samebits.errors import UserError
from samebits.generators import derived_seed


def build(model: params.Part, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> nn.Module:
    """Build and initialize the network of a section `model`; it maps float32 (N, channels, height, width) to logits (N, num_classes).

    Raises UserError if the images are smaller than the network can take.
    """
    network_class, least = parts.load("model", model.name), parts.min_side(model.name)
    _, height, width = image_shape
    if least and min(height, width) < least:
        raise UserError(
            f"the network {model.name} needs images of at least {least}x{least} pixels, not {height}x{width}: "
            "set model.name of this recipe in params.yaml to linear"
        )
    # PyTorch's own initialization draws from the global CPU generator: seeded for this purpose, and put back afterwards.
    # (torch.manual_seed would seed those of the GPUs as well.)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(seed, "initialization"))
        network: nn.Module = network_class(image_shape, num_classes, **model.settings)
    return network


def initialize_from(network: nn.Module, images: torch.Tensor) -> None:
    """Set those weights that training images, normalized float16 (N, channels, height, width), decide, if the network has some."""
    method: Any = getattr(network, "initialize_from", None)
    if method is not None:
        method(images)


def parameter_groups(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the parameters to train, by the name of their group: those of the network, or one group `all`."""
    method: Any = getattr(network, "parameter_groups", None)
    return dict(method()) if method is not None else {"all": list(network.parameters())}


@torch.no_grad()
def initialize(network: nn.Module, name: str) -> None:
    """Set the weights of every convolution and fully connected layer in place, from the global generator.

    pytorch: as the layers made them, uniform with bound 1 / sqrt(fan_in). he: normal with variance 2 / fan_in, biases 0
    (He et al., Delving Deep into Rectifiers, 2015, equation 10). zero: all 0, which cannot break the symmetry.
    """
    if name == "pytorch":
        return
    for layer in network.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        if name == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        else:
            nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
