"""What params.yaml may say: typed and strict. Every error names the key, its value and what is allowed."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from samebits.errors import UserError

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
NumThreads = Annotated[int, Field(ge=1, le=1024)]
LearningRate = Annotated[float, Field(gt=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["float32", "bfloat16"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Shapes(_Section):
    """How many images the embedded data set draws."""

    num_train: Count
    num_test: Count


class Folder(_Section):
    """How the user's own images are divided, and what may be among them."""

    test_percent: Annotated[int, Field(ge=1, le=99)]
    validation_percent: Annotated[int, Field(ge=0, le=98)]
    duplicates: Literal["fail", "allow"]


class Data(_Section):
    """What prepare depends on."""

    source: Literal["cifar10", "shapes", "folder"]
    path: Annotated[str, Field(min_length=1)]
    seed: Seed
    num_validation: Annotated[int, Field(ge=0)]
    normalization: Literal["per_channel", "half", "none"]
    image_size: Annotated[int, Field(ge=1, le=4096)]
    shapes: Shapes
    folder: Folder


class Model(_Section):
    """Which network, and how its weights begin."""

    name: Literal["lab", "linear", "speed"]
    initialization: Literal["pytorch", "he", "zero", "partial_identity"]


class Muon(_Section):
    """What beside its filters a network trained by muon needs: SGD of its biases and its last layer."""

    bias_learning_rate: LearningRate  # for the sum of a mini-batch's losses, as those below
    whitening_bias_num_epochs: Count  # then the bias of the whitening layer stands still
    head_learning_rate: LearningRate
    momentum: Momentum
    weight_decay: Annotated[float, Field(ge=0)]


class Resizing(_Section):
    """Progressive resizing: the first epochs see smaller images."""

    num_epochs: Count
    side: Count  # pixels


class Train(_Section):
    """How a network is trained."""

    optimizer: Literal["sgd", "muon"]
    learning_rate: LearningRate
    momentum: Momentum
    schedule: Literal["constant", "linear"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    flip: Literal["none", "alternating"]
    translate: Annotated[int, Field(ge=0)]  # pixels
    precision: Precision
    batch_size: Count
    num_epochs: Count
    report_every_steps: Count
    num_threads: NumThreads
    muon: Muon | None = None
    resizing: Resizing | None = None

    @model_validator(mode="after")
    def _muon_is_described(self) -> "Train":
        if (self.optimizer == "muon") != (self.muon is not None):
            raise ValueError(
                f"optimizer is {self.optimizer!r}: the section muon belongs to optimizer muon, and only to it"
            )
        return self


class Evaluate(_Section):
    """How a trained network is measured and shown."""

    precision: Precision
    test_time_augmentation: Literal["none", "mirror", "mirror_and_translate"]
    batch_size: Count
    num_pictures: Annotated[int, Field(ge=1, le=40)]
    num_threads: NumThreads


class Recipe(_Section):
    """One way to a trained network."""

    model: Model
    train: Train
    evaluate: Evaluate

    @model_validator(mode="after")
    def _network_fits(self) -> "Recipe":
        network = self.model.name
        if (network == "speed") != (self.model.initialization == "partial_identity"):
            raise ValueError(
                f"model.initialization is {self.model.initialization!r}: the network speed begins by partial_identity, "
                "and only this one"
            )
        if network != "speed" and (self.train.optimizer == "muon" or self.train.resizing):
            raise ValueError(f"model.name is {network!r}: optimizer muon and resizing need the network speed")
        return self


class Params(_Section):
    """The whole of params.yaml."""

    recipe: str
    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    determinism: Literal["exact", "fast"]
    checkpoint_every_seconds: Annotated[float, Field(gt=0)]
    data: Data
    recipes: Annotated[dict[str, Recipe], Field(min_length=1)]

    @model_validator(mode="after")
    def _recipe_exists(self) -> "Params":
        if self.recipe not in self.recipes:
            raise ValueError(f"recipe is {self.recipe!r}: must be one of {', '.join(self.recipes)}")
        return self

    @property
    def chosen(self) -> Recipe:
        """The recipe that `recipe` names."""
        return self.recipes[self.recipe]

    def resolved(self) -> dict[str, Any]:
        """All that decides a result, as plain values: other recipes, and sections that are not there, are left out."""
        return {
            "recipe": self.recipe,
            "seed": self.seed,
            "device": self.device,
            "determinism": self.determinism,
            "data": self.data.model_dump(),
            **self.chosen.model_dump(exclude_none=True),
        }


def load(path: Path) -> Params:
    """Read and check the whole of `path`. Raises UserError with one line for the first thing that is wrong."""
    try:
        return parse(path.read_bytes(), path.name)
    except FileNotFoundError:
        raise UserError(f"{path.name} is not there: restore it with `git checkout {path.name}`") from None


def parse(content: bytes, name: str) -> Params:
    """Check the content of the file `name`. Raises UserError with one line for the first thing that is wrong."""
    try:
        return Params.model_validate(read(content, name))
    except ValidationError as error:
        raise UserError(f"{name}: {_first_line(error)}") from None


def read(content: bytes, name: str) -> dict[str, Any]:
    """Return the values in the content of the file `name`, not checked. Raises UserError if they cannot be read."""
    try:
        # The parser that DVC reads the file with, so that both see the same values (1e-3 is a number, `no` a string).
        values = YAML(typ="safe").load(content.decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text: byte {error.start} cannot be read") from None
    except YAMLError as error:
        raise UserError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{name} must hold keys and values (recipe, seed, device, data, recipes), not {values!r}")
    return values


def _first_line(error: ValidationError) -> str:
    first, *others = error.errors()
    key = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            line = f"{key} is not a known key: remove it or correct its spelling"
        case "missing":
            line = f"{key} is missing: add it"
        case "value_error":
            line = ": ".join(filter(None, (key, str(first["ctx"]["error"]))))
        case _:
            line = f"{key} is {first['input']!r}: {_allowed(first)}"
    return line + (f" (and {len(others)} more)" if others else "")


def _allowed(error: Any) -> str:
    return re.sub(r"^\w+ should", "must", error["msg"])
