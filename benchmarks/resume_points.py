"""What resume points cost the lab's training."""

import os
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.measure import NUM_SHORT_ROUNDS, Measure, Row, in_turn, ratio

NUM_IMAGES = 16_000


def training(every_seconds: float | None) -> Measure:
    """An epoch of 16,000 drawn images with a point every so many seconds, or without: seconds of the processor.

    Of the processor, for another program on the machine changes those less.
    """
    from samebits import portability

    portability.hold()  # before PyTorch is imported

    from benchmarks import drawn
    from samebits import models, params, runtime
    from samebits.training import loop, resume

    recipe = params.load(Path("params.yaml")).recipes["lab"]
    runtime.make_deterministic(recipe.train.num_threads)
    data = drawn.training_images(NUM_IMAGES)
    once = recipe.train.model_copy(update={"num_epochs": 1})

    def measure() -> float:
        network = models.build(recipe.model, drawn.IMAGE_SHAPE, drawn.NUM_CLASSES, 0)
        with tempfile.TemporaryDirectory(dir=".") as folder:
            points = resume.ResumePoints(Path(folder), "benchmark", every_seconds or 0.0, os.getpid())
            Path(folder, "benchmark").mkdir()

            def pause(step, state):
                if points.is_due():
                    points.save(step, state())

            began = time.process_time()
            loop.train(network, data, drawn.nothing(data), once, 0, lambda *_: None, pause if every_seconds else None)
            return time.process_time() - began

    return measure


def rows() -> list[Row]:
    """Return the row of the resume points: one every second, not every 30, so that a short training saves some."""
    sides = {"every second": partial(training, 1.0), "none": partial(training, None)}
    return [ratio("lab: a resume point every second / none", "none", *in_turn(sides, NUM_SHORT_ROUNDS).values())]
