"""What shards cost in one process, and what a second process gains: steps of the speed recipe, one thread each, float32.

The start is left out: every process prepares the whitening for itself. The cores of a machine share memory and clock, so two
processes that have nothing to do with each other are measured too: no training in two processes can gain more than they do.
What they exchange is measured alone, both being ready for it, so it holds no wait for the slower one.
"""

import multiprocessing
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks import drawn
from benchmarks.measure import Measure, Row, in_turn, ratio
from benchmarks.training import epoch
from samebits import models, params
from samebits.training import parallel

NUM_SHARDS = 8
NUM_STEPS = 2  # of which the first is the start, and left out
NUM_EXCHANGES = 10

settings = params.load(Path("params.yaml")).recipes["speed"]


def alone(num_shards: int) -> Measure:
    """A step in so many shards, in one process: seconds."""
    return step(num_shards, parallel.ALONE)


def in_two(kind: str) -> Measure:
    """What two processes do, each of which measures: a step together, a step each, or the exchange of a step; seconds."""
    place = f"{tempfile.mkdtemp()}/store"
    multiprocessing.get_context("spawn").Process(target=second, args=(kind, place), daemon=True).start()
    team, measure = join(0, place, kind)

    def together() -> float:
        team.share(True)
        return measure()

    return together


def second(kind: str, place: str) -> None:
    """Be the second process, until the first one ends."""
    team, measure = join(1, place, kind)
    while team.share(None):
        measure()


def join(rank: int, place: str, kind: str) -> tuple[parallel.Team, Measure]:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    team = parallel.join(place, NUM_SHARDS)
    if kind == "exchange":
        return team, exchange(team)
    return team, step(NUM_SHARDS, team if kind == "together" else parallel.ALONE)


def step(num_shards: int, team: parallel.Team) -> Measure:
    update = {"precision": "float32", "num_shards": num_shards, "num_threads": 1}
    return epoch("speed", NUM_STEPS * settings.train.batch_size, is_start_left_out=True, team=team, **update)


def exchange(team: parallel.Team) -> Measure:
    network = models.build(settings.model, drawn.IMAGE_SHAPE, drawn.NUM_CLASSES, 0)
    size = sum(each.numel() for each in network.parameters() if each.requires_grad)

    def measure() -> float:
        gradients = torch.zeros(size)
        began = time.perf_counter()
        for _ in range(NUM_EXCHANGES):
            team.sum(gradients)
        return (time.perf_counter() - began) / NUM_EXCHANGES

    return measure


def rows() -> list[Row]:
    """Return the rows of shards and processes."""
    sides = {
        "whole mini-batches": partial(alone, 1),
        "8 shards": partial(alone, NUM_SHARDS),
        "8 shards in two processes": partial(in_two, "together"),
        "two processes apart": partial(in_two, "apart"),
        "exchange": partial(in_two, "exchange"),
    }
    whole, shards, two, apart, exchanged = in_turn(sides).values()
    twice = [2 * seconds for seconds in shards]
    return [
        ratio("a step of speed, float32, one thread: 8 shards / none", "none", shards, whole),
        ratio("the same in 8 shards: 1 process / 2", "2", shards, two),
        ratio("the machine: two such steps, one after the other / at once", "at once", twice, apart),
        ratio("in two processes: a step / its exchange of gradients", "exchange", two, exchanged),
    ]
