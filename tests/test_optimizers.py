"""Muon and the schedules: what each parameter's step is."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from samebits import params
from samebits.models import speed
from samebits.training import optimizers
from tests.test_models import build_speed, images
from tests.test_training import settings

MUON = {
    "bias_learning_rate": 0.05,
    "whitening_bias_num_epochs": 1,
    "head_learning_rate": 0.6,
    "momentum": 0.85,
    "weight_decay": 0.004,
}
LABELS = torch.arange(20) % 10


def muon_settings(**changes: Any) -> params.Train:
    values = {"optimizer": "muon", "learning_rate": 0.24, "momentum": 0.6, "schedule": "linear", "muon": MUON}
    return settings(**values | {"num_epochs": 4, "batch_size": 20} | changes)


def take_steps(num_steps: int, network: speed.Network, optimization: optimizers.Optimization) -> None:
    for _ in range(num_steps):
        F.cross_entropy(network(images(20)), LABELS).backward()
        optimization.step()


def values_of(network: speed.Network) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def test_muon_takes_orthogonal_steps_from_filters_of_constant_norm() -> None:
    network = build_speed()
    optimization = optimizers.build(muon_settings(), network, num_steps=8)
    before = values_of(network)
    take_steps(1, network, optimization)
    for name, after in values_of(network).items():
        if "conv" not in name:
            continue
        normalized = before[name] * len(after) ** 0.5 / before[name].norm()
        step = (normalized - after) / 0.24
        singular = torch.linalg.svdvals(step)
        # Three Newton-Schulz iterations bring what is not tiny near 1, by the coefficients' design between 0.5 and 1.3.
        assert singular.max() < 1.4 and singular.median() > 0.3, name


def test_biases_and_the_last_layer_go_by_sgd_on_the_sum_of_losses() -> None:
    network = build_speed()
    optimization = optimizers.build(muon_settings(), network, num_steps=8)
    F.cross_entropy(network(images(20)), LABELS, reduction="sum").backward()
    summed = {name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.requires_grad}
    network.zero_grad()
    before = values_of(network)
    F.cross_entropy(network(images(20)), LABELS).backward()
    optimization.step()
    after = values_of(network)
    for name, learning_rate in (("head.weight", 0.6), ("whitening.bias", 0.05), ("blocks.1.norm2.bias", 0.05)):
        step = summed[name] * learning_rate + 0.004 * before[name]
        expected = before[name] - (1 + 0.85) * step  # Nesterov's first step
        torch.testing.assert_close(after[name], expected, rtol=1e-3, atol=1e-4)


def test_learning_rates_fall_to_zero_and_finished_parameters_stand_still() -> None:
    network = build_speed()
    optimization = optimizers.build(muon_settings(), network, num_steps=8)
    take_steps(2, network, optimization)  # one epoch of four
    assert not network.whitening.bias.requires_grad and network.head.weight.requires_grad
    whitening = network.whitening.bias.detach().clone()
    take_steps(5, network, optimization)
    assert torch.equal(network.whitening.bias, whitening)
    before = values_of(network)
    take_steps(1, network, optimization)  # at an eighth of the learning rate
    last = {name: (values_of(network)[name] - before[name]).norm().item() for name in before}
    assert last["blocks.1.conv2.weight"] > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_the_direct_step_is_that_of_pytorch_to_the_bit(schedule: str) -> None:
    ours, theirs = (torch.nn.Linear(3 * 32 * 32, 10) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimization = optimizers.build(settings(learning_rate=0.1, momentum=0.9, schedule=schedule), ours, num_steps=8)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, fused=True)
    for step in range(8):
        for network in (ours, theirs):
            F.cross_entropy(network(images(20).flatten(1)), LABELS).backward()
        optimizer.param_groups[0]["lr"] = 0.1 if schedule == "constant" else 0.1 * (1 - step / 8)
        optimizer.step()
        optimizer.zero_grad()
        optimization.step()
        assert all(map(torch.equal, ours.parameters(), theirs.parameters())), step


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_a_linear_schedule_scales_plain_sgd(schedule: str) -> None:
    weight = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(weight.weight)
    optimization = optimizers.build(settings(learning_rate=1.0, momentum=0.0, schedule=schedule), weight, num_steps=4)
    places = []
    for _ in range(4):
        weight(torch.ones(1, 1)).sum().backward()  # a gradient of 1
        optimization.step()
        places.append(-weight.weight.item())
    assert places == ([1.0, 2.0, 3.0, 4.0] if schedule == "constant" else [1.0, 1.75, 2.25, 2.5])
