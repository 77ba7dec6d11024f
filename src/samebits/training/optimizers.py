"""Optimizers, by the name that train.optimizer gives, with their learning rates' schedules."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.sgd import sgd as sgd_step

from samebits import params
from samebits.models import speed

Schedule = Callable[[int], float]  # from the number of steps so far to the share of the learning rate


class Optimization:
    """The optimizers of all of a network's parameters, and how their learning rates fall."""

    def __init__(self, optimizers: list[Optimizer], schedulers: list[LambdaLR], filters: list[torch.Tensor]) -> None:
        self._optimizers = optimizers
        self._schedulers = schedulers
        self._filters = filters  # whose norm stays constant
        self._parameters = [
            each for optimizer in optimizers for group in optimizer.param_groups for each in group["params"]
        ]

    def step(self) -> None:
        """Change the parameters by their gradients, let go of these, and let the learning rates fall."""
        with torch.no_grad():
            for weight in self._filters:
                weight.mul_(len(weight) ** 0.5 / weight.norm())
            for optimizer in self._optimizers:
                if isinstance(optimizer, SGD) and optimizer.state:
                    _step_directly(optimizer)
                else:
                    optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None
        for scheduler in self._schedulers:
            scheduler.step()
        self._spare_gradients()

    def _spare_gradients(self) -> None:
        """Compute no gradients of parameters whose learning rate has come down to 0."""
        for scheduler in self._schedulers:
            for group in scheduler.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.requires_grad = group["lr"] > 0

    def state_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return all that `load_state_dict` needs."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self._schedulers],
        }

    def load_state_dict(self, state: dict[str, list[dict[str, Any]]]) -> None:
        """Go back to where `state_dict` was."""
        for optimizer, values in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        for scheduler, values in zip(self._schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(values)
        self._spare_gradients()


def _step_directly(optimizer: SGD) -> None:
    """Take the step of an optimizer that has momentum by now, without what PyTorch does around it for hooks and profilers."""
    for group in optimizer.param_groups:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        sgd_step(
            parameters,
            [parameter.grad for parameter in parameters],
            [optimizer.state[parameter]["momentum_buffer"] for parameter in parameters],
            fused=True,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )


def build(train: params.Train, network: nn.Module, num_steps: int) -> Optimization:
    """Build the optimization of `network` for `num_steps` steps.

    sgd: stochastic gradient descent with momentum. muon: the filters' momentum is orthogonalized (Jordan et al. 2024,
    kellerjordan.github.io/posts/muon) and their norm kept; biases and the last layer go by SGD with Nesterov momentum.
    """
    if train.muon is not None:
        assert isinstance(network, speed.Network)
        return _muon(train, train.muon, network, num_steps)
    # fused: one pass over all parameters instead of several for each
    sgd = SGD(network.parameters(), lr=train.learning_rate, momentum=train.momentum, fused=True)
    return Optimization([sgd], [] if train.schedule == "constant" else [LambdaLR(sgd, _linear(num_steps))], [])


def _muon(train: params.Train, rest: params.Muon, network: speed.Network, num_steps: int) -> Optimization:
    schedule = _constant if train.schedule == "constant" else _linear(num_steps)
    whitening_schedule = _linear(max(1, num_steps * rest.whitening_bias_num_epochs // train.num_epochs))
    filters: list[torch.Tensor] = [part.weight for part in network.modules() if isinstance(part, speed.Convolution)]
    biases: list[torch.Tensor] = [part.bias for part in network.modules() if isinstance(part, nn.BatchNorm2d)]

    def group(parameters: list[torch.Tensor], learning_rate: float) -> dict[str, Any]:
        # The loss is the mean over a mini-batch; these learning rates are for its sum.
        learning_rate *= train.batch_size
        return {"params": parameters, "lr": learning_rate, "weight_decay": rest.weight_decay / learning_rate}

    assert network.whitening.bias is not None
    groups = [
        group([network.whitening.bias], rest.bias_learning_rate),
        group(biases, rest.bias_learning_rate),
        group([network.head.weight], rest.head_learning_rate),
    ]
    sgd = SGD(groups, momentum=rest.momentum, nesterov=rest.momentum > 0, fused=True)
    muon = Muon(filters, lr=train.learning_rate, momentum=train.momentum, weight_decay=0.0, ns_steps=3)
    schedulers = [LambdaLR(sgd, [whitening_schedule, schedule, schedule]), LambdaLR(muon, schedule)]
    return Optimization([sgd, muon], schedulers, filters)


def _constant(step: int) -> float:
    return 1.0


def _linear(num_steps: int) -> Schedule:
    """Fall from 1 at the first step to 0 after `num_steps`."""
    return lambda step: max(0.0, 1 - step / num_steps)
