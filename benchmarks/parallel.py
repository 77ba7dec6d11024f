"""What shards cost in one process, and what a second process gains: steps of the speed recipe, in float32 where bfloat16 is slow.

The start is left out: every process prepares the whitening for itself. The cores of a machine share memory and clock, so two
processes that have nothing to do with each other are measured too: no training in two processes can gain more than they do.
What they exchange is measured alone, both being ready for it, so it holds no wait for the slower one.
"""

import time
from functools import partial
from pathlib import Path

import torch

from benchmarks import drawn
from benchmarks.measure import Measure, Row, in_turn, ratio
from benchmarks.together import in_processes
from benchmarks.training import epoch
from samebits import models, params, runtime
from samebits.errors import UserError
from samebits.training import parallel

NUM_SHARDS = 8
NUM_STEPS = 2  # of which the first is the start, and left out
NUM_EXCHANGES = 10

settings = params.load(Path("params.yaml")).recipes["speed"]


def precision() -> str:
    """The recipe's, or float32 on a processor on which that is faster."""
    try:
        runtime.require_precision(settings.train.precision, torch.device("cpu"))
    except UserError:
        return "float32"
    return settings.train.precision


def step(num_shards: int, num_threads: int, team: parallel.Team = parallel.ALONE) -> Measure:
    """A step of 2,000 images in so many shards: seconds."""
    update = {"precision": precision(), "num_shards": num_shards, "num_threads": num_threads}
    return epoch("speed", NUM_STEPS * settings.train.batch_size, is_start_left_out=True, team=team, **update)


def apart(_: parallel.Team) -> Measure:
    """A step of each process's own."""
    return step(NUM_SHARDS, 1)


def exchange(team: parallel.Team) -> Measure:
    """The exchange of a step's gradients: seconds."""
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
        "whole mini-batches": partial(step, 1, 1),
        "two threads": partial(step, 1, 2),
        "8 shards": partial(step, NUM_SHARDS, 1),
        "8 shards in two processes": partial(in_processes, 2, partial(step, NUM_SHARDS, 1)),
        "two processes apart": partial(in_processes, 2, apart),
        "exchange": partial(in_processes, 2, exchange),
    }
    whole, threads, shards, two, one_each, exchanged = in_turn(sides).values()
    twice = [2 * seconds for seconds in shards]
    return [
        ratio(f"a step of speed, {precision()}, one thread: 8 shards / none", "none", shards, whole),
        ratio("the same in 8 shards: 1 process / 2", "2", shards, two),
        ratio("2 processes of one thread / 1 of two threads without shards", "threads", two, threads),
        ratio("the machine: two such steps, one after the other / at once", "at once", twice, one_each),
        ratio("in two processes: a step / its exchange of gradients", "exchange", two, exchanged),
    ]
