"""Data pruning: later epochs leave out what the network has learnt, nothing twice in a row, and steps are counted so."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from samebits.params import DataPruning
from samebits.training.epochs import Epochs, Pruning
from tests.test_training import build, random_split, settings, train

PRUNING = {"first_epoch": 3, "percent": 25}


class Recording(nn.Module):
    """Notes the images that a network is trained on."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.extend(images.clone())
        return self.network(images)


def test_a_training_leaves_out_the_images_with_the_least_loss() -> None:
    data = random_split(22)
    network = Recording(build("linear", data))
    losses = F.cross_entropy(network.network(data.images.float()), data.labels, reduction="none")
    ranks = losses.argsort().tolist()
    # The network hardly changes, so its losses stay what they are; 5 of 22 images are a quarter.
    rows = train(
        network, data, settings(learning_rate=1e-12, num_epochs=5, report_every_steps=100, data_pruning=PRUNING)
    )
    seen = [int((data.images == image).flatten(1).all(1).nonzero()) for image in network.seen]
    expected = [range(22), range(22), ranks[5:], [*ranks[:5], *ranks[10:]], ranks[5:]]
    for each in expected:
        assert sorted(seen[: len(each)]) == sorted(each)
        del seen[: len(each)]
    assert seen == []
    assert [(row.epoch, row.step) for row in rows] == [(1, 6), (2, 12), (3, 17), (4, 22), (5, 27)]


def test_without_pruning_every_epoch_visits_every_image() -> None:
    epochs = Epochs(settings(), 22)
    assert [epochs.images_until(number) for number in range(4)] == [0, 22, 44, 66]
    assert [epochs.steps_until(number) for number in range(4)] == [0, 6, 12, 18]


def test_the_order_of_what_is_left_stays() -> None:
    pruning = Pruning(Epochs(settings(data_pruning=PRUNING), 8), torch.device("cpu"))
    pruning.see(torch.arange(8), torch.tensor([5.0, 1, 5, 5, 1, 5, 5, 5]))
    pruning.begin_epoch(3)
    assert pruning.visited(torch.tensor([7, 1, 0, 4, 2, 6, 3, 5]), 3).tolist() == [7, 0, 2, 6, 3, 5]


@pytest.mark.parametrize("percent", [0, 51])
def test_none_and_more_than_half_cannot_be_left_out(percent: int) -> None:
    with pytest.raises(ValueError, match="percent"):
        DataPruning(first_epoch=3, percent=percent)
