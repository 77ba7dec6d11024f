"""What shards cost in one process, and what a second process gains: the network of the speed recipe, one thread each, float32."""

import multiprocessing
import os
import tempfile
from functools import partial

from benchmarks.measure import Measure, Row, in_turn, ratio
from benchmarks.training import epoch
from samebits.training import parallel

NUM_SHARDS = 8
BATCH_SIZE = 512
NUM_STEPS = 2


def training(num_shards: int, num_processes: int) -> Measure:
    """Some steps in so many shards and processes, one or two: seconds."""
    if num_processes == 1:
        return two_steps(num_shards, parallel.ALONE)
    place = f"{tempfile.mkdtemp()}/store"
    multiprocessing.get_context("spawn").Process(target=second, args=(num_shards, place), daemon=True).start()
    team = join(0, place)
    measure = two_steps(num_shards, team)

    def together() -> float:
        team.share(True)
        return measure()

    return together


def second(num_shards: int, place: str) -> None:
    """Be the second process, until the first one ends."""
    team = join(1, place)
    measure = two_steps(num_shards, team)
    while team.share(None):
        measure()


def join(rank: int, place: str) -> parallel.Team:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    return parallel.join(place, NUM_SHARDS)


def two_steps(num_shards: int, team: parallel.Team) -> Measure:
    settings = {"precision": "float32", "batch_size": BATCH_SIZE, "num_shards": num_shards, "num_threads": 1}
    return epoch("speed", NUM_STEPS * BATCH_SIZE, team=team, **settings)


def rows() -> list[Row]:
    """Return the rows of shards and processes."""
    sides = {
        "whole mini-batches": partial(training, 1, 1),
        "8 shards": partial(training, NUM_SHARDS, 1),
        "8 shards in two processes": partial(training, NUM_SHARDS, 2),
    }
    whole, shards, two = in_turn(sides).values()
    return [
        ratio("speed, float32, one thread: 8 shards / none", "none", shards, whole),
        ratio("the same in 8 shards: 1 process / 2", "2", shards, two),
    ]
