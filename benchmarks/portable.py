"""What a portable result costs: the recipes held to AVX2 against all that the processor has, on one thread in float32."""

from functools import partial

from benchmarks.measure import NUM_SHORT_ROUNDS, Row, in_turn, ratio
from benchmarks.training import epoch

SIDES = {
    "lab": partial(epoch, "lab", 12_000),
    "speed": partial(epoch, "speed", 500, precision="float32", batch_size=500, num_threads=1),
}


def rows() -> list[Row]:
    """Return the rows of portable results."""
    found = []
    for name, side in SIDES.items():
        sides = {f"{name}, {how}": partial(side, is_portable=how == "portable") for how in ("portable", "exact")}
        found.append(ratio(f"{name}, float32: portable / exact", "exact", *in_turn(sides, NUM_SHORT_ROUNDS).values()))
    return found
