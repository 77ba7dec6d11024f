"""The lab recipe against the lab's own script, on the same drawn images: one epoch of 20,000."""

from functools import partial

from benchmarks import lab_script
from benchmarks.measure import NUM_SHORT_ROUNDS, Row, in_turn, ratio
from benchmarks.training import epoch

NUM_IMAGES = 20_000


def rows() -> list[Row]:
    """Return the rows of the lab."""
    script = partial(lab_script.measuring, "train", NUM_IMAGES)
    against = {"the lab's script": script, "the lab recipe": partial(epoch, "lab", NUM_IMAGES)}
    seconds = in_turn(against, NUM_SHORT_ROUNDS)
    sides = {f"images x {times}": partial(epoch, "lab", NUM_IMAGES * times // 4) for times in (1, 2, 4)}
    scaled = in_turn(sides, NUM_SHORT_ROUNDS)
    return [
        ratio("the lab's script / lab recipe, 20,000 images", "recipe", *seconds.values()),
        ratio("lab: 2 x the images", "1 x", scaled["images x 2"], scaled["images x 1"]),
        ratio("lab: 4 x the images", "1 x", scaled["images x 4"], scaled["images x 1"]),
    ]
