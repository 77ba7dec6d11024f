"""The numbers that a search can look for the best of: which way is better, and how they are told."""

from collections.abc import Sequence
from dataclasses import dataclass

from samebits.comparison.verdict import ACCURACY, Quantity
from samebits.search.trials import Trial


@dataclass(frozen=True)
class Objective:
    """What a search improves. `support` bounds what it can be; `quantity` says how differences are told."""

    name: str
    is_lower_better: bool
    support: tuple[float, float]
    quantity: Quantity

    @property
    def worst(self) -> float:
        """The worst that it can be."""
        return self.support[1 if self.is_lower_better else 0]

    def gain(self, before: float, after: float) -> float:
        """Return how much better `after` is than `before`; negative if it is worse."""
        return before - after if self.is_lower_better else after - before

    def tell(self, value: float) -> str:
        """Return a value as text: 61.25 % or 1.0312."""
        return f"{value:.4f}" if self.is_lower_better else f"{100 * value:.2f} %"

    def tell_result(self, trial: Trial) -> str:
        """Return what came out of a trial as text: its objective, or that it was pruned or failed."""
        if trial.state == "complete" and trial.objective is not None:
            return self.tell(trial.objective)
        epochs = "1 epoch" if len(trial.history) == 1 else f"{len(trial.history)} epochs"
        return f"{trial.state} after {epochs}" if trial.history else trial.state

    def ranked(self, trials: Sequence[Trial]) -> list[tuple[Trial, float]]:
        """Return the complete trials with their objectives, the best first, equals in the order of their numbers."""
        complete = [
            (each, each.objective) for each in trials if each.state == "complete" and each.objective is not None
        ]
        sign = 1 if self.is_lower_better else -1
        return sorted(complete, key=lambda each: (sign * each[1], each[0].number))


OBJECTIVES = {
    "validation_accuracy": Objective(
        "validation accuracy", False, (0, 1), ACCURACY._replace(name="validation accuracy")
    ),
    "validation_loss": Objective(
        "validation loss", True, (0, float("inf")), Quantity("validation loss", 1, 4, "", is_lower_better=True)
    ),
}
