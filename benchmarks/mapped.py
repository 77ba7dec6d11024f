"""Training on images that are mapped from disk, as train does, against images in memory; the files are in the page cache."""

from functools import partial

from benchmarks.measure import NUM_SHORT_ROUNDS, Row, in_turn, ratio
from benchmarks.training import epoch

NUM_IMAGES = {"lab": 12_000, "linear": 50_000}


def rows() -> list[Row]:
    """Return the rows of mapped images."""
    found = []
    for name, number in NUM_IMAGES.items():
        side = partial(epoch, name, number)
        sides = {f"{name}, mapped": partial(side, is_mapped=True), f"{name}, in memory": side}
        seconds = in_turn(sides, NUM_SHORT_ROUNDS).values()
        found.append(ratio(f"{name}: images mapped / in memory", "in memory", *seconds))
    return found
