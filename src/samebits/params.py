"""What params.yaml may say: typed and strict. Every error names the key, its value and what is allowed."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from samebits import parts
from samebits.errors import UserError
from samebits.quantities import Count, CountOrZero, Precision, Seed

NumThreads = Annotated[int, Field(ge=1, le=1024)]


def _power_of_two(number: int) -> int:
    if number < 1 or number.bit_count() != 1:
        raise PydanticCustomError("power_of_two", "Input should be a power of two: 1, 2, 4, 8, ...")
    return number


def _num_processes(number: Any) -> Any:
    if number != "auto" and (type(number) is not int or number < 1 or number.bit_count() != 1):
        raise PydanticCustomError("num_processes", "Input should be auto or a power of two: 1, 2, 4, 8, ...")
    return number


class Section(BaseModel):
    """Keys and values of a file that people write: typed, strict, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Return what params.yaml says, as plain values: what is absent leaves no trace."""
        return super().model_dump(**{"exclude_unset": True} | options)


class Part(Section):
    """A part of a recipe, tagged by its name; its settings are those of its code (`samebits.parts`)."""

    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that params.yaml gives."""
        return self.model_dump(exclude={"name"})


class _Kind:
    """Marks a section as one of the parts of a kind, each with settings of its own."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        sections = {}
        for name in parts.names(self._kind):
            fields: dict[str, Any] = {"name": (Literal[name], ...), **parts.settings(self._kind, name)}
            sections[name] = handler.generate_schema(create_model(name, __base__=Part, **fields))
        return core_schema.tagged_union_schema(sections, discriminator="name")


def part(kind: str, values: Any) -> Part:
    """Check a section that describes a part of a kind. Raises ValidationError, a ValueError, if it is none."""
    checked: Part = TypeAdapter(Annotated[Part, _Kind(kind)]).validate_python(values)
    return checked


class Shapes(Section):
    """How many images the embedded data set draws."""

    num_train: Count
    num_test: Count


class Folder(Section):
    """How the user's own images are divided, and what may be among them."""

    test_percent: Annotated[int, Field(ge=1, le=99)]
    validation_percent: Annotated[int, Field(ge=0, le=98)]
    duplicates: Literal["fail", "allow"]
    broken: Literal["stop", "skip"] = "stop"


def _data_path(path: str) -> str:
    if path.startswith("~"):
        whole = os.path.expanduser(path)
        raise PydanticCustomError("tilde", "DVC does not expand ~, so write {whole}", {"whole": whole})
    if os.path.normpath(path).split(os.sep)[0] == "..":
        whole = os.path.abspath(path)
        raise PydanticCustomError("outside", "Temporary clones have no such path, so write {whole}", {"whole": whole})
    return path


class Data(Section):
    """What prepare depends on."""

    source: Literal[*parts.data_sources()]  # type: ignore[valid-type]
    path: Annotated[str, Field(min_length=1), AfterValidator(_data_path)]
    seed: Seed
    num_validation: CountOrZero
    normalization: Literal["per_channel", "half", "none"]
    image_size: Annotated[int, Field(ge=1, le=4096)]
    shapes: Shapes
    folder: Folder

    @property
    def is_own(self) -> bool:
        """Whether the images are the user's own: `path` leads to them, and they may be any."""
        return self.source not in ("cifar10", "shapes")


class DataPruning(Section):
    """Which images a training leaves out because the network has learnt them: half of them at most, so none for two epochs in a row."""

    first_epoch: Annotated[int, Field(ge=2, lt=2**31)]
    percent: Annotated[int, Field(ge=1, le=50)]


class Train(Section):
    """How a network is trained."""

    optimizer: Annotated[Part, _Kind("optimizer")]
    schedule: Annotated[Part, _Kind("schedule")] | None = None  # of the learning rate, which is constant without one
    augmentation: list[Annotated[Part, _Kind("augmentation")]] = []  # one after the other
    data_pruning: DataPruning | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Precision
    batch_size: Count
    num_shards: Annotated[int, AfterValidator(_power_of_two)] = 1  # of each mini-batch, for several processes
    num_epochs: Count
    report_every_steps: Count
    num_threads: NumThreads

    @model_validator(mode="after")
    def _shards_have_images(self) -> "Train":
        if self.num_shards > self.batch_size:
            raise ValueError(f"num_shards is {self.num_shards}: must not be more than batch_size, {self.batch_size}")
        return self


class Evaluate(Section):
    """How a trained network is measured and shown."""

    metrics: list[Annotated[Part, _Kind("metric")]] = []  # beside those of every evaluation
    precision: Precision
    test_time_augmentation: Literal["none", "mirror", "mirror_and_translate"]
    batch_size: Count
    num_pictures: Annotated[int, Field(ge=1, le=40)]
    num_threads: NumThreads


