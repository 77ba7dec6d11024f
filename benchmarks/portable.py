"""What a portable result costs: the recipes held to AVX2 against all that the processor has, on one thread in float32."""

import time
from functools import partial
from pathlib import Path

from benchmarks.measure import NUM_SHORT_ROUNDS, Measure, Row, in_turn, ratio

NUM_IMAGES = {"lab": 12_000, "speed": 500}


def training(name: str, is_portable: bool) -> Measure:
    """An epoch of a recipe on drawn images, in mini-batches of at most 500."""
    from samebits import portability

    if is_portable:
        assert portability.hold()

    from benchmarks import drawn
    from samebits import models, params, runtime
    from samebits.training import loop

    recipe = params.load(Path("params.yaml")).recipes[name]
    runtime.make_deterministic(1)
    runtime.keep_memory()
    data = drawn.training_images(NUM_IMAGES[name])
    settings = {"num_epochs": 1, "precision": "float32", "batch_size": min(500, recipe.train.batch_size)}
    once = recipe.train.model_copy(update=settings)

    def measure() -> float:
        network = models.build(recipe.model, drawn.IMAGE_SHAPE, drawn.NUM_CLASSES, 0)
        began = time.perf_counter()
        loop.train(network, data, drawn.nothing(data), once, 0, lambda *_: None)
        return time.perf_counter() - began

    return measure


def rows() -> list[Row]:
    """Return the rows of portable results."""
    found = []
    for name in NUM_IMAGES:
        sides = {f"{name}, {word}": partial(training, name, word == "portable") for word in ("portable", "exact")}
        found.append(ratio(f"{name}, float32: portable / exact", "exact", *in_turn(sides, NUM_SHORT_ROUNDS).values()))
    return found
