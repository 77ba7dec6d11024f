"""The recipes for 94 % against a plain loop and against the machine's own matrix rate, on drawn images."""

import statistics
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks import drawn
from benchmarks.measure import Measure, Row, in_turn, ratio
from benchmarks.together import in_processes
from samebits import models, params, processes, runtime
from samebits.training import loop, parallel
from samebits.training.epochs import Epochs

NUM_IMAGES = 4_000  # in each epoch
NUM_IMAGES_OF_CIFAR10 = 50_000
YARDSTICK_FLOP = 0.29e15  # 8 epochs of this network at 32 x 32 pixels, forward and backward
NUM_CORES = processes.num_cores()


def plain(dtype: torch.dtype) -> Measure:
    """The same network in a plain loop: threads, autocast, PyTorch's own memory and SGD, no resizing; images a second."""
    recipe = params.load(Path("params.yaml")).recipes["speed"]
    torch.set_num_threads(NUM_CORES)
    num_images = recipe.train.batch_size // 2
    network = models.build(recipe.model, (3, 32, 32), 10, 0)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.001, momentum=0.9)
    images, labels = torch.randn(num_images, 3, 32, 32), torch.arange(num_images) % 10

    def measure() -> float:
        began = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(network(images), labels, label_smoothing=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return num_images / (time.perf_counter() - began)

    return measure


def recipe(name: str, is_full_size: bool, team: parallel.Team) -> Measure:
    """All epochs of a recipe as train runs them, augmentation and all, of NUM_IMAGES images: images a second.

    They are those of CIFAR-10 in small: smaller images, learnt images left out, a whitening bias that is no longer trained.
    With `is_full_size` it is one epoch without the first three.
    """
    settings = params.load(Path("params.yaml")).recipes[name]
    train = settings.train
    runtime.make_deterministic(train.num_threads)
    runtime.keep_memory()
    data = drawn.training_images(NUM_IMAGES)
    if is_full_size:
        augmentation = [each for each in train.augmentation if each.name != "resize"]
        train = train.model_copy(update={"num_epochs": 1, "augmentation": augmentation, "data_pruning": None})

    def measure() -> float:
        network = models.build(settings.model, drawn.IMAGE_SHAPE, drawn.NUM_CLASSES, 0)
        rates: list[float] = []  # since the first step
        loop.train(network, data, drawn.nothing(data), train, 0, lambda _, rate: rates.append(rate), team=team)
        return rates[-1]

    return measure


def matrix_product() -> Measure:
    """The machine's bfloat16 matrix rate, 4096 cubed, median of 5: operations a second."""
    torch.set_num_threads(NUM_CORES)
    one, other = (torch.randn(4096, 4096).bfloat16() for _ in range(2))

    def measure() -> float:
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            one @ other
            seconds.append(time.perf_counter() - began)
        return 2 * 4096**3 / statistics.median(seconds)

    return measure


def rows() -> list[Row]:
    """Return the rows of the recipes for 94 %."""
    recipes = params.load(Path("params.yaml")).recipes
    number = parallel.num_computing(NUM_CORES, recipes["speed"].train.num_shards)
    rates = in_turn(
        {
            "matrix": matrix_product,
            "speed": partial(in_processes, number, partial(recipe, "speed", False)),
            "sprint": partial(in_processes, number, partial(recipe, "sprint", False)),
            "full": partial(in_processes, number, partial(recipe, "speed", True)),
            "plain float32": partial(plain, torch.float32),
            "plain bfloat16": partial(plain, torch.bfloat16),
            "matrix again": matrix_product,
        }
    )
    matrix = [(before + after) / 2 for before, after in zip(rates["matrix"], rates["matrix again"], strict=True)]
    yardstick = [YARDSTICK_FLOP / rate for rate in matrix]

    def seconds(name: str) -> list[float]:
        train = recipes[name].train
        num_images = Epochs(train, NUM_IMAGES_OF_CIFAR10).images_until(train.num_epochs)
        return [num_images / rate for rate in rates[name]]

    return [
        *(
            ratio(
                f"{name}, {recipes[name].train.num_epochs} epochs of 50,000 / 0.29 PFLOP at the matrix rate",
                "matrix",
                seconds(name),
                yardstick,
            )
            for name in ("speed", "sprint")
        ),
        ratio(
            "speed at 32 pixels / a plain loop in float32", "plain", rates["full"], rates["plain float32"], "images/s"
        ),
        ratio(
            "speed at 32 pixels / a plain loop in bfloat16", "plain", rates["full"], rates["plain bfloat16"], "images/s"
        ),
        ratio("speed, mean of its epochs / the same", "plain", rates["speed"], rates["plain bfloat16"], "images/s"),
    ]
