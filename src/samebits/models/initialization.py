"""How weights begin, by the name that model.initialization gives."""

from torch import nn


def initialize(network: nn.Module, name: str) -> None:
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
