"""A trained network in one file, enough to use it without params.yaml, data or history. Opening a stranger's runs no code."""

import json
import textwrap
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from samebits import atomic, models, params
from samebits.data.prepared import Description
from samebits.errors import UserError, printable
from samebits.repository.dvc_lock import flatten


@dataclass(frozen=True)
class Checkpoint:
    """The weights, how they came about, and what their input and output mean."""

    weights: dict[str, torch.Tensor]
    recipe: dict[str, Any]  # recipe name, seed, model and train parameters
    description: Description  # class names, image shape, normalization
    data_md5: str = ""  # of the dataset.json that it was trained on; "" in checkpoints of before this was noted

    def network(self) -> nn.Module:
        """Build the network with these weights, in evaluation mode. Raises UserError if they do not fit."""
        try:
            model = params.part("model", _of_today(self.recipe["model"]))
            shape, num_classes = self.description.image_shape, len(self.description.class_names)
            normalization = self.description.normalization
            if {len(normalization.mean), len(normalization.std)} != {shape[0]}:
                raise ValueError(f"its normalization is not one of {shape[0]} channels")
            # First without memory, for a small file may claim a network of any size; it warns of copying nothing.
            with torch.device("meta"), warnings.catch_warnings(action="ignore"):
                claimed = models.build(model, shape, num_classes, seed=0)
                claimed.load_state_dict({name: tensor.to("meta") for name, tensor in self.weights.items()})
            network = models.build(model, shape, num_classes, seed=0)
            network.load_state_dict(self.weights)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"the checkpoint does not describe a network of this version: {_one_line(error)}") from None
        return network.eval()

    def require(self, settings: params.Params, description: Description, data_md5: str, path: Path) -> None:
        """Raise UserError, calling this `path`, if it was trained in another way or on other data than asked for."""
        asked = {"recipe": settings.recipe, "seed": settings.seed}
        asked |= settings.chosen.model_dump(include={"model", "train"})
        own, other = flatten(self.recipe), flatten(asked)
        keys = [key for key in {**own, **other} if own.get(key) != other.get(key)]
        differing = [f"{key} {own.get(key)}, not {other.get(key)}" for key in keys]
        if self.description != description or self.data_md5 not in ("", data_md5):
            differing.append("other data than data/prepared holds")
        if differing:
            raise UserError(
                f"{path} was trained with {', '.join(differing)}: run `dvc repro --force --single-item train` and `dvc repro`; "
                "`samebits check` says whether its record is false"
            )


class _Meaning(BaseModel):
    """The text beside the weights. Read as strictly as params.yaml: anybody may have written it."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    recipe: dict[str, Any]
    description: Description
    data_md5: str = ""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`, whole or not at all; equal content gives equal bytes."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
    # One metadata key: with more their order, and so the bytes, would vary.
    description = asdict(checkpoint.description)
    meaning = {"recipe": checkpoint.recipe, "description": description, "data_md5": checkpoint.data_md5}
    with atomic.replacing(path) as temporary:
        try:
            save_file(weights, temporary, {"samebits": json.dumps(meaning, sort_keys=True)})
        except SafetensorError as error:
            raise UserError(f"{path} could not be written: {error}") from None


def load(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises UserError if `path` is missing, damaged or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            meaning = _Meaning.model_validate_json((file.metadata() or {}).get("samebits", ""))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        return Checkpoint(weights, meaning.recipe, meaning.description, meaning.data_md5)
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run `dvc repro`") from None
    except (SafetensorError, ValidationError, OSError) as error:
        raise UserError(f"{path} is not a checkpoint of samebits, or is damaged ({_one_line(error)})") from None


def _of_today(model: Any) -> Any:
    """Return the section `model` of any version as today's: earlier ones named the only initialization of speed."""
    if isinstance(model, dict) and model.get("initialization") == "partial_identity":
        return {key: value for key, value in model.items() if key != "initialization"}
    return model


def _one_line(error: Exception) -> str:
    """Shorten what pydantic and PyTorch spread over many lines, and what a stranger wrote for the terminal to obey."""
    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        text = ": ".join([*(str(part) for part in first["loc"]), first["msg"]])
    return printable(textwrap.shorten(text, 300, placeholder=" ..."))
