"""The outcome of a comparison: of two networks on the same images, or of two groups of seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from samebits import paths
from samebits.comparison import paired, predicted, seeds, selection, verdict
from samebits.comparison.paired import Accuracies
from samebits.comparison.predicted import Predicted
from samebits.comparison.seeds import Change
from samebits.comparison.statistics import Estimates
from samebits.errors import UserError
from samebits.evaluation.metrics import summary
from samebits.results import Result


@dataclass(frozen=True)
class NetworkComparison:
    """Network `b` against network `a`; `differences` names what led to them, except the seed."""

    a: Predicted
    b: Predicted
    differences: list[str]
    accuracy: Accuracies
    loss: Estimates  # nats
    calibration_error: Estimates
    num_changed_predictions: int  # right or wrong
    per_class: dict[str, Accuracies]  # without the classes that have no image
    notes: list[str]

    @property
    def verdict(self) -> str:
        """The conclusion, in sentences."""
        return verdict.of_networks(self.accuracy, self.num_changed_predictions, not self.differences)


@dataclass(frozen=True)
class SeedComparison:
    """The trainings `b` against the trainings `a`; the groups of each number are in the same order."""

    a: list[Predicted]
    b: list[Predicted]
    differences: list[str]
    accuracy: Change
    loss: Change
    calibration_error: Change
    per_class: dict[str, Change]  # accuracy; without the classes that have no image
    notes: list[str]

    @property
    def verdict(self) -> str:
        """The conclusion, in sentences."""
        return verdict.of_seeds(self.accuracy, not self.differences)


Comparison = NetworkComparison | SeedComparison


def is_worse(comparison: Comparison, points: float) -> bool:
    """Tell whether B's accuracy is lower by more than `points` percentage points, beyond chance."""
    high = comparison.accuracy.difference.high  # below 0 exactly if the difference is significant
    return high is not None and 100 * high < -points


def compare(root: Path, name_a: str, name_b: str, with_seeds: bool) -> Comparison:
    """Compare what two names stand for in the repository `root`.

    A pattern stands for the experiments that it matches; with `with_seeds` any other name stands for all results that
    differ from it in the seed alone. Raises UserError if a name stands for nothing, or the two cannot be compared.
    """
    if not (with_seeds or selection.is_pattern(name_a) or selection.is_pattern(name_b)):
        return compare_networks(selection.find(root, name_a), selection.find(root, name_b))
    group_a, group_b = (selection.group(root, name, with_seeds) for name in (name_a, name_b))
    if with_seeds and not predicted.differences(group_a[0], group_b[0]):
        raise UserError(f"{name_a} and {name_b} differ in nothing but the seed: with --seeds they are one group")
    if shared := [a for a in group_a if any(_are_same(a, b) for b in group_b)]:
        common = ", ".join(map(str, shared))
        raise UserError(f"{name_a} and {name_b} have {common} in common: a training can be in one group only")
    return compare_seeds(group_a, group_b)


def _are_same(a: Result, b: Result) -> bool:
    return a.commit == b.commit and a.record == b.record  # the workspace has the commit that it is based on


def compare_networks(a: Result, b: Result) -> NetworkComparison:
    """Compare two results. Raises UserError if they are the same, or have different test images."""
    if _are_same(a, b):
        raise UserError(f"{a} and {b} are the same result: there is nothing to compare")
    loaded_a, loaded_b = _load([a, b])
    table_a, table_b = loaded_a.predictions, loaded_b.predictions
    return NetworkComparison(
        a=loaded_a,
        b=loaded_b,
        differences=predicted.differences(a, b),
        accuracy=paired.accuracies(table_a.is_right, table_b.is_right),
        loss=paired.losses(table_a, table_b),
        calibration_error=paired.calibration_errors(table_a, table_b),
        num_changed_predictions=int((table_a.predicted != table_b.predicted).sum()),
        per_class=paired.class_accuracies(table_a, table_b),
        notes=_notes([a, b]),
    )


def compare_seeds(a: Sequence[Result], b: Sequence[Result]) -> SeedComparison:
    """Compare two groups of results. Raises UserError if they do not all have the same test images."""
    loaded = _load([*a, *b])
    tables = [each.predictions for each in loaded]
    measured = [summary.summarize(table.probabilities, table.labels, table.class_names) for table in tables]
    halves = measured[: len(a)], measured[len(a) :]

    def change(number: str) -> Change:
        return seeds.compare(*([each[number] for each in half] for half in halves))

    names = [tables[0].class_names[position] for position in np.unique(tables[0].labels)]
    return SeedComparison(
        a=loaded[: len(a)],
        b=loaded[len(a) :],
        differences=predicted.differences(a[0], b[0]),
        accuracy=change("accuracy"),
        loss=change("loss"),
        calibration_error=change("calibration_error"),
        per_class=seeds.compare_classes(
            *({name: [each["per_class"][name]["accuracy"] for each in half] for name in names} for half in halves)
        ),
        notes=_notes([*a, *b]),
    )


def _load(results: Sequence[Result]) -> list[Predicted]:
    # Each may have to be fetched from a remote.
    bar = tqdm(results, desc="predictions", unit="result", leave=False, disable=None if len(results) > 2 else True)
    loaded = [predicted.load(result) for result in bar]
    predicted.require_same_test(loaded)
    return loaded


def _notes(results: Sequence[Result]) -> list[str]:
    if len({result.md5(paths.ENVIRONMENT) for result in results}) > 1:
        return [
            "These results come from different kinds of machine, which can change an accuracy as much as another seed does."
        ]
    return []
