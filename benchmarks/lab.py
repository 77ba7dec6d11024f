"""The lab recipe against the lab's own script, on the same drawn images: one epoch of 20,000."""

import time
from pathlib import Path

from benchmarks import drawn, lab_script
from benchmarks.measure import NUM_SHORT_ROUNDS, Measure, Row, in_turn, ratio
from samebits import models, params, runtime
from samebits.training import loop

NUM_IMAGES = 20_000


def script() -> Measure:
    """The lab's own training loop: DataLoader with 2 workers, mini-batches of 4, running loss."""
    return lab_script.measuring("train", NUM_IMAGES)


def recipe() -> Measure:
    """The recipe as train runs it."""
    return _recipe(NUM_IMAGES)


def few_images() -> Measure:
    """A quarter of the images."""
    return _recipe(NUM_IMAGES // 4)


def half_of_the_images() -> Measure:
    """Half of the images."""
    return _recipe(NUM_IMAGES // 2)


def _recipe(num_images: int) -> Measure:
    chosen = params.load(Path("params.yaml")).recipes["lab"]
    runtime.make_deterministic(chosen.train.num_threads)
    runtime.keep_memory()
    data = drawn.training_images(num_images)
    once = chosen.train.model_copy(update={"num_epochs": 1})

    def measure() -> float:
        network = models.build(chosen.model, drawn.IMAGE_SHAPE, drawn.NUM_CLASSES, 0)
        began = time.perf_counter()
        loop.train(network, data, drawn.nothing(data), once, 0, lambda *_: None)
        return time.perf_counter() - began

    return measure


def rows() -> list[Row]:
    """Return the rows of the lab."""
    seconds = in_turn({"the lab's script": script, "the lab recipe": recipe})
    sides = {"images x 1": few_images, "images x 2": half_of_the_images, "images x 4": recipe}
    scaled = in_turn(sides, NUM_SHORT_ROUNDS)
    return [
        ratio("the lab's script / lab recipe, 20,000 images", "recipe", *seconds.values()),
        ratio("lab: 2 x the images", "1 x", scaled["images x 2"], scaled["images x 1"]),
        ratio("lab: 4 x the images", "1 x", scaled["images x 4"], scaled["images x 1"]),
    ]
