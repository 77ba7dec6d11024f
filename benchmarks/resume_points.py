"""What resume points cost the lab's training."""

import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.measure import Measure, Row, in_turn, ratio
from samebits import models, params, runtime
from samebits.data import normalization, shapes
from samebits.data.prepared import Split
from samebits.training import loop, resume

NUM_IMAGES = 16_000


def training(every_seconds: float | None) -> Measure:
    """An epoch of 16,000 drawn images with a point every so many seconds, or without: seconds of the processor.

    Of the processor, for another program on the machine changes those less.
    """
    recipe = params.load(Path("params.yaml")).recipes["lab"]
    runtime.make_deterministic(recipe.train.num_threads)
    images, labels = shapes.draw(NUM_IMAGES, 0, "train", progress=False)
    tensor = torch.from_numpy(normalization.of_images("per_channel", images).apply(images))
    data = Split(tensor, torch.from_numpy(labels))
    once = recipe.train.model_copy(update={"num_epochs": 1})

    def measure() -> float:
        network = models.build(recipe.model, (3, 32, 32), len(shapes.CLASS_NAMES), 0)
        with tempfile.TemporaryDirectory(dir=".") as folder:
            points = resume.ResumePoints(Path(folder), "benchmark", every_seconds or 0.0)
            Path(folder, "benchmark").mkdir()

            def pause(step, state):
                if points.is_due():
                    points.save(step, {"training": state(), "run_id": None})

            nothing = Split(data.images[:0], data.labels[:0])
            began = time.process_time()
            loop.train(network, data, nothing, once, 0, lambda *_: None, pause if every_seconds else None)
            return time.process_time() - began

    return measure


def rows() -> list[Row]:
    """Give the rows of the resume points."""
    usual = params.load(Path("params.yaml")).checkpoint_every_seconds
    sides = {"usual": partial(training, usual), "often": partial(training, 1.0), "none": partial(training, None)}
    seconds = in_turn(sides, num_rounds=5)
    return [
        ratio(f"lab: a resume point every {usual:g} s / none", "none", seconds["usual"], seconds["none"]),
        ratio("lab: a resume point every second / none", "none", seconds["often"], seconds["none"]),
    ]
