"""One epoch of a recipe on drawn images: a side of several rows."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Measure

if TYPE_CHECKING:
    from samebits.training.parallel import Team


def epoch(
    name: str,
    num_images: int,
    is_portable: bool = False,
    is_mapped: bool = False,
    team: "Team | None" = None,
    **settings: Any,
) -> Measure:
    """Return what measures an epoch of the recipe `name`, changed by `settings`, as train runs it: seconds."""
    from samebits import portability

    if is_portable:  # before PyTorch is imported
        assert portability.hold()

    from benchmarks import drawn
    from samebits import models, params, runtime
    from samebits.data import prepared
    from samebits.training import loop, parallel

    recipe = params.load(Path("params.yaml")).recipes[name]
    once = recipe.train.model_copy(update={"num_epochs": 1} | settings)
    runtime.make_deterministic(once.num_threads)
    runtime.keep_memory()
    data = drawn.training_images(num_images)
    if is_mapped:
        with tempfile.TemporaryDirectory() as folder:
            drawn.save(data, Path(folder))
            data = prepared.read_split(Path(folder), "train")

    def measure() -> float:
        network = models.build(recipe.model, drawn.IMAGE_SHAPE, drawn.NUM_CLASSES, 0)
        began = time.perf_counter()
        loop.train(network, data, drawn.nothing(data), once, 0, lambda *_: None, team=team or parallel.ALONE)
        return time.perf_counter() - began

    return measure
