"""What a search file may say: typed and strict, as params.yaml. Every error names the key, its value and what is allowed."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from samebits import params
from samebits.errors import UserError
from samebits.params import Params
from samebits.quantities import Count, Seed
from samebits.repository.dvc_lock import put

# A value of params.yaml: null (the key is absent), a number, a text, true or false, a list or a section.
ParamValue = Any

_KEYS = "name, seed, num_trials, parallelism, sampler, objective, parameters"
# Decide no result of a training, or are the search's own to choose.
_NOT_SEARCHED = ("seed", "checkpoint_every_seconds", "num_processes")
_NUM_CHECKED = 100  # values within a range


def _number(value: Any) -> Any:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise PydanticCustomError("number", "Input should be a number")
    return value


def _name(name: str) -> str:
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() or len(name) > 60:
        raise PydanticCustomError("name", "Input should be at most 60 letters, digits, - and _: experiments bear it")
    return name


def _objective(name: Any) -> Any:
    if name in ("accuracy", "loss", "test_accuracy", "test_loss"):
        raise PydanticCustomError(
            "test_set", "Input should be 'validation_accuracy' or 'validation_loss': the test set chooses nothing"
        )
    return name


Number = Annotated[Any, AfterValidator(_number)]


class Parameter(params.Section):
    """What a parameter may be: a number from `low` to `high` (both included), or one of `choices`."""

    low: Number = None
    high: Number = None
    log: bool = False
    step: Number = None
    choices: Annotated[list[JsonValue], Field(min_length=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _list_is_choices(cls, values: Any) -> Any:
        if not isinstance(values, list | dict):
            raise PydanticCustomError("parameter", "Input should be a list of choices, or have low and high")
        return {"choices": values} if isinstance(values, list) else values

    @model_validator(mode="after")
    def _is_range_or_choices(self) -> "Parameter":
        if self.choices is not None:
            if self.model_fields_set != {"choices"}:
                raise ValueError("a list of choices has no low, high, log or step")
            if len({json.dumps(each, sort_keys=True) for each in self.choices}) < len(self.choices):
                raise ValueError(f"{self.choices} names a choice twice: each must be another one")
        elif self.low is None or self.high is None:
            raise ValueError("must be a list of choices, or have low and high")
        elif self.low >= self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}: low must be less, or the range is empty")
        elif self.log and (self.low <= 0 or self.step is not None):
            raise ValueError(f"log needs a low above 0, which is {self.low}, and no step")
        elif self.step is not None and (self.step <= 0 or (self.is_integer and type(self.step) is not int)):
            raise ValueError(f"step is {self.step}: must be above 0, and whole if low and high are")
        return self

    @property
    def is_integer(self) -> bool:
        """Whether the range is one of whole numbers: low and high are written without a point."""
        return type(self.low) is int and type(self.high) is int

    @property
    def bounds(self) -> list[ParamValue]:
        """The choices, or both ends of the range."""
        return [self.low, self.high] if self.choices is None else self.choices

    @property
    def grid(self) -> Sequence[ParamValue] | None:
        """All values, if they can be counted: choices, whole numbers, or a range with a step."""
        if self.choices is not None:
            return self.choices
        if self.is_integer and not self.log:
            return range(self.low, self.high + 1, self.step or 1)
        if self.step is None:
            return None
        number = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return [self.low + place * self.step for place in range(number)]


class Confirm(params.Section):
    """How the winner is confirmed: on how many fresh seeds, each of the winner and of the baseline."""

    num_seeds: Annotated[int, Field(ge=3, lt=2**31)]


class SearchFile(params.Section):
    """The whole of a search file."""

    name: Annotated[str, AfterValidator(_name)]
    seed: Seed
    num_trials: Count
    parallelism: Count  # how many of the trials before it a proposal does not know
    sampler: Literal["tpe", "random", "grid", "gp"]
    objective: Annotated[Literal["validation_accuracy", "validation_loss"], BeforeValidator(_objective)]
    epoch: Literal["last", "best"] = "last"
    num_seeds: Count = 1  # trainings of each trial, whose mean is its objective
    prune: bool = False  # whether poor trials are stopped early
    parameters: Annotated[dict[str, Parameter], Field(min_length=1)]
    fixed: Annotated[dict[str, JsonValue], Field(default_factory=dict)]
    confirm: Confirm | None = None

    @model_validator(mode="after")
    def _keys_fit(self) -> "SearchFile":
        if self.sampler == "grid":
            for key, parameter in self.parameters.items():
                if parameter.grid is None:
                    raise ValueError(f"sampler is 'grid': parameters.{key} must be a list of choices or have a step")
            if self.num_trials > (size := math.prod(len(each.grid or ()) for each in self.parameters.values())):
                raise ValueError(f"num_trials is {self.num_trials}: must be at most {size}, the size of the grid")
        if self.prune and self.num_seeds > 1:
            raise ValueError(f"prune is true and num_seeds is {self.num_seeds}: a trial that is stopped has one seed")
        if both := self.parameters.keys() & self.fixed.keys():
            raise ValueError(f"{min(both)} is in parameters and in fixed: must be in one of them")
        return self

    @property
    def is_maximized(self) -> bool:
        """Whether more is better: of accuracy, not of loss."""
        return self.objective == "validation_accuracy"

    @property
    def fresh_seeds(self) -> tuple[int, ...]:
        """The seeds of the confirmation: those that follow the seeds of the trials, 0 to num_seeds − 1."""
        number = self.confirm.num_seeds if self.confirm else 0
        return tuple(range(self.num_seeds, self.num_seeds + number))

    def require(self, settings: dict[str, Any], name: str) -> None:
        """Check each value against params.yaml, whose content is `settings`.

        Raises UserError, calling the file `name`, for an unknown parameter, a value that it may not have, one that decides
        nothing, or a search without validation images.
        """
        for section, values in (("fixed", self.fixed), ("parameters", self.parameters)):
            for key in values:
                if key in _NOT_SEARCHED:
                    raise UserError(f"{name}: {section}.{key} cannot be chosen by a search: remove it")
        base = checked(settings, self.fixed, f"{name}: fixed")
        recipes = self.parameters["recipe"].bounds if "recipe" in self.parameters else [base.recipe]
        for key, parameter in self.parameters.items():
            top, _, rest = key.partition(".")
            recipe, _, rest = rest.partition(".")
            if top == "recipes" and recipe in base.recipes and recipe not in recipes:
                raise UserError(
                    f"{name}: parameters.{key} is of recipe {recipe}, but recipe is {base.recipe}: add `recipe: {recipe}` to fixed"
                )
            if top == "recipes" and rest.startswith("evaluate"):
                raise UserError(f"{name}: parameters.{key} changes no training: remove it")
            within = (parameter.grid or ())[:_NUM_CHECKED] if parameter.choices is None else ()
            for value in [*parameter.bounds, *within]:
                checked(settings, {**self.fixed, key: value}, f"{name}: parameters.{key}")
        if (
            not base.data.is_own  # one's own may have a validation folder
            and not base.data.num_validation
            and "data.num_validation" not in self.parameters
        ):
            raise UserError(
                f"{name}: {self.objective} needs validation images, and data.num_validation is 0: add "
                "data.num_validation to fixed, such as `data.num_validation: 5000`"
            )


def checked(settings: dict[str, Any], values: Mapping[str, ParamValue], name: str) -> Params:
    """Return the content of params.yaml with these values. Raises UserError, which begins with `name`, if it may not be."""
    try:
        return Params.model_validate(put(copy.deepcopy(settings), values))
    except ValidationError as error:
        raise UserError(f"{name}: {params.first_line(error)}") from None


def load(path: Path) -> SearchFile:
    """Read and check a search file. Raises UserError with one line for the first mistake."""
    try:
        return SearchFile.model_validate(params.read(path.read_bytes(), path.name, _KEYS))
    except FileNotFoundError:
        raise UserError(f"{path} is not there: write it, or name the file of your search") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name the file of your search") from None
    except ValidationError as error:
        raise UserError(f"{path.name}: {params.first_line(error)}") from None
