"""Optimizers, by the name that train.optimizer gives."""

from torch import nn
from torch.optim import SGD, Optimizer

from samebits import params


def build(train: params.Train, network: nn.Module) -> Optimizer:
    """Build the optimizer of `network`'s parameters. sgd: stochastic gradient descent with momentum."""
    match train.optimizer:
        case "sgd":
            # fused: one pass over all parameters instead of several for each
            return SGD(network.parameters(), lr=train.learning_rate, momentum=train.momentum, fused=True)
