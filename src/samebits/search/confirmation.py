"""The winner of a search against the baseline, on seeds that no trial used.

The best of many trials is chosen for its luck as well: its objective is biased upwards (Cawley and Talbot, On over-fitting in
model selection, 2010). Fresh seeds know nothing of that choice, so their mean and its interval hold for the setting itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy.stats import ttest_1samp

from samebits.comparison import seeds
from samebits.comparison.seeds import Change
from samebits.comparison.statistics import CONFIDENCE, Estimate
from samebits.search.objective import OBJECTIVES, Objective
from samebits.search.search_file import ParamValue, SearchFile
from samebits.search.trials import Trial, best_first


class Measured(NamedTuple):
    """What one training gave: the objective on validation images and the accuracy on test images; None if it failed."""

    objective: float | None
    test_accuracy: float | None


# Trains the recipe with these values (none: the baseline), the fixed settings of the search, and this seed.
Measure = Callable[[Mapping[str, ParamValue], int], Measured]


@dataclass(frozen=True)
class Confirmation:
    """The baseline and the winning setting, measured with each of the fresh seeds, and what that says.

    Of `validation` and `test`, A is the baseline and B is the winner. They and `mean` are None if a training failed.
    """

    objective: Objective
    winner: Trial
    searched: float  # the winner's objective as the search saw it
    seeds: tuple[int, ...]
    of_baseline: tuple[Measured, ...]
    of_winner: tuple[Measured, ...]
    mean: Estimate | None  # the winner's objective
    validation: Change | None
    test: Change | None

    @property
    def luck(self) -> float | None:
        """How much better the search saw the winner than fresh seeds do, in units of the objective; negative: worse."""
        return None if self.mean is None else self.objective.gain(self.mean.value, self.searched)

    @property
    def failed(self) -> dict[str, list[int]]:
        """The seeds with which a training failed, of the baseline and of the winner."""
        sides = {"baseline": self.of_baseline, "winner": self.of_winner}
        return {
            name: [seed for seed, each in zip(self.seeds, side, strict=True) if each.objective is None]
            for name, side in sides.items()
        }


def confirm(search_file: SearchFile, trials: Sequence[Trial], measure: Measure) -> Confirmation | None:
    """Measure the winner of `trials` and the baseline with fresh seeds, and compare them.

    Return None if no trial is complete, or the search file asks for no confirmation.
    """
    objective = OBJECTIVES[search_file.objective]
    ranked = best_first(trials, search_file.is_maximized)
    if not ranked or search_file.confirm is None:
        return None
    winner, searched = ranked[0]
    fresh = search_file.fresh_seeds
    of_baseline, of_winner = (tuple(measure(values, seed) for seed in fresh) for values in ({}, winner.values))
    validation = _change(*([each.objective for each in side] for side in (of_baseline, of_winner)))
    return Confirmation(
        objective=objective,
        winner=winner,
        searched=searched,
        seeds=fresh,
        of_baseline=of_baseline,
        of_winner=of_winner,
        mean=mean_estimate(validation.b.values) if validation else None,
        validation=validation,
        test=_change(*([each.test_accuracy for each in side] for side in (of_baseline, of_winner))),
    )


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Estimate the mean of independent trainings; without an interval if no training differs from another."""
    group = seeds.Group.of(values)
    if not seeds.have_spread(group):
        return Estimate(group.mean)
    return Estimate(group.mean, *map(float, ttest_1samp(values, 0).confidence_interval(CONFIDENCE)))


def _change(baseline: Sequence[float | None], winner: Sequence[float | None]) -> Change | None:
    known_a, known_b = ([value for value in side if value is not None] for side in (baseline, winner))
    return seeds.compare(known_a, known_b) if len(known_a) + len(known_b) == len(baseline) + len(winner) else None