class Recipe(Section):
    """One way to a trained network.

    `portable`: the same bits on every x86-64 processor with AVX2; `exact`: on the same kind of machine; `fast`: the fastest kernels of a GPU.
    """

    determinism: Literal["portable", "exact", "fast"]
    model: Annotated[Part, _Kind("model")]
    train: Train
    evaluate: Evaluate

    @model_validator(mode="after")
    def _is_portable(self) -> "Recipe":
        if self.determinism == "portable":
            for section, values in (("train", self.train), ("evaluate", self.evaluate)):
                if values.precision != "float32" or values.num_threads != 1:
                    raise ValueError(
                        f"determinism is portable, so {section} needs precision float32 and num_threads 1: processors round "
                        "other precisions in their own ways, and other numbers of threads add in other orders; or set determinism to exact"
                    )
        return self

    @property
    def parts(self) -> list[tuple[str, str]]:
        """The kind and the name of each part."""
        named = [("model", self.model), ("optimizer", self.train.optimizer), ("schedule", self.train.schedule)]
        named += [("augmentation", each) for each in self.train.augmentation]
        named += [("metric", each) for each in self.evaluate.metrics]
        return [(kind, part.name) for kind, part in named if part is not None]


def _named(recipes: dict[str, Recipe]) -> dict[str, Recipe]:
    for name in recipes:
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(
                f"{name!r} cannot be the name of a recipe: use letters, digits, - and _ (for DVC a dot separates keys)"
            )
    return recipes


class Params(Section):
    """The whole of params.yaml."""

    recipe: str
    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    checkpoint_every_seconds: Annotated[float, Field(gt=0)]
    num_processes: Annotated[int | Literal["auto"], BeforeValidator(_num_processes)] = "auto"  # decides no result
    data: Data
    recipes: Annotated[dict[str, Recipe], Field(min_length=1), AfterValidator(_named)]

    @model_validator(mode="after")
    def _sections_fit_together(self) -> "Params":
        if self.recipe not in self.recipes:
            raise ValueError(f"recipe is {self.recipe!r}: must be one of {', '.join(self.recipes)}")
        network, size = self.chosen.model.name, self.data.image_size
        least = parts.min_side(network)
        if self.data.source == "folder" and least and size < least:
            raise ValueError(
                f"data.image_size is {size}: the network {network} of recipe {self.recipe} needs at least {least}"
            )
        num_shards = self.chosen.train.num_shards
        if self.num_processes != "auto" and self.num_processes > num_shards:
            raise ValueError(
                f"num_processes is {self.num_processes}: must not be more than recipes.{self.recipe}.train.num_shards, "
                f"which is {num_shards}; auto is always possible"
            )
        return self

    @property
    def chosen(self) -> Recipe:
        """The recipe that `recipe` names."""
        return self.recipes[self.recipe]

    def resolved(self) -> dict[str, Any]:
        """Return all that decides a result, as plain values: without other recipes and without what is absent."""
        return self.model_dump(include={"recipe", "seed", "device", "data"}) | self.chosen.model_dump()


def load(path: Path) -> Params:
    """Read and check the whole of `path`. Raises UserError with one line for the first mistake."""
    try:
        return parse(path.read_bytes(), path.name)
    except FileNotFoundError:
        raise UserError(f"{path.name} is not there: restore it with `git checkout {path.name}`") from None


def parse(content: bytes, name: str) -> Params:
    """Check the content of the file `name`. Raises UserError with one line for the first mistake."""
    try:
        return Params.model_validate(read(content, name))
    except ValidationError as error:
        raise UserError(f"{name}: {first_line(error)}") from None


def read(content: bytes, name: str, keys: str = "recipe, seed, device, data, recipes") -> dict[str, Any]:
    """Return the values in the content of the file `name`, unchecked. Raises UserError if they cannot be read."""
    try:
        # The parser that DVC reads the file with, so that both see the same values (1e-3 is a number, `no` a string).
        values = YAML(typ="safe").load(content.decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text: byte {error.start} cannot be read") from None
    except (YAMLError, ValueError, TypeError) as error:  # the latter two from a date such as 2026-02-30, or `!!int x`
        raise UserError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{name} must hold keys and values ({keys}), not {values!r}")
    return values


def first_line(error: ValidationError) -> str:
    """Return the first mistake in one line: the key, its value and what is allowed."""
    first, *others = error.errors()
    key = ".".join(_path(first["loc"]))
    match first["type"]:
        case "extra_forbidden":
            line = f"{key} is not a known key: remove it or correct its spelling"
        case "missing":
            line = f"{key} is missing: add it"
        case "union_tag_not_found" if isinstance(first["input"], dict):
            line = f"{key}.name is missing: add it"
        case "union_tag_invalid":
            line = f"{key}.name is {first['ctx']['tag']!r}: must be one of {first['ctx']['expected_tags']}"
        case "union_tag_not_found" | "model_attributes_type":
            line = f"{key} is {first['input']!r}: must hold a name and settings"
        case "value_error":
            line = ": ".join(filter(None, (key, str(first["ctx"]["error"]))))
        case _:
            allowed = re.sub(r"^\w+ should", "must", first["msg"])
            line = f"{key} is {first['input']!r}: {allowed}"
    return line + (f" (and {len(others)} more)" if others else "")


def _path(loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys that lead to a value, without the names of parts, which pydantic adds to them."""
    keys = [str(key) for key in loc]
    for place, key in enumerate(keys):
        kind = "metric" if key == "metrics" else key
        tag = place + (2 if key in ("augmentation", "metrics") else 1)
        if kind in parts.KINDS and tag < len(keys) and keys[tag] in parts.names(kind):
            return keys[:tag] + keys[tag + 1 :]
    return keys
