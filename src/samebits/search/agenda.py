"""What a search has done and what can be done now, by the results in its database.

Imports no numpy: workers do, once they hold it to the same instructions on all processors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from samebits.search.proposals import Proposals, Values, num_known
from samebits.search.search_file import ParamValue, SearchFile
from samebits.search.trials import Trial, winner

if TYPE_CHECKING:
    from samebits.search.confirmation import Confirmation

_TRIAL = TypeAdapter(Trial)


@dataclass(frozen=True)
class Agenda:
    """The tasks of a search: its trials and then, if it has a winner, the trainings that confirm it.

    `results` are those of the tasks that have ended, by name.
    """

    search: SearchFile
    results: Mapping[str, dict[str, Any]]

    @cached_property
    def trials(self) -> dict[int, Trial]:
        """The trials that have ended, by number."""
        results = {number: self.results.get(_name(number)) for number in range(self.search.num_trials)}
        return {number: _TRIAL.validate_python(result["trial"]) for number, result in results.items() if result}

    @property
    def machines(self) -> set[str]:
        """The kinds of machine that computed trials, by hashes."""
        return {self.results[_name(number)]["machine"] for number in self.trials} - {""}

    @cached_property
    def open_trials(self) -> dict[str, int]:
        """The numbers of the trials that have not ended and whose values are known, by the names of their tasks."""
        num_ended = next(number for number in range(len(self.trials) + 1) if number not in self.trials)
        numbers = [number for number in range(self.search.num_trials) if number not in self.trials]
        return {_name(number): number for number in numbers if num_known(self.search, number) <= num_ended}

    @cached_property
    def confirmations(self) -> dict[str, tuple[Values, int]]:
        """The values (none: the baseline) and the seed of each training of the confirmation, by the names of their tasks."""
        best = winner(list(self.trials.values()), self.search.is_maximized)
        if len(self.trials) < self.search.num_trials or best is None:
            return {}
        # With more trials another one may win, so a name tells what is trained.
        return {
            f"confirmation of {name}, seed {seed}": (values, seed)
            for seed in self.search.fresh_seeds
            for name, values in (("baseline", {}), (_name(best.number), best.values))
        }

    @property
    def open_confirmations(self) -> list[str]:
        """The names of the trainings of the confirmation that have not ended."""
        return [name for name in self.confirmations if name not in self.results]

    @property
    def commits(self) -> set[str]:
        """The DVC experiments of all trials and of the confirmation, when nothing is left to do."""
        confirmed = {self.results[name]["commit"] for name in self.confirmations}
        return {each for trial in self.trials.values() for each in trial.commits} | confirmed - {""}

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return len(self.trials) == self.search.num_trials and not self.open_confirmations

    def confirm(self) -> "Confirmation | None":
        """Compare the winner with the baseline, when nothing is left to do; None if there is nothing to compare."""
        from samebits.search.confirmation import Measured, confirm

        results = {(bool(values), seed): self.results[name] for name, (values, seed) in self.confirmations.items()}

        def measured(values: Mapping[str, ParamValue], seed: int) -> Measured:
            result = results[bool(values), seed]
            return Measured(result["objective"], result["test_accuracy"])

        return confirm(self.search, list(self.trials.values()), measured)

    @cached_property
    def proposals(self) -> Proposals:
        """The proposals, by the trials that have ended."""
        return Proposals(self.search, self.trials)


def _name(number: int) -> str:
    return f"trial {number:06d}"
