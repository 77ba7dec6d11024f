"""Muon: momentum that is orthogonalized, for the filters of convolutions (Jordan et al. 2024, kellerjordan.github.io/posts/muon)."""

from typing import Any

import torch
from torch import nn
from torch.optim import Muon, Optimizer

from samebits.errors import UserError
from samebits.models import parameter_groups
from samebits.quantities import Count, LearningRate, Momentum, WeightDecay
from samebits.training.optimization import DirectSGD

_GROUPS = {"filters", "whitening_bias", "biases", "head"}


class _NormKeepingMuon(Muon):
    """Muon, before each step of which every filter gets the norm sqrt(number of filters)."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Change the parameters by their gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                weight.mul_(len(weight) ** 0.5 / weight.norm())
        # __wrapped__: without what would import PyTorch's compiler
        return Muon.step.__wrapped__(self)  # type: ignore[attr-defined]


def build(
    network: nn.Module,
    batch_size: int,
    *,
    learning_rate: LearningRate,
    momentum: Momentum,
    bias_learning_rate: LearningRate,
    whitening_bias_num_epochs: Count,
    head_learning_rate: LearningRate,
    sgd_momentum: Momentum,
    weight_decay: WeightDecay,
) -> list[Optimizer]:
    """Return Muon for the filters, and SGD with Nesterov momentum and weight decay for biases and the last layer (head).

    The bias of the whitening layer is trained for `whitening_bias_num_epochs`. The learning rates of SGD are for the sum of a mini-batch's
    losses. Raises UserError if the network has other groups of parameters.
    """
    groups = parameter_groups(network)
    if groups.keys() != _GROUPS:
        raise UserError(
            f"optimizer.name is 'muon': it needs a network with the groups of parameters {', '.join(sorted(_GROUPS))}; "
            f"this recipe's has {', '.join(groups)}: choose another optimizer or network in params.yaml"
        )

    def group(name: str, learning_rate: float) -> dict[str, Any]:
        learning_rate *= batch_size  # the loss is the mean over a mini-batch
        return {"params": groups[name], "lr": learning_rate, "weight_decay": weight_decay / learning_rate}

    sgd_groups = [
        group("whitening_bias", bias_learning_rate) | {"num_epochs": whitening_bias_num_epochs},
        group("biases", bias_learning_rate),
        group("head", head_learning_rate),
    ]
    sgd = DirectSGD(sgd_groups, momentum=sgd_momentum, nesterov=sgd_momentum > 0, fused=True)
    muon = _NormKeepingMuon(groups["filters"], lr=learning_rate, momentum=momentum, weight_decay=0.0, ns_steps=3)
    return [sgd, muon]
