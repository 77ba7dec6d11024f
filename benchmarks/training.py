"""One epoch of a recipe on drawn images: a side of several rows."""

import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Measure

if TYPE_CHECKING:
    from samebits.training.parallel import Team


def epoch(
    name: str,
    num_images: int,
    is_portable: bool | None = None,
    is_mapped: bool = False,
    is_start_left_out: bool = False,
    team: "Team | None" = None,
    **settings: Any,
) -> Measure:
    """Return what measures an epoch of the recipe `name`, changed by `settings`, as train runs it: seconds.

    It is portable if `is_portable`, or by default if the recipe is. With `is_start_left_out` all but the first measuring go on
    from the first moment at which the training can be resumed.
    """
    from samebits import params, portability

    recipe = params.load(Path("params.yaml")).recipes[name]
    if recipe.determinism == "portable" if is_portable is None else is_portable:
        portability.hold()  # before PyTorch is imported

    from benchmarks import drawn
    from samebits import models, runtime
    from samebits.data import prepared
    from samebits.training import loop, parallel

    once = recipe.train.model_copy(update={"num_epochs": 1} | settings)
    runtime.make_deterministic(once.num_threads)
    runtime.keep_memory()
    data = drawn.training_images(num_images)
    if is_mapped:
        with tempfile.TemporaryDirectory() as folder:
            drawn.save(data, Path(folder))
            data = prepared.read_split(Path(folder), "train")

    started: list[loop.State] = []

    def pause(_: int, state: Callable[[], loop.State]) -> None:
        if is_start_left_out and not started:
            started.append(copy.deepcopy(state()))

    def measure() -> float:
        network = models.build(recipe.model, drawn.IMAGE_SHAPE, drawn.NUM_CLASSES, 0)
        none, began = drawn.nothing(data), time.perf_counter()
        state = copy.deepcopy(started[0]) if started else None
        loop.train(network, data, none, once, 0, lambda *_: None, pause, state, team or parallel.ALONE)
        return time.perf_counter() - began

    return measure
