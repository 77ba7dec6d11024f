"""The numbers that a search can look for the best of: which way is better, and how they are told."""

from dataclasses import dataclass

from samebits.comparison.verdict import ACCURACY, Quantity
from samebits.search.trials import Trial


@dataclass(frozen=True)
class Objective:
    """What a search improves. `support` bounds what it can be; `quantity` says how differences are told."""

    support: tuple[float, float]
    quantity: Quantity

    @property
    def name(self) -> str:
        """What it is called."""
        return self.quantity.name

    @property
    def is_lower_better(self) -> bool:
        """Whether less is better: of loss, not of accuracy."""
        return self.quantity.is_lower_better

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


OBJECTIVES = {
    "validation_accuracy": Objective((0, 1), ACCURACY._replace(name="validation accuracy")),
    "validation_loss": Objective((0, float("inf")), Quantity("validation loss", 1, 4, "", is_lower_better=True)),
}
