"""Settings for any network, optimizer, schedule, augmentation or metric: so a new one is tested by being there."""

from itertools import product
from typing import Any, Literal, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from samebits import params, parts
from tests.conftest import NARROW, PROJECT

# Tried in turn for a setting without a recipe that uses it: small, so that a network is small.
_VALUES = (4, 8, 0.01, "a", True, [8, 16, 16])
RECIPES = params.load(PROJECT / "params.yaml").recipes


def variants(kind: str, name: str) -> list[dict[str, Any]]:
    """Return sections for a part, one for each choice that its settings offer."""
    choices = {key: _choices(annotation) for key, (annotation, _) in parts.settings(kind, name).items()}
    return [{"name": name} | dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def used(kind: str, name: str) -> dict[str, Any]:
    """Return the section of a recipe that uses a part, or one of its variants if there is none."""
    for recipe in RECIPES.values():
        sections = {
            "optimizer": [recipe.train.optimizer],
            "augmentation": recipe.train.augmentation,
            "schedule": [recipe.train.schedule] if recipe.train.schedule else [],
            "metric": recipe.evaluate.metrics,
        }
        if found := [section.model_dump() for section in sections[kind] if section.name == name]:
            return found[0]
    return variants(kind, name)[0]


def narrow(model: params.Part) -> params.Part:
    """Return a network of this kind with few channels, if it can have few."""
    return params.part("model", model.model_dump() | NARROW.get(model.name, {}))


def _choices(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [next(value for value in _VALUES if _is_valid(annotation, value))]


def _is_valid(annotation: Any, value: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True
