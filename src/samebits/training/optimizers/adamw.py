"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv 1711.05101)."""

from torch import nn
from torch.optim import AdamW, Optimizer

from samebits.models import parameter_groups
from samebits.quantities import LearningRate, Momentum, WeightDecay


def build(
    network: nn.Module,
    batch_size: int,
    *,
    learning_rate: LearningRate,
    weight_decay: WeightDecay,
    beta1: Momentum = 0.9,
    beta2: Momentum = 0.999,
) -> list[Optimizer]:
    """Return the optimizer of all parameters; biases and the scales of normalizations do not decay."""
    parameters = [each for group in parameter_groups(network).values() for each in group]
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return [AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=(beta1, beta2), fused=True)]
