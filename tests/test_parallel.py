"""Shards and processes: the same bits on any number of processes, and what the shards are in figures."""

import hashlib
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.multiprocessing import start_processes

from samebits import models, params
from samebits.data.prepared import Split
from samebits.models import speed
from samebits.training import loop, parallel
from tests.example_parts import RECIPES
from tests.test_training import random_split

torch.set_num_threads(1)
NUM_IMAGES, BATCH_SIZE, NUM_SHARDS = 20, 16, 8  # the second mini-batch has four images, so four of its shards are empty
IMAGE_SHAPE = (3, 16, 16)


def recipe(name: str) -> params.Recipe:
    """Return a recipe in little: 8 shards, two epochs, float32, a narrow ResNet."""
    chosen = RECIPES[name]
    small = {"num_shards": NUM_SHARDS, "batch_size": BATCH_SIZE, "num_epochs": 2, "report_every_steps": 3}
    train = chosen.train.model_copy(update=small | {"num_threads": 1, "precision": "float32"})
    model = params.part("model", {"name": "resnet", "width": 8}) if name == "resnet" else chosen.model
    return chosen.model_copy(update={"train": train, "model": model})


def images(num_images: int = NUM_IMAGES) -> Split:
    return random_split(num_images, IMAGE_SHAPE)


def digest(network: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def train(name: str, team: parallel.Team = parallel.ALONE, on_pause=None, state=None) -> tuple[str, list]:
    """Train a recipe in little; return the digest of the network, and the history."""
    data, chosen = images(), recipe(name)
    network = models.build(chosen.model, IMAGE_SHAPE, 10, seed=0)
    nothing = Split(data.images[:0], data.labels[:0])
    rows = loop.train(network, data, nothing, chosen.train, 0, lambda *_: None, on_pause, state, team)
    return digest(network), rows


def work(rank: int, size: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
    store = distributed.FileStore(str(folder / "store"), size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(minutes=2))
    torch.save(function(*arguments, parallel.Team(rank, size)), folder / str(rank))
    distributed.barrier()


def in_processes(size: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what `function(*arguments, team)` returns in each of `size` processes."""
    folder.mkdir()
    start_processes(work, (size, folder, function, *arguments), size, start_method="fork")
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(size)]


@pytest.mark.parametrize("name", ["lab", "speed", "resnet"])
def test_the_bits_are_the_same_on_any_number_of_processes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_WIDTHS", (8, 16, 16))
    expected = train(name)
    for size in (2, 4, 8):
        assert in_processes(size, tmp_path / str(size), train, name) == [expected] * size
