"""What a trial tries: a function of the search file, and of the results of the trials that it may know.

Optuna's samplers keep no state here. For each proposal a study in memory is told the known trials in the order of their
numbers, and a fresh sampler, seeded by the search's seed and the trial's number, is asked. So neither who finishes first nor
who asks decides anything.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from samebits.search.search_file import Parameter, ParamValue, SearchFile
from samebits.search.trials import Trial, winner

if TYPE_CHECKING:
    import optuna

Values = dict[str, ParamValue]
# Of a number that a sampler draws. More would show where processors round in other ways.
_DIGITS = 6
_ADAPTIVE = ("tpe", "gp")  # the others ask for no result


def num_known(search: SearchFile, number: int) -> int:
    """Return how many trials, from the first on, must have ended before trial `number` begins: those that it may know."""
    return max(0, number - search.parallelism + 1) if search.sampler in _ADAPTIVE or search.prune else 0


class Proposals:
    """The proposals of a search. `ended` holds trials by number, and may grow."""

    def __init__(self, search: SearchFile, ended: Mapping[int, Trial]) -> None:
        self._search, self._ended = search, ended
        self._made: dict[int, Values] = {}

    def known(self, number: int) -> list[Trial]:
        """Return the trials that trial `number` may know, which must have ended."""
        return [self._ended[each] for each in range(num_known(self._search, number))]

    def values(self, number: int) -> Values:
        """Return the values of trial `number`. The trials that it may know must have ended."""
        if number in self._ended:
            return self._ended[number].values
        if number not in self._made:
            known = self.known(number)
            is_adaptive = self._search.sampler in _ADAPTIVE
            # A sampler keeps away from what is being tried. These proposals follow from the same known trials, or fewer.
            pending = [self.values(each) for each in range(len(known), number)] if is_adaptive else []
            self._made[number] = _propose(self._search, number, known, pending)
        return self._made[number]


def _propose(search: SearchFile, number: int, known: Sequence[Trial], pending: Sequence[Values]) -> Values:
    import optuna
    from optuna.trial import TrialState, create_trial
    from threadpoolctl import threadpool_limits

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {key: distribution(parameter) for key, parameter in sorted(search.parameters.items())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental, a range that its step does not divide
        study = optuna.create_study(
            sampler=_sampler(search, number), direction="maximize" if search.is_maximized else "minimize"
        )
        worst = winner(known, not search.is_maximized)
        for trial in known:
            params = in_optuna(search, trial.values)
            # A sampler learns from what came out, also of a trial that was stopped; one that diverged counts as the worst.
            value = trial.objective if trial.objective is not None or worst is None else worst.objective
            state = TrialState.FAIL if value is None else TrialState.COMPLETE
            study.add_trial(create_trial(state=state, value=value, params=params, distributions=space))
        for values in pending:
            params = in_optuna(search, values)
            study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=space))
        while len(study.get_trials(deepcopy=False)) < number:  # a grid is walked by the trials' numbers
            study.add_trial(create_trial(state=TrialState.FAIL))
        with threadpool_limits(1):  # numbers of threads that add in other orders
            drawn = study.ask(space).params
    return {key: _value(search.parameters[key], drawn[key]) for key in search.parameters}


def _sampler(search: SearchFile, number: int) -> "optuna.samplers.BaseSampler":
    from optuna import samplers

    if search.sampler == "grid":
        grid = {key: _in_optuna(parameter, parameter.grid or []) for key, parameter in search.parameters.items()}
        return samplers.GridSampler(grid, search.seed)
    seed = int.from_bytes(hashlib.sha256(f"{search.seed} {number}".encode()).digest()[:4], "big")
    match search.sampler:
        case "tpe":
            return samplers.TPESampler(seed=seed)
        case "gp":
            return samplers.GPSampler(seed=seed)
    return samplers.RandomSampler(seed)


def distribution(parameter: Parameter) -> "optuna.distributions.BaseDistribution":
    """Return what a parameter may be, as Optuna takes it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.choices is not None:
        return CategoricalDistribution(_in_optuna(parameter, parameter.choices))
    if parameter.is_integer:
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step or 1)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def in_optuna(search: SearchFile, values: Values) -> dict[str, Any]:
    """Return the values of a trial as Optuna takes them."""
    return {key: _in_optuna(search.parameters[key], [value])[0] for key, value in values.items()}


def _in_optuna(parameter: Parameter, values: Sequence[ParamValue]) -> list[Any]:
    """Return values as Optuna takes them: it has no choice that is a list or a section, so choices are JSON."""
    return list(values) if parameter.choices is None else [json.dumps(value, sort_keys=True) for value in values]


def _value(parameter: Parameter, drawn: Any) -> ParamValue:
    if parameter.choices is not None:
        return json.loads(drawn)
    if parameter.is_integer:
        return int(drawn)
    rounded = float(f"{drawn:.{_DIGITS}g}" if parameter.step is None else f"{drawn:.12g}")
    return min(max(rounded, float(parameter.low)), float(parameter.high))
