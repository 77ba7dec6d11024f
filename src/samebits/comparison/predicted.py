"""What a result is compared by: what the network predicted for each test image, and all that its dvc.lock says decided it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from samebits.data import prepared
from samebits.errors import UserError
from samebits.evaluation import predictions
from samebits.evaluation.predictions import Predictions
from samebits.repository.dvc_lock import flatten
from samebits.results import Result

PREDICTIONS = "data/evaluation/predictions.csv"
DESCRIPTION = f"data/prepared/{prepared.DESCRIPTION}"
_TEST_IMAGES = "data/prepared/test.safetensors"
_ENVIRONMENT = "metrics/environment.json"
_SEED = "seed"


@dataclass(frozen=True)
class Predicted:
    """A revision's predictions, the description of their data, the hash of its test images (None in results of earlier
    versions), and the parameters that decided it, by dotted name without the recipe's.
    """

    revision: Result
    predictions: Predictions
    description: prepared.Description
    test_sha256: str | None
    parameters: dict[str, str]

    @property
    def title(self) -> str:
        """Recipe, data and seed, in a few words."""
        recipe, seed = (self.parameters.get(name, "?") for name in ("recipe", _SEED))
        return f"{recipe} on {self.description.source}, seed {seed}"


def load(revision: Result) -> Predicted:
    """Read what a comparison needs. Raises UserError where it is not recorded, cannot be had or is damaged."""
    content = require(revision, DESCRIPTION)
    try:
        values = json.loads(content)
        description, test_sha256 = prepared.Description.from_json(values), values.get("raw_sha256", {}).get("test")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{DESCRIPTION} of {revision} is damaged ({error})") from None
    table = predictions.read(require(revision, PREDICTIONS), f"{PREDICTIONS} of {revision}")
    return Predicted(revision, table, description, test_sha256, _parameters(revision))


def require(revision: Result, path: str) -> bytes:
    """Return the content of an output. Raises UserError, saying what to pull, where it cannot be had."""
    if revision.md5(path) is None:
        raise UserError(f"{revision} records no {path}: run `dvc repro` there and commit dvc.lock")
    content = revision.read(path)
    if content is not None:
        return content
    if revision.is_workspace:
        raise UserError(f"{path} is not in the workspace as dvc.lock records it: run `dvc pull` or `dvc repro`")
    raise UserError(
        f"{path} of {revision} is neither in DVC's cache nor on its remote: have it pushed with `dvc push` from where it was "
        f"made, or make it again: git checkout {revision.commit[:7]}, dvc repro"
    )


def differences(a: Result, b: Result) -> list[str]:
    """Name what decided two results otherwise, the seed aside: parameters with both values, then code and data by path."""
    before, after = _parameters(a), _parameters(b)
    names = [name for name in _changed(before, after) if name != _SEED]
    files = _changed(_files(a), _files(b))
    if any(name.startswith("data.") for name in names):  # which is why the prepared data differ
        files = [name for name in files if name != DESCRIPTION]
    return [f"{name} {before.get(name, '-')} → {after.get(name, '-')}" for name in names] + files


def seed(revision: Result) -> str:
    """Return the seed that a result was made with."""
    return _parameters(revision).get(_SEED, "?")


def is_other_machine(a: Result, b: Result) -> bool:
    """Tell whether two results come from different kinds of machine."""
    return a.md5(_ENVIRONMENT) != b.md5(_ENVIRONMENT)


def require_same_test(results: Sequence[Predicted]) -> None:
    """Raise UserError where results are not about the same test images."""
    first, *others = results
    for other in others:
        pair = f"{first.revision} and {other.revision}"
        names = [each.predictions.class_names for each in (first, other)]
        labels = [each.predictions.labels for each in (first, other)]
        if names[0] != names[1]:
            missing = [name for name in {*names[0]} ^ {*names[1]}]
            which = f": {', '.join(sorted(missing)[:3])}" if missing else " by their order"
            raise UserError(f"{pair} have different classes{which}: they cannot be compared")
        if len(labels[0]) != len(labels[1]):
            raise UserError(f"{pair} have different test sets: {len(labels[0])} images and {len(labels[1])}")
        if (labels[0] != labels[1]).any() or not _are_same_images(first, other):
            raise UserError(f"{pair} have different test sets: they cannot be compared")


def _are_same_images(a: Predicted, b: Predicted) -> bool:
    """Tell whether two results are about the same test images.

    Raises UserError if that cannot be told: folders prepared by an earlier version, which kept no hash of the images.
    """
    if a.test_sha256 and b.test_sha256:
        return a.test_sha256 == b.test_sha256
    if a.description.source != b.description.source:
        return False
    if a.description.normalization == b.description.normalization:
        return a.revision.md5(_TEST_IMAGES) == b.revision.md5(_TEST_IMAGES)
    if a.description.source == "folder":
        old = b if a.test_sha256 else a
        raise UserError(
            f"{a.revision} and {b.revision} may have different test images: {old.revision} was prepared by an earlier version, "
            "which recorded no hash of them. Run `dvc repro` with this version and its parameters and images"
        )
    deciding = ("data.seed", "data.shapes.num_test") if a.description.source == "shapes" else ()
    return all(a.parameters.get(name) == b.parameters.get(name) for name in deciding)


def _parameters(revision: Result) -> dict[str, str]:
    """Return the parameters that decided a result, by dotted name without the recipe's."""
    return {_without_recipe(key): str(value) for key, value in flatten(revision.record.params).items()}


def _files(revision: Result) -> dict[str, str]:
    """Return the hashes of the code and data that decided a result, by path."""
    return revision.record.dependencies | {DESCRIPTION: revision.md5(DESCRIPTION) or ""}


def _changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _without_recipe(key: str) -> str:
    """Take the recipe's name out of a parameter's, so that two recipes' parameters meet: recipes.lab.train.x is train.x."""
    parts = key.split(".")
    return ".".join(parts[2:]) if parts[0] == "recipes" and len(parts) > 2 else key
