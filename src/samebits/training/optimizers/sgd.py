"""Stochastic gradient descent with momentum."""

from torch import nn
from torch.optim import Optimizer

from samebits.models import parameter_groups
from samebits.quantities import LearningRate, Momentum, WeightDecay
from samebits.training.optimization import DirectSGD


def build(
    network: nn.Module,
    batch_size: int,
    *,
    learning_rate: LearningRate,
    momentum: Momentum,
    weight_decay: WeightDecay = 0.0,
) -> list[Optimizer]:
    """Return the optimizer of all parameters; the momentum is Polyak's, as PyTorch has it."""
    parameters = [each for group in parameter_groups(network).values() for each in group]
    # fused: one pass over all parameters instead of several for each
    return [DirectSGD(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, fused=True)]
