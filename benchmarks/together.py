"""A side of several processes that do the same at once: each measures, and the first one tells what it measured."""

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from multiprocessing.util import Finalize

from benchmarks.measure import Measure
from samebits.training import parallel


def in_processes(number: int, side: Callable[[parallel.Team], Measure]) -> Measure:
    """Return what measures `side` in this process and in `number` - 1 others, which train together as one team.

    `side` is a function of a module's top level.
    """
    folder = tempfile.mkdtemp()
    place = f"{folder}/store"
    for rank in range(1, number):
        context = multiprocessing.get_context("spawn")
        context.Process(target=_serve, args=(rank, number, place, side), daemon=True).start()
    team = _join(0, number, place)
    Finalize(None, team.share, (False,), exitpriority=1)  # before multiprocessing ends the others
    Finalize(None, shutil.rmtree, (folder,), exitpriority=0)
    measure = side(team)

    def together() -> float:
        team.share(True)
        return measure()

    return together


def _serve(rank: int, number: int, place: str, side: Callable[[parallel.Team], Measure]) -> None:
    """Measure whenever the first process does, until it ends."""
    team = _join(rank, number, place)
    measure = side(team)
    while team.share(None):
        measure()


def _join(rank: int, number: int, place: str) -> parallel.Team:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(number)}
    return parallel.join(place, num_shards=number)
