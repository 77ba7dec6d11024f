"""The training loop: exactly stochastic gradient descent, the same bits from the same seed, and a true history."""

import math
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from samebits import models, params
from samebits.data import normalization
from samebits.data.prepared import Split
from samebits.data.sources import shapes
from samebits.errors import UserError
from samebits.generators import derived_seed, generator
from samebits.training import history, loop
from samebits.training.history import Report

torch.set_num_threads(1)
LN_10 = math.log(10)


def settings(**changes: Any) -> params.Train:
    """Settings of a training by SGD; `learning_rate` and `momentum` are those of the optimizer."""
    sgd = {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}
    sgd |= {key: changes.pop(key) for key in ("learning_rate", "momentum") if key in changes}
    values = {"optimizer": sgd, "precision": "float32", "batch_size": 4, "num_epochs": 2}
    return params.Train.model_validate(values | {"report_every_steps": 5, "num_threads": 1} | changes)


def random_split(num_images: int, image_shape: tuple[int, int, int] = (1, 4, 4), seed: int = 0) -> Split:
    """Ten classes that the images tell nothing of, in float16 as prepare writes them."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (num_images,), generator=random)
    return Split(torch.randn(num_images, *image_shape, generator=random).half(), labels)


def build(name: str, data: Split, start: str = "pytorch") -> nn.Module:
    model = params.part("model", {"name": name, "initialization": start})
    return models.build(model, tuple(data.images.shape[1:]), 10, seed=0)


def train(
    network: nn.Module, data: Split, train: params.Train, seed: int = 0, validation: Split | None = None
) -> list[Report]:
    nothing = Split(data.images[:0], data.labels[:0])
    return loop.train(network, data, validation or nothing, train, seed, lambda report, speed: None)


def weights(network: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach()


def plain_training(
    network: nn.Module, data: Split, train: params.Train, seed: int, fused: bool = True
) -> list[list[float]]:
    """The textbook's loop; returns the loss of each mini-batch of each epoch."""
    sgd = train.optimizer.settings
    optimizer = torch.optim.SGD(network.parameters(), lr=sgd["learning_rate"], momentum=sgd["momentum"], fused=fused)
    order = generator(seed, "order")
    losses = []
    for _ in range(train.num_epochs):
        losses.append([])
        permutation = torch.randperm(len(data), generator=order).tolist()
        for start in range(0, len(data), train.batch_size):
            chosen = permutation[start : start + train.batch_size]
            loss = F.cross_entropy(network(data.images[chosen].float()), data.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    return losses


CASES = {
    "the lab, last mini-batch smaller": ("lab", random_split(50, (3, 32, 32)), settings()),
    "more images than are gathered at once": (
        "linear",
        random_split(4321),
        settings(batch_size=30, report_every_steps=1000),
    ),
    "reports between more images than are gathered at once": (
        "linear",
        random_split(4321),
        settings(batch_size=30, report_every_steps=50),
    ),
    "mini-batches larger than what is gathered at once": ("linear", random_split(4321), settings(batch_size=2100)),
    "one mini-batch larger than all": ("linear", random_split(7), settings(batch_size=50, num_epochs=5)),
    "no momentum": ("linear", random_split(100), settings(momentum=0.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_training_is_plain_stochastic_gradient_descent(name: str) -> None:
    model, data, train_settings = CASES[name]
    network, same, close = (build(model, data) for _ in range(3))
    rows = train(network, data, train_settings, seed=3)
    losses = plain_training(same, data, train_settings, seed=3)
    assert torch.equal(weights(network), weights(same))
    plain_training(close, data, train_settings, seed=3, fused=False)
    torch.testing.assert_close(weights(network), weights(close), rtol=1e-6, atol=1e-6)
    assert not torch.equal(weights(network), weights(build(model, data)))

    every, expected, step = train_settings.report_every_steps, [], 0
    for epoch, of_epoch in enumerate(losses, start=1):
        for start in range(0, len(of_epoch), every):
            window = of_epoch[start : start + every]
            step += len(window)
            mean = float(f"{math.fsum(window) / len(window):.9g}")  # as the history holds it
            expected.append(Report(step, epoch, mean))
    assert rows == expected


def test_reports_come_every_so_many_steps_and_at_the_end_of_each_epoch() -> None:
    data = random_split(50)
    seen: list[Report] = []
    speeds: list[float] = []

    def on_report(report: Report, images_per_second: float) -> None:
        seen.append(report)
        speeds.append(images_per_second)

    nothing = Split(data.images[:0], data.labels[:0])
    rows = loop.train(build("linear", data), data, nothing, settings(), 0, on_report)
    steps = [(row.epoch, row.step) for row in rows]
    assert steps == [(1, 5), (1, 10), (1, 13), (2, 18), (2, 23), (2, 26)]  # 13 mini-batches an epoch, the last of 2
    assert seen == rows
    assert all(speed > 0 for speed in speeds)


class Remembering(nn.Module):
    """A network that writes down the first pixel of each image it gets in training."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 10)
        self.seen: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += images[:, 0, 0, 0].int().tolist()
        return self.fc(images.flatten(1) / 1000)


def test_each_epoch_visits_every_image_once_in_a_new_order() -> None:
    numbers = torch.arange(101)
    network = Remembering()
    train(network, Split(numbers.half().view(-1, 1, 1, 1), numbers % 10), settings(num_epochs=3))
    epochs = [network.seen[start : start + 101] for start in (0, 101, 202)]
    assert len(network.seen) == 303
    assert all(sorted(epoch) == numbers.tolist() for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, numbers.tolist()]}) == 4


def dropping() -> nn.Module:
    """A network that behaves otherwise in training than in evaluation."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 30), nn.Dropout(0.5), nn.Linear(30, 10))


def test_measuring_validation_images_does_not_change_the_training() -> None:
    data, validation = random_split(50), random_split(30, seed=1)
    results = []
    for images in (None, validation):
        network = dropping()
        results.append((train(network, data, settings(num_epochs=3), validation=images), weights(network)))
    (without, weights_without), (with_, weights_with) = results
    assert torch.equal(weights_without, weights_with)
    assert [row.train_loss for row in without] == [row.train_loss for row in with_]
    assert all(row.validation_loss is None and row.validation_accuracy is None for row in without)


def test_validation_is_measured_at_the_ends_of_epochs_alone() -> None:
    data, validation = random_split(50), random_split(30, seed=1)
    for num_epochs in (1, 2):
        network = dropping()
        rows = train(network, data, settings(num_epochs=num_epochs), validation=validation)
        measured = [row for row in rows if row.validation_loss is not None]
        assert [row.step for row in measured] == [13, 26][:num_epochs]
        assert all((row.validation_loss is None) == (row.validation_accuracy is None) for row in rows)
        network.eval()
        logits = network(validation.images.float())
        assert rows[-1].validation_loss == pytest.approx(F.cross_entropy(logits, validation.labels).item(), rel=1e-6)
        right = int((logits.argmax(1) == validation.labels).sum())
        assert rows[-1].validation_accuracy == pytest.approx(right / 30, abs=1e-9)


def test_the_seed_decides_the_training_and_nothing_else_does() -> None:
    data = random_split(50, (3, 32, 32))
    network, again, other = (build("lab", data) for _ in range(3))
    before = torch.get_rng_state()
    rows = train(network, data, settings())
    assert torch.equal(torch.get_rng_state(), before)
    # Draws from the global generator and from another purpose's between the two.
    torch.rand(7)
    torch.randperm(50, generator=generator(0, "initialization"))
    assert train(again, data, settings()) == rows
    assert torch.equal(weights(network), weights(again))
    assert train(other, data, settings(), seed=1) != rows
    assert not torch.equal(weights(network), weights(other))


def test_every_purpose_and_seed_has_random_numbers_of_its_own() -> None:
    seeds, purposes = (0, 1, 10, 2**32 - 1), ("initialization", "order", "augmentation")
    pairs = [(seed, purpose) for seed in seeds for purpose in purposes]
    draws = {tuple(torch.randint(2**31, (4,), generator=generator(*pair)).tolist()) for pair in pairs}
    assert len(draws) == len(pairs)
    # The same in every process and on every machine: Python's own hash() would not be.
    assert derived_seed(0, "order") == 5269102818204490597
    first = generator(0, "order")
    torch.rand(5, generator=generator(0, "order"))  # another one of the same purpose does not move the first
    assert torch.equal(torch.randperm(9, generator=first), torch.randperm(9, generator=generator(0, "order")))


@pytest.mark.parametrize(("name", "learning_rate"), [("lab", 1e5), ("lab", 1e30), ("linear", 3e38)])
def test_a_training_that_diverges_stops_with_one_line(name: str, learning_rate: float) -> None:
    data, train_settings = random_split(200, (3, 32, 32)), settings(learning_rate=learning_rate)
    losses = plain_training(build(name, data), data, train_settings, seed=0)
    first = next(step for step, loss in enumerate(chain(*losses), start=1) if not math.isfinite(loss))
    with pytest.raises(UserError) as caught:
        train(build(name, data), data, train_settings)
    line = str(caught.value)
    assert "\n" not in line
    for words in (f"at step {first} ", f"learning_rate {learning_rate}", "params.yaml"):
        assert words in line


class Masked(nn.Module):
    """Logits that are minus infinity where a pixel is 0: an infinite loss, but finite gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.bias + images.flatten(1).log()


def test_a_loss_that_is_infinite_in_one_step_only_is_seen() -> None:
    data = random_split(80)
    data = Split(torch.ones(80, 1, 2, 5).half(), data.labels)
    data.images[37].view(10)[data.labels[37]] = 0
    losses = plain_training(Masked(), data, settings(num_epochs=1), seed=0)[0]
    infinite = [step for step, loss in enumerate(losses, start=1) if not math.isfinite(loss)]
    assert len(infinite) == 1 and infinite[0] % 5 not in (0, 1)  # within a window, not at either end of it
    with pytest.raises(UserError, match=f"the loss is inf at step {infinite[0]} with learning_rate 0.01"):
        train(Masked(), data, settings(num_epochs=1))


def test_history_round_trip(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0x00800000, 0x7F800000, 500, dtype=np.uint32)  # positive, finite
    losses = [*bits.view(np.float32).tolist(), 0.0, 2.302585]
    rows = [Report(step, 1 + step // 100, loss) for step, loss in enumerate(losses)]
    rows.append(Report(600, 6, 1.5, validation_loss=losses[0], validation_accuracy=0.1))
    path = tmp_path / "history.csv"
    history.write(path, rows)
    table = history.read(path)
    assert table.columns.tolist() == ["step", "epoch", "train_loss", "validation_loss", "validation_accuracy"]
    assert table["step"].tolist() == [row.step for row in rows]
    assert table["epoch"].tolist() == [row.epoch for row in rows]
    assert np.array_equal(table["train_loss"].astype(np.float32), np.array([*losses, 1.5], dtype=np.float32))
    assert table["validation_loss"].isna().tolist() == [True] * len(losses) + [False]
    assert np.float32(table["validation_loss"].iloc[-1]) == np.float32(losses[0])
    assert table["validation_accuracy"].iloc[-1] == 0.1


def test_history_is_a_plain_table(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    history.write(path, [Report(2000, 1, 2.25), Report(2500, 1, 1 / 3, 0.5, 0.8125)])
    assert path.read_bytes().decode().split("\n") == [
        "step,epoch,train_loss,validation_loss,validation_accuracy",
        "2000,1,2.25,,",
        "2500,1,0.333333333,0.5,0.8125",
        "",
    ]
    history.write(path, [Report(1, 1, 2.0)])
    assert history.read(path)["validation_accuracy"].isna().all()
    with pytest.raises(UserError, match=r"absent\.csv is not there"):
        history.read(tmp_path / "absent.csv")


LEARNING = settings(learning_rate=0.02, batch_size=20, num_epochs=3, report_every_steps=100)


@pytest.fixture(scope="module")
def pictures() -> Split:
    images, labels = shapes.draw(2000, seed=0, split="train", progress=False)
    normalized = normalization.of_images("per_channel", images).apply(images)
    return Split(torch.from_numpy(normalized), torch.from_numpy(labels))


def test_the_lab_learns_to_tell_shapes_apart(pictures: Split) -> None:
    rows = train(build("lab", pictures), pictures, LEARNING)
    assert rows[0].train_loss == pytest.approx(LN_10, abs=0.2)
    assert rows[-1].train_loss < 2.0  # 1.77 when this was written


def test_zero_initialization_never_learns(pictures: Split) -> None:
    network = build("lab", pictures, start="zero")
    rows = train(network, pictures, LEARNING.model_copy(update={"num_epochs": 1}))
    assert all(row.train_loss == pytest.approx(LN_10, abs=0.05) for row in rows)
    assert len(network(pictures.images.float()).unique(dim=0)) == 1  # the same answer to every picture
