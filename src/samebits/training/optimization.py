"""A network's optimizers and their schedules, as one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.sgd import sgd as sgd_step

from samebits import params, parts

# PyTorch would import its compiler, which takes a second or two, only to exempt these from it.
for _method in ("add_param_group", "state_dict", "load_state_dict"):
    _plain = getattr(Optimizer, _method).__wrapped__
    setattr(_plain, "__dynamo_disable", _plain)


class DirectSGD(SGD):
    """PyTorch's SGD without what PyTorch does around a step for hooks, profilers and its compiler."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Change the parameters by their gradients."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self.state[parameter] for parameter in parameters] if group["momentum"] else []
            buffers = [state.get("momentum_buffer") for state in states]
            sgd_step(
                parameters,
                [parameter.grad for parameter in parameters],
                buffers,
                fused=True,
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=group["dampening"],
                nesterov=group["nesterov"],
                maximize=group["maximize"],
            )
            for state, buffer in zip(states, buffers, strict=True):
                state["momentum_buffer"] = buffer


class Optimization:
    """The optimizers of all of a network's parameters, and how their learning rates change.

    A group of an optimizer may hold `num_epochs`: its schedule ends after so many epochs, and its parameters are frozen from then on.
    `steps_until` maps a number of epochs to the steps that they take.
    """

    def __init__(self, train: params.Train, network: nn.Module, steps_until: Callable[[int], int]) -> None:
        build = parts.load("optimizer", train.optimizer.name)
        self._optimizers: list[Optimizer] = build(network, train.batch_size, **train.optimizer.settings)
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._steps_until, self._num_epochs = steps_until, train.num_epochs
        self._schedulers: list[LambdaLR] = []
        if train.schedule or any("num_epochs" in group for group in groups):
            self._schedulers = [self._scheduler(train, each, steps_until) for each in self._optimizers]

    @staticmethod
    def _scheduler(train: params.Train, optimizer: Optimizer, steps_until: Callable[[int], int]) -> LambdaLR:
        factor = parts.load("schedule", train.schedule.name) if train.schedule else None
        settings: dict[str, Any] = train.schedule.settings if train.schedule else {}

        def factor_of(num_epochs: int) -> Any:
            num_steps = steps_until(num_epochs)

            def at(step: int) -> float:
                if step >= num_steps:
                    return 0.0
                return factor(step, num_steps, steps_until(1), **settings) if factor else 1.0

            return at

        return LambdaLR(
            optimizer, [factor_of(group.get("num_epochs", train.num_epochs)) for group in optimizer.param_groups]
        )

    def step(self) -> None:
        """Change the parameters by their gradients, drop these, and let the learning rates follow their schedules."""
        for optimizer in self._optimizers:
            optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None
        for scheduler in self._schedulers:
            scheduler.step()
        self._freeze_finished()

    def _freeze_finished(self) -> None:
        """Compute no more gradients of the groups whose epochs are over."""
        for scheduler in self._schedulers:
            for group in scheduler.optimizer.param_groups:
                if scheduler.last_epoch >= self._steps_until(group.get("num_epochs", self._num_epochs)):
                    for parameter in group["params"]:
                        parameter.requires_grad = False

    def state_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return all that `load_state_dict` needs."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self._schedulers],
        }

    def load_state_dict(self, state: dict[str, list[dict[str, Any]]]) -> None:
        """Restore what `state_dict` returned."""
        for optimizer, values in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        for scheduler, values in zip(self._schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(values)
        self._freeze_finished()
