"""Trials, their winner, and the digest that two searches have in common exactly if they are the same."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from samebits.search.search_file import ParamValue


@dataclass(frozen=True)
class Trial:
    """A setting that was tried, and what came out.

    `values` are the searched parameters by dotted key. `history` is the objective's metric after each epoch, the mean over
    the seeds; `history_sha256` is of the histories' files. `commits` are the DVC experiments, one for each seed.
    `failure` is why a trial failed.
    """

    number: int
    values: dict[str, ParamValue]
    state: Literal["complete", "pruned", "failed"]
    objective: float | None = None
    history: tuple[float, ...] = ()
    history_sha256: str | None = None
    commits: tuple[str, ...] = ()
    failure: str = ""


def best_first(trials: Sequence[Trial], is_maximized: bool) -> list[tuple[Trial, float]]:
    """Return the complete trials with their objectives, the best first, equals in the order of their numbers."""
    complete = [(each, each.objective) for each in trials if each.state == "complete" and each.objective is not None]
    sign = -1 if is_maximized else 1
    return sorted(complete, key=lambda each: (sign * each[1], each[0].number))


def winner(trials: Sequence[Trial], is_maximized: bool) -> Trial | None:
    """Return the first of the best trials; None if none is complete."""
    return next((trial for trial, _ in best_first(trials, is_maximized)), None)


def digest(trials: Sequence[Trial], winner: Trial | None) -> str:
    """Return one SHA-256 over number, parameters, state and history's hash of all trials, and the winner's number."""
    told = ("number", "values", "state", "history_sha256")
    listed = [{name: getattr(trial, name) for name in told} for trial in sorted(trials, key=lambda trial: trial.number)]
    content = {"trials": listed, "winner": winner.number if winner else None}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
