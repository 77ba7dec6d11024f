"""How many operations a training on CIFAR-10 takes: those of every convolution and matrix product, forward and backward.

    python -m benchmarks.operations [RECIPE ...]

They are counted as they run, by PyTorch, on a few drawn images in each epoch: as many for each image and as many for each
step as two sizes of mini-batch tell. A multiply-add is two operations, as in the public records of 94 %.
"""

import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import drawn
from samebits import models, params, runtime
from samebits.training import loop
from samebits.training.epochs import Epochs

NUM_IMAGES = 50_000
SIZES = (8, 16)  # of a mini-batch that is counted


def of_steps(recipe: params.Recipe, batch_size: int) -> list[int]:
    """Return the operations of one step in each epoch."""
    settings = recipe.train.model_copy(update={"batch_size": batch_size, "data_pruning": None})
    data = drawn.training_images(batch_size)
    network = models.build(recipe.model, drawn.IMAGE_SHAPE, drawn.NUM_CLASSES, 0)
    until: list[int] = []
    with FlopCounterMode(display=False) as counter:
        loop.train(
            network,
            data,
            drawn.nothing(data),
            settings,
            0,
            lambda *_: None,
            lambda *_: until.append(counter.get_total_flops()),
        )
    return [after - before for before, after in pairwise([0, *until])]


def of_epochs(recipe: params.Recipe) -> list[float]:
    """Return the operations of each epoch of NUM_IMAGES images."""
    small, large = SIZES
    plan = Epochs(recipe.train, NUM_IMAGES)
    epochs = []
    for epoch, (one, other) in enumerate(zip(of_steps(recipe, small), of_steps(recipe, large), strict=True), start=1):
        per_image = (other - one) / (large - small)
        num_images, num_steps = (until(epoch) - until(epoch - 1) for until in (plan.images_until, plan.steps_until))
        epochs.append(num_images * per_image + num_steps * (one - small * per_image))
    return epochs


def main() -> None:
    """Count the chosen recipes, or all."""
    recipes = params.load(Path("params.yaml")).recipes
    if unknown := set(sys.argv[1:]) - recipes.keys():
        sys.exit(f"no recipe is called {', '.join(sorted(unknown))}: there are {', '.join(recipes)}")
    runtime.make_deterministic(torch.get_num_threads())
    print(
        "| recipe | epochs | 10^15 operations | of the first epoch | of the last |\n|---|---|---|---|---|", flush=True
    )
    for name in sys.argv[1:] or recipes:
        epochs = [operations / 1e15 for operations in of_epochs(recipes[name])]
        print(f"| {name} | {len(epochs)} | {sum(epochs):.4g} | {epochs[0]:.4g} | {epochs[-1]:.4g} |", flush=True)


if __name__ == "__main__":
    main()
