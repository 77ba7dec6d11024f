"""What a result is compared by: its prediction for each test image, and all that decided it according to dvc.lock."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from samebits import paths
from samebits.data import prepared
from samebits.errors import UserError
from samebits.evaluation import predictions
from samebits.evaluation.predictions import Predictions
from samebits.repository.dvc_lock import flatten
from samebits.results import Result

_SEED = "seed"


@dataclass(frozen=True)
class Predicted:
    """A result's predictions, and what tells whether they can be compared with another's."""

    revision: Result
    predictions: Predictions
    description: prepared.Description
    test_sha256: str | None  # of the test images; None in results of earlier versions
    prepared_sha256: str  # of the test images as they are prepared
    parameters: dict[str, str]  # those that decided it, by dotted name without the recipe's

    @property
    def title(self) -> str:
        """Recipe, data and seed."""
        recipe, seed = (self.parameters.get(name, "?") for name in ("recipe", _SEED))
        return f"{recipe} on {self.description.source}, seed {seed}"


def load(revision: Result) -> Predicted:
    """Read what a comparison needs. Raises UserError if it is not recorded, nowhere to be found or damaged."""
    content = revision.require(paths.DATASET)
    try:
        values = json.loads(content)
        description, test_sha256 = prepared.Description.from_json(values), values.get("raw_sha256", {}).get("test")
        prepared_sha256 = values["sha256"]["test"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{paths.DATASET} of {revision} is damaged ({error})") from None
    table = predictions.read(revision.require(paths.PREDICTIONS), f"{paths.PREDICTIONS} of {revision}")
    return Predicted(revision, table, description, test_sha256, prepared_sha256, _parameters(revision))


def differences(a: Result, b: Result) -> list[str]:
    """Name what differs in what decided two results, except the seed: parameters with both values, then code and data by path."""
    before, after = _parameters(a), _parameters(b)
    names = [name for name in _changed(before, after) if name != _SEED]
    files = _changed(_files(a), _files(b))
    if any(name.startswith("data.") for name in names):  # the prepared data differ because of it
        files = [name for name in files if name != paths.DATASET]
    return [f"{name} {before.get(name, '-')} → {after.get(name, '-')}" for name in names] + files


def seed(revision: Result) -> str:
    """Return the seed that a result was made with."""
    return _parameters(revision).get(_SEED, "?")


def require_same_test(results: Sequence[Predicted]) -> None:
    """Raise UserError if results do not have the same test images, classes and order of either."""
    first, *others = results
    for other in others:
        pair = f"{first.revision} and {other.revision}"
        names = [each.predictions.class_names for each in (first, other)]
        labels = [each.predictions.labels for each in (first, other)]
        if names[0] != names[1]:
            missing = sorted({*names[0]} ^ {*names[1]})
            which = f": {', '.join(missing[:3])}" if missing else " by their order"
            raise UserError(f"{pair} have different classes{which}: they cannot be compared")
        if len(labels[0]) != len(labels[1]):
            raise UserError(f"{pair} have different test sets: {len(labels[0])} images and {len(labels[1])}")
        if (labels[0] != labels[1]).any() or not _are_same_images(first, other):
            raise UserError(f"{pair} have different test sets: they cannot be compared")


def _are_same_images(a: Predicted, b: Predicted) -> bool:
    """Tell whether two results have the same test images.

    Raises UserError if nothing tells: an earlier version, which kept no hash of the images, prepared a folder of them.
    """
    if a.test_sha256 and b.test_sha256:
        return a.test_sha256 == b.test_sha256
    if a.description.source != b.description.source:
        return False
    if a.description.normalization == b.description.normalization:
        return a.prepared_sha256 == b.prepared_sha256
    if a.description.source == "folder":
        old = b if a.test_sha256 else a
        raise UserError(
            f"{a.revision} and {b.revision} may have different test images: {old.revision} was prepared by an earlier version, "
            "which recorded no hash of them. Run `dvc repro` with this version and its parameters and images"
        )
    deciding = ("data.seed", "data.shapes.num_test") if a.description.source == "shapes" else ()
    return all(a.parameters.get(name) == b.parameters.get(name) for name in deciding)


def _parameters(revision: Result) -> dict[str, str]:
    """Return the parameters that decided a result, by dotted name without the recipe's: recipes.lab.train.x is train.x."""
    values = flatten(revision.record.params)
    return {re.sub(r"^recipes\.[^.]*\.", "", key): str(value) for key, value in values.items()}


def _files(revision: Result) -> dict[str, str]:
    """Return the hashes of the code and data that decided a result, by path."""
    return revision.record.dependencies | {paths.DATASET: revision.md5(paths.DATASET) or ""}


def _changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]
