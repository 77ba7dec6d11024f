"""What resume points cost the lab's training."""

import os
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks import drawn
from benchmarks.measure import NUM_SHORT_ROUNDS, Measure, Row, in_turn, ratio
from samebits import models, params, runtime
from samebits.training import loop, resume

NUM_IMAGES = 16_000


def training(every_seconds: float | None) -> Measure:
    """An epoch of 16,000 drawn images with a point every so many seconds, or without: seconds of the processor.

    Of the processor, for another program on the machine changes those less.
    """
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
    """Return the rows of the resume points."""
    usual = params.load(Path("params.yaml")).checkpoint_every_seconds
    sides = {"usual": partial(training, usual), "often": partial(training, 1.0), "none": partial(training, None)}
    seconds = in_turn(sides, NUM_SHORT_ROUNDS)
    return [
        ratio(f"lab: a resume point every {usual:g} s / none", "none", seconds["usual"], seconds["none"]),
        ratio("lab: a resume point every second / none", "none", seconds["often"], seconds["none"]),
    ]
