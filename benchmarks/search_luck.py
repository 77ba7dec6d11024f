"""How often an interval holds the true value of a search's winner: `python -m benchmarks.search_luck` (half a minute).

1,000 searches over nothing but noise: every setting, the baseline too, has the same true value, and each training differs from
it by a normal deviate. The winner is confirmed as `samebits search` does. Against that stands the search's own figure with the
interval that a training has which nobody chose: 1.96 deviations to both sides, with the true deviation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from samebits.comparison.statistics import CONFIDENCE
from samebits.search.confirmation import Measured, confirm
from samebits.search.search_file import ParamValue, SearchFile
from samebits.search.trials import Trial

TRUE, DEVIATION = 0.6, 0.01
REACH = float(norm.ppf((1 + CONFIDENCE) / 2)) * DEVIATION
KEY = "recipes.lab.train.optimizer.learning_rate"


@dataclass(frozen=True)
class Luck:
    """Shares of the searches."""

    fresh_holds: float  # the interval from fresh seeds holds the winner's true value
    searched_holds: float  # the interval around the search's own figure does
    difference_holds: float  # the interval of winner − baseline holds their true difference
    called_better: float  # the winner is called better than the baseline, which it is not


def simulate(num_searches: int, search_file: SearchFile) -> Luck:
    """Run searches over noise and confirm their winners."""
    found = [_search(number, search_file) for number in range(num_searches)]
    return Luck(*(float(np.mean(each)) for each in zip(*found, strict=True)))


def _search(search: int, search_file: SearchFile) -> tuple[bool, ...]:
    def measure(values: Mapping[str, ParamValue], seed: int) -> Measured:
        setting = int(values.get(KEY, search_file.num_trials))
        return Measured(float(np.random.default_rng([search, setting, seed]).normal(TRUE, DEVIATION)), None)

    trials = []
    for number in range(search_file.num_trials):
        values: dict[str, ParamValue] = {KEY: number}
        objective = np.mean([measure(values, seed).objective for seed in range(search_file.num_seeds)])
        trials.append(Trial(number, values, "complete", float(objective), (), None, ()))
    confirmed = confirm(search_file, trials, measure)
    mean, change, searched = confirmed.mean, confirmed.validation.difference, confirmed.winner.objective
    return (
        mean.low <= TRUE <= mean.high,
        abs(searched - TRUE) <= REACH / np.sqrt(search_file.num_seeds),
        change.low <= 0 <= change.high,
        change.low > 0,
    )


SEARCH = SearchFile.model_validate(
    {
        "name": "noise",
        "seed": 0,
        "num_trials": 40,
        "parallelism": 1,
        "sampler": "random",
        "objective": "validation_accuracy",
        "parameters": {KEY: {"low": 0, "high": 39}},
        "confirm": {"num_seeds": 5},
    }
)


if __name__ == "__main__":
    luck = simulate(1000, SEARCH)
    print(
        "1,000 searches of 40 trials over noise, confirmed on 5 fresh seeds; the winner's true value lies in the interval of"
    )
    print(f"  fresh seeds              {luck.fresh_holds:6.1%}")
    print(f"  the search's own figure  {luck.searched_holds:6.1%}")
    print("the true difference between winner and baseline, 0, lies in its interval in")
    print(f"  fresh seeds              {luck.difference_holds:6.1%}; called better: {luck.called_better:.1%}")
