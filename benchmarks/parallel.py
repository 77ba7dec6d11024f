"""What shards cost in one process, and what a second process gains: the network of the speed recipe, one thread each, float32.

The cores of a machine share memory and clock, so two processes that have nothing to do with each other are measured too: no
training in two processes can gain more than they do.
"""

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


def training(num_shards: int, num_processes: int, are_apart: bool = False) -> Measure:
    """Some steps in so many shards and processes, one or two, or in each of two processes that are apart: seconds."""
    if num_processes == 1:
        return two_steps(num_shards, parallel.ALONE)
    place = f"{tempfile.mkdtemp()}/store"
    arguments = (num_shards, place, are_apart)
    multiprocessing.get_context("spawn").Process(target=second, args=arguments, daemon=True).start()
    team = join(0, place)
    measure = two_steps(num_shards, parallel.ALONE if are_apart else team)

    def together() -> float:
        team.share(True)
        return measure()

    return together


def second(num_shards: int, place: str, are_apart: bool) -> None:
    """Be the second process, until the first one ends."""
    team = join(1, place)
    measure = two_steps(num_shards, parallel.ALONE if are_apart else team)
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
        "two processes apart": partial(training, NUM_SHARDS, 2, are_apart=True),
    }
    whole, shards, two, apart = in_turn(sides).values()
    twice = [2 * seconds for seconds in shards]
    return [
        ratio("speed, float32, one thread: 8 shards / none", "none", shards, whole),
        ratio("the same in 8 shards: 1 process / 2", "2", shards, two),
        ratio("the machine: two such trainings, one after the other / at once", "at once", twice, apart),
    ]
