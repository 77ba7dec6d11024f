"""Optimizers and schedules: what each parameter's step is."""

import io
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from samebits import params, parts
from samebits.errors import UserError
from samebits.models import speed
from samebits.training.optimization import Optimization
from samebits.training.schedules import cosine, linear
from tests.conftest import NARROW
from tests.example_parts import used, variants
from tests.test_models import build_speed, images
from tests.test_training import settings

MUON = {
    "name": "muon",
    "learning_rate": 0.24,
    "momentum": 0.6,
    "bias_learning_rate": 0.05,
    "whitening_bias_num_epochs": 1,
    "head_learning_rate": 0.6,
    "sgd_momentum": 0.85,
    "weight_decay": 0.004,
}
LINEAR = {"name": "linear"}
LABELS = torch.arange(20) % 10


def muon_settings(**changes: Any) -> params.Train:
    return settings(**{"optimizer": MUON, "schedule": LINEAR, "num_epochs": 4, "batch_size": 20} | changes)


def take_steps(num_steps: int, network: speed.Network, optimization: Optimization) -> None:
    for _ in range(num_steps):
        F.cross_entropy(network(images(20)), LABELS).backward()
        optimization.step()


def values_of(network: speed.Network) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def through_disk(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def test_muon_takes_orthogonal_steps_from_filters_of_constant_norm() -> None:
    network = build_speed()
    optimization = Optimization(muon_settings(), network, steps_until=(2).__mul__)
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
    network = build_speed(**NARROW["speed"])
    optimization = Optimization(muon_settings(), network, steps_until=(2).__mul__)
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
    network = build_speed(**NARROW["speed"])
    optimization = Optimization(muon_settings(), network, steps_until=(2).__mul__)
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


def test_a_schedule_may_end_early_and_a_frozen_layer_stays_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "factor", lambda step, num_steps, *_: max(0.0, 1 - 2 * step / num_steps))
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 10))
    network[0].weight.requires_grad = False
    frozen = network[0].weight.clone()
    optimization = Optimization(settings(schedule=LINEAR, num_epochs=1), network, steps_until=(8).__mul__)
    for _ in range(8):
        network(torch.ones(1, 4)).sum().backward()  # in the second half at a learning rate of 0
        optimization.step()
    assert torch.equal(network[0].weight, frozen) and not network[1].weight.requires_grad


@pytest.mark.parametrize("schedule", [None, LINEAR])
def test_the_direct_step_is_that_of_pytorch_to_the_bit(schedule: dict | None) -> None:
    ours, theirs = (torch.nn.Linear(3 * 32 * 32, 10) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimization = Optimization(
        settings(learning_rate=0.1, momentum=0.9, schedule=schedule, num_epochs=1), ours, steps_until=(8).__mul__
    )
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, fused=True)
    for step in range(8):
        for network in (ours, theirs):
            F.cross_entropy(network(images(20).flatten(1)), LABELS).backward()
        optimizer.param_groups[0]["lr"] = 0.1 if schedule is None else 0.1 * (1 - step / 8)
        optimizer.step()
        optimizer.zero_grad()
        optimization.step()
        assert all(map(torch.equal, ours.parameters(), theirs.parameters())), step


@pytest.mark.parametrize("schedule", [None, LINEAR])
def test_a_linear_schedule_scales_plain_sgd(schedule: dict | None) -> None:
    weight = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(weight.weight)
    optimization = Optimization(
        settings(learning_rate=1.0, momentum=0.0, schedule=schedule, num_epochs=2), weight, steps_until=(2).__mul__
    )
    places = []
    for _ in range(4):
        weight(torch.ones(1, 1)).sum().backward()  # a gradient of 1
        optimization.step()
        places.append(-weight.weight.item())
    assert places == ([1.0, 2.0, 3.0, 4.0] if schedule is None else [1.0, 1.75, 2.25, 2.5])


def test_muon_names_what_a_network_lacks() -> None:
    with pytest.raises(
        UserError, match=r"^optimizer\.name is 'muon': .*biases, filters, head, whitening_bias.* has all"
    ):
        Optimization(muon_settings(), torch.nn.Linear(2, 2), steps_until=(1).__mul__)


def test_adamw_is_that_of_pytorch_and_spares_biases() -> None:
    ours, theirs = (torch.nn.Linear(3 * 32 * 32, 10) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    adamw = {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.5}
    optimization = Optimization(settings(optimizer=adamw), ours, steps_until=(8).__mul__)
    groups = [{"params": [theirs.weight], "weight_decay": 0.5}, {"params": [theirs.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, fused=True)
    for _ in range(5):
        for network in (ours, theirs):
            F.cross_entropy(network(images(20).flatten(1)), LABELS).backward()
        optimizer.step()
        optimizer.zero_grad()
        optimization.step()
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_the_cosine_warms_up_and_ends_at_zero() -> None:
    factors = [cosine.factor(step, 40, 10, warmup_num_epochs=1) for step in range(40)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10] == 1 and factors[25] == pytest.approx(0.5)
    assert all(one > other for one, other in pairwise(factors[10:])) and factors[-1] == pytest.approx(0, abs=0.01)
    assert [cosine.factor(step, 40, 10) for step in (0, 20)] == [1, pytest.approx(0.5)]
    ends = {"name": "cosine", "warmup_num_epochs": 2}
    weight = torch.nn.Linear(1, 1)
    optimization = Optimization(
        settings(schedule=ends, num_epochs=2), weight, steps_until=(3).__mul__
    )  # nothing but warm-up
    for _ in range(6):
        weight(torch.ones(1, 1)).sum().backward()
        optimization.step()
    assert not weight.weight.requires_grad


@pytest.mark.parametrize("name", parts.names("optimizer"))
def test_every_optimizer_learns_and_resumes(name: str) -> None:
    """One suite for all: it lowers the loss, and goes on with the same bits."""
    train = settings(optimizer=used("optimizer", name), batch_size=20, num_epochs=4)

    def losses(network: torch.nn.Module, optimization: Optimization, num_steps: int) -> list[float]:
        found = []
        for _ in range(num_steps):
            loss = F.cross_entropy(network(images(20)), LABELS)
            loss.backward()
            optimization.step()
            found.append(loss.item())
        return found

    network = build_speed(**NARROW["speed"])
    optimization = Optimization(train, network, steps_until=(8).__mul__)
    first = losses(network, optimization, 2)
    states = through_disk({"network": network.state_dict(), "optimization": optimization.state_dict()})
    rest = losses(network, optimization, 2)
    assert rest[-1] < first[0]
    other = build_speed(**NARROW["speed"])
    other.load_state_dict(states["network"])
    resumed = Optimization(train, other, steps_until=(8).__mul__)
    resumed.load_state_dict(states["optimization"])
    assert losses(other, resumed, 2) == rest


@pytest.mark.parametrize(
    "section", [each for name in parts.names("schedule") for each in variants("schedule", name)], ids=str
)
def test_every_schedule(section: dict[str, Any]) -> None:
    """One suite for all: shares of the learning rate between 0 and 1, the same for the same step."""
    factor, values = (
        parts.load("schedule", section["name"]),
        {key: each for key, each in section.items() if key != "name"},
    )
    shares = [factor(step, 100, 10, **values) for step in range(100)]
    assert all(0 <= share <= 1 for share in shares) and max(shares) > 0
    assert [factor(step, 100, 10, **values) for step in range(100)] == shares
