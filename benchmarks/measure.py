"""Ratios measured side by side: every side is a process of its own that measures when asked, and the sides take turns."""

import multiprocessing
import statistics
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

NUM_ROUNDS = 3
NUM_SHORT_ROUNDS = 9  # of what takes seconds, and varies by more than is to be seen

Measure = Callable[[], float]  # gives seconds, or a rate


@dataclass(frozen=True)
class Row:
    """One line of the table: what two sides measured, and the ratios of the rounds."""

    name: str
    first: str
    second: str
    ratios: list[float]

    def __str__(self) -> str:
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        return f"| {self.name} | {self.first} | {self.second} | {statistics.median(self.ratios):.2f} | {spread} |"


def in_turn(sides: Mapping[str, Callable[[], Measure]], num_rounds: int = NUM_ROUNDS) -> dict[str, list[float]]:
    """Measure every side once a round; each is set up, and measured once for nothing, in a fresh process beforehand.

    A side is a function, of a module's top level, that sets up and gives the function that measures.
    """
    context = multiprocessing.get_context("spawn")
    connections: dict[str, Connection] = {}
    processes = []
    results: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for name, side in sides.items():
            connections[name], other_end = context.Pipe()
            processes.append(context.Process(target=_serve, args=(side, other_end)))
            processes[-1].start()
            other_end.close()  # so that a side that fails ends the wait for it
            connections[name].recv()  # set up: one after another, so that none disturbs another's measuring
        for number in range(num_rounds):
            for name, connection in connections.items():
                show_progress(f"{name}, round {number + 1} of {num_rounds}")
                connection.send(None)
                results[name].append(connection.recv())
    finally:
        for connection in connections.values():
            connection.close()
        for process in processes:
            process.join()
    show_progress("")
    return results


def show_progress(text: str) -> None:
    """Show `text` on the line of a terminal, in the place of what was there."""
    if sys.stderr.isatty():
        print(f"\r{text:70}\r", end="", file=sys.stderr, flush=True)


def ratio(name: str, label: str, first: list[float], second: list[float], unit: str = "s") -> Row:
    """Return the row of `first` over `second`, paired by rounds."""
    values = [statistics.median(side) for side in (first, second)]
    before, after = (f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}" for value in values)
    return Row(name, before, f"{label}: {after}", [one / other for one, other in zip(first, second, strict=True)])


def _serve(side: Callable[[], Measure], connection: Connection) -> None:
    measure = side()
    measure()
    connection.send(None)
    with suppress(EOFError):  # the end of the measuring
        while True:
            connection.recv()
            connection.send(measure())
