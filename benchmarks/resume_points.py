"""What resume points cost: the lab's training with and without them, in turn, in one run.

    python benchmarks/resume_points.py

Prints, for two intervals, the ratio of the processor time with points to that without: median, least and most of the pairs.
Processor time, for another program on the machine changes it less; the wait for the disk is printed by itself.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

from samebits import models, params, runtime
from samebits.data import normalization, shapes
from samebits.data.prepared import Split
from samebits.training import loop, resume

NUM_PAIRS = 7
NUM_IMAGES = 16_000


def main() -> None:
    settings = params.load(Path("params.yaml"))
    recipe = settings.recipes["lab"]
    runtime.make_deterministic(recipe.train.num_threads)
    images, labels = shapes.draw(NUM_IMAGES, 0, "train")
    tensor = torch.from_numpy(normalization.of_images("per_channel", images).apply(images))
    data = Split(tensor, torch.from_numpy(labels))
    nothing = Split(data.images[:0], data.labels[:0])
    once = recipe.train.model_copy(update={"num_epochs": 1})

    def train(every_seconds: float | None) -> tuple[float, float, int]:
        """Train once; give processor seconds, seconds spent on saving, and the number of points."""
        network = models.build(recipe.model, (3, 32, 32), len(shapes.CLASS_NAMES), 0)
        saving: list[float] = []
        with tempfile.TemporaryDirectory(dir=".") as folder:
            points = resume.ResumePoints(Path(folder), "benchmark", every_seconds or 0.0)

            def pause(step, state):
                if points.is_due():
                    began = time.perf_counter()
                    points.save(step, {"training": state(), "run_id": None})
                    saving.append(time.perf_counter() - began)

            began = time.process_time()
            loop.train(network, data, nothing, once, 0, lambda *_: None, pause if every_seconds else None)
            return time.process_time() - began, sum(saving), len(saving)

    train(None)
    for every_seconds in (settings.checkpoint_every_seconds, 1.0):
        ratios, waits, counts = [], [], []
        for _ in range(NUM_PAIRS):
            without, _, _ = train(None)
            with_points, wait, count = train(every_seconds)
            ratios.append(with_points / without)
            waits.append(wait / max(count, 1))
            counts.append(count)
        print(
            f"a point every {every_seconds:g} s: processor time x {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}, {NUM_PAIRS} pairs), {statistics.mean(counts):.1f} points a training, "
            f"{1000 * statistics.mean(waits):.1f} ms each"
        )


if __name__ == "__main__":
    main()
