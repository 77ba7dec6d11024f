"""The speed recipe against plain PyTorch and against the machine's own matrix rate, on drawn images."""

import statistics
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks import drawn
from benchmarks.measure import NUM_ROUNDS, Measure, Row, in_turn, ratio
from samebits import models, params, runtime
from samebits.data.prepared import Split
from samebits.training import loop

NUM_STEPS = 3  # of which the first warms up
YARDSTICK_FLOP = 0.29e15  # 8 epochs of this network at 32 x 32 pixels, forward and backward


def plain(dtype: torch.dtype) -> Measure:
    """The same network in a plain loop: channels first, PyTorch's own memory, no resizing; images a second."""
    recipe = params.load(Path("params.yaml")).recipes["speed"]
    torch.set_num_threads(recipe.train.num_threads)
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


def recipe(is_small: bool, is_whitening_trained: bool, num_threads: int | None = None) -> Measure:
    """A step of the recipe as train runs it: images a second, augmentation and all."""
    chosen = params.load(Path("params.yaml")).recipes["speed"]
    runtime.make_deterministic(num_threads or chosen.train.num_threads)
    runtime.keep_memory()
    data = drawn.training_images(NUM_STEPS * chosen.train.batch_size)
    # A linear schedule that ends with the first step, or not here: with it, or without, the whitening bias is trained.
    muon = chosen.train.optimizer.model_copy(update={"whitening_bias_num_epochs": 1000 if is_whitening_trained else 1})
    # Smaller images in every epoch, or in none.
    augmentation = [
        each.model_copy(update={"sides": [*each.settings["sides"], *[24] * NUM_STEPS]})
        if each.name == "resize"
        else each
        for each in chosen.train.augmentation
        if is_small or each.name != "resize"
    ]
    num_epochs = 1 if is_whitening_trained else NUM_STEPS
    settings = chosen.train.model_copy(
        update={"num_epochs": num_epochs, "optimizer": muon, "augmentation": augmentation}
    )
    if not is_whitening_trained:
        data = Split(data.images[: settings.batch_size], data.labels[: settings.batch_size])

    def measure() -> float:
        network = models.build(chosen.model, drawn.IMAGE_SHAPE, drawn.NUM_CLASSES, 0)
        moments = []
        none = drawn.nothing(data)
        loop.train(network, data, none, settings, 0, lambda *_: None, lambda *_: moments.append(time.perf_counter()))
        seconds = [after - before for before, after in pairwise(moments)]
        return settings.batch_size / statistics.mean(seconds)

    return measure


def matrix_product() -> Measure:
    """The machine's bfloat16 matrix rate, 4096 cubed, median of 5: operations a second."""
    torch.set_num_threads(params.load(Path("params.yaml")).recipes["speed"].train.num_threads)
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
    """Return the rows of the speed recipe."""
    train = params.load(Path("params.yaml")).recipes["speed"].train
    rates = in_turn(
        {
            "matrix": matrix_product,
            "small, whitening trained": partial(recipe, True, True),
            "small": partial(recipe, True, False),
            "full": partial(recipe, False, False),
            "one thread": partial(recipe, False, False, 1),
            "plain float32": partial(plain, torch.float32),
            "plain bfloat16": partial(plain, torch.bfloat16),
            "matrix again": matrix_product,
        }
    )
    (resize,) = (each for each in train.augmentation if each.name == "resize")
    num_small = len(resize.settings["sides"])
    num_trained = train.optimizer.settings["whitening_bias_num_epochs"]
    assert num_trained <= num_small
    epochs = {"small, whitening trained": num_trained, "small": num_small - num_trained}
    epochs["full"] = train.num_epochs - num_small
    seconds = [sum(50_000 * count / rates[kind][turn] for kind, count in epochs.items()) for turn in range(NUM_ROUNDS)]
    matrix = [(before + after) / 2 for before, after in zip(rates["matrix"], rates["matrix again"], strict=True)]
    yardstick = [YARDSTICK_FLOP / rate for rate in matrix]
    whole = [train.num_epochs * 50_000 / each for each in seconds]
    return [
        ratio("speed recipe, 10 epochs of 50,000 / 0.29 PFLOP at the matrix rate", "matrix", seconds, yardstick),
        ratio("speed at 32 pixels / plain float32", "plain", rates["full"], rates["plain float32"], "images/s"),
        ratio("speed at 32 pixels / plain bfloat16", "plain", rates["full"], rates["plain bfloat16"], "images/s"),
        ratio("speed, mean of the recipe / plain bfloat16", "plain", whole, rates["plain bfloat16"], "images/s"),
        ratio("speed at 32 pixels: 2 threads / 1", "1 thread", rates["full"], rates["one thread"], "images/s"),
    ]
