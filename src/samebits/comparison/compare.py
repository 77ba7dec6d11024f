"""From what a user names to a comparison: of two networks on the same images, or of two groups of seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from samebits.comparison import paired, predicted, seeds, selection, verdict
from samebits.comparison.paired import Pair
from samebits.comparison.predicted import Predicted
from samebits.comparison.seeds import Change
from samebits.errors import UserError
from samebits.evaluation.metrics import summary
from samebits.results import Result


@dataclass(frozen=True)
class OfNetworks:
    """Network `b` against network `a`; `differences` names what decided them otherwise, the seed aside."""

    a: Predicted
    b: Predicted
    differences: list[str]
    pair: Pair
    notes: list[str]

    @property
    def verdict(self) -> str:
        """What it comes to, in sentences."""
        return verdict.of_networks(self.pair.overall, self.pair.changed, not self.differences)

    def is_worse(self, points: float) -> bool:
        """Tell whether B's accuracy is lower by more than `points` percentage points, for all that chance can do."""
        high = self.pair.overall.difference.high
        return self.pair.overall.is_significant and high is not None and 100 * high < -points


@dataclass(frozen=True)
class OfSeeds:
    """The trainings `b` against the trainings `a`; each number's groups are in their order."""

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
        """What it comes to, in sentences."""
        return verdict.of_seeds(self.accuracy, not self.differences)

    def is_worse(self, points: float) -> bool:
        """Tell whether B's accuracy is lower by more than `points` percentage points, for all that chance can do."""
        high = self.accuracy.difference.high
        return high is not None and 100 * high < -points


def compare(root: Path, name_a: str, name_b: str, with_seeds: bool) -> OfNetworks | OfSeeds:
    """Compare what two names stand for in the repository `root`.

    A pattern stands for the experiments that it matches; with `with_seeds` any other name stands for all results that
    differ from it in nothing but the seed. Raises UserError where a name stands for nothing, or the two cannot be compared.
    """
    if not (with_seeds or selection.is_pattern(name_a) or selection.is_pattern(name_b)):
        return of_networks(selection.find(root, name_a), selection.find(root, name_b))
    group_a, group_b = (_group(root, name, with_seeds) for name in (name_a, name_b))
    if with_seeds and not predicted.differences(group_a[0], group_b[0]):
        raise UserError(f"{name_a} and {name_b} differ in nothing but the seed: with --seeds they are one group")
    if shared := {each.commit for each in group_a} & {each.commit for each in group_b}:
        common = ", ".join(str(each) for each in group_a if each.commit in shared)
        if len(shared) == len(group_a) == len(group_b):
            raise UserError(f"{name_a} and {name_b} are the same {_results(len(shared))}: {common}")
        raise UserError(f"{name_a} and {name_b} have {common} in common: a training can be in one group only")
    return of_seeds(group_a, group_b)


def of_networks(a: Result, b: Result) -> OfNetworks:
    """Compare two revisions. Raises UserError where they are one, or are not about the same test images."""
    if a.commit == b.commit and a.record == b.record:
        raise UserError(f"{a} and {b} are the same result: there is nothing to compare")
    result_a, result_b = _load([a, b])
    pair = paired.compare(result_a.predictions, result_b.predictions)
    return OfNetworks(result_a, result_b, predicted.differences(a, b), pair, _notes([a], [b]))


def of_seeds(a: Sequence[Result], b: Sequence[Result]) -> OfSeeds:
    """Compare two groups of revisions. Raises UserError where they are not all about the same test images."""
    loaded = _load([*a, *b])
    measured = [
        summary.summarize(each.predictions.probabilities, each.predictions.labels, each.predictions.class_names)
        for each in loaded
    ]
    halves = measured[: len(a)], measured[len(a) :]

    def change(number: str) -> Change:
        return seeds.compare(*([each[number] for each in half] for half in halves))

    present = np.unique(loaded[0].predictions.labels)
    names = [name for position, name in enumerate(loaded[0].predictions.class_names) if position in present]
    per_class = seeds.compare_classes(
        *({name: [each["per_class"][name]["accuracy"] for each in half] for name in names} for half in halves)
    )
    return OfSeeds(
        a=loaded[: len(a)],
        b=loaded[len(a) :],
        differences=predicted.differences(a[0], b[0]),
        accuracy=change("accuracy"),
        loss=change("loss"),
        calibration_error=change("calibration_error"),
        per_class=per_class,
        notes=_notes(a, b),
    )


def _group(root: Path, name: str, with_seeds: bool) -> list[Result]:
    if selection.is_pattern(name):
        return selection.matching(root, name)
    found = selection.find(root, name)
    return selection.same_but_for_seed(root, found) if with_seeds else [found]


def _load(revisions: Sequence[Result]) -> list[Predicted]:
    # A remote may have to be asked for each.
    shown = tqdm(
        revisions, desc="predictions", unit="result", leave=False, disable=None if len(revisions) > 2 else True
    )
    loaded = [predicted.load(revision) for revision in shown]
    predicted.require_same_test(loaded)
    return loaded


def _notes(a: Sequence[Result], b: Sequence[Result]) -> list[str]:
    first, *others = [*a, *b]
    if any(predicted.is_other_machine(first, other) for other in others):
        return ["These results come from different kinds of machine, which moves an accuracy as another seed does."]
    return []


def _results(number: int) -> str:
    return "result" if number == 1 else f"{number} results"
