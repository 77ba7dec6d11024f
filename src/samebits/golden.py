"""Golden values: the first steps of each recipe on the embedded data, the same on every x86-64 processor with AVX2.

`python -m samebits.golden FILE` writes them into FILE. A change that should not change numbers must give them again.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from samebits import portability

if __name__ == "__main__":
    portability.hold()  # before PyTorch is imported

import torch

from samebits import atomic, models, params, runtime
from samebits.data import normalization
from samebits.data.prepared import Split
from samebits.data.sources import shapes
from samebits.errors import UserError, as_one_line
from samebits.training import loop

NUM_STEPS, MAX_BATCH_SIZE = 20, 100
LARGE = 1_000_000  # parameters: a network of more takes fewer steps, of fewer images
NUM_STEPS_OF_LARGE, MAX_BATCH_SIZE_OF_LARGE = 5, 10


def measure(recipe: params.Recipe, seed: int) -> dict[str, Any]:
    """Train `recipe` for 20 steps on the CPU, or for 5 if its network is large: the loss of each step, and the SHA-256 of the weights after them.

    In float32 and on one thread, as a portable result is made, and in small mini-batches: a matter of seconds.
    """
    runtime.make_deterministic(num_threads=1)
    image_shape = (3, shapes.SIDE, shapes.SIDE)
    network = models.build(recipe.model, image_shape, len(shapes.CLASS_NAMES), seed)
    is_large = sum(parameter.numel() for parameter in network.parameters()) > LARGE
    num_steps, most = (NUM_STEPS_OF_LARGE, MAX_BATCH_SIZE_OF_LARGE) if is_large else (NUM_STEPS, MAX_BATCH_SIZE)
    batch_size = min(recipe.train.batch_size, most)
    images, labels = shapes.draw(num_steps * batch_size, 0, "train", progress=False)
    tensor = torch.from_numpy(normalization.of_images("per_channel", images).apply(images))
    data = Split(tensor, torch.from_numpy(labels))
    nothing = Split(data.images[:0], data.labels[:0])
    small = {"num_epochs": 1, "report_every_steps": 1, "batch_size": batch_size, "precision": "float32"}
    settings = recipe.train.model_copy(update=small)
    history = loop.train(network, data, nothing, settings, seed, lambda *_: None)
    digest = hashlib.sha256()
    for weights in network.state_dict().values():
        digest.update(weights.numpy().tobytes())
    return {"losses": [report.train_loss for report in history], "weights_sha256": digest.hexdigest()}


def record(path: Path, settings: params.Params) -> None:
    """Write the values of every recipe into `path`. Raises UserError on a processor whose values are not those of others."""
    if not portability.is_held():
        raise UserError("golden values are recorded on an x86-64 processor with AVX2, and this is none")
    values = {name: measure(recipe, settings.seed) for name, recipe in settings.recipes.items()}
    atomic.write_text(path, json.dumps(values, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    with as_one_line():
        record(Path(sys.argv[1]), params.load(Path("params.yaml")))
