"""What DVC records of stages that ran: in dvc.lock, in a .dvc file, in the run cache."""

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from ruamel.yaml.resolver import implicit_resolvers

from samebits.errors import UserError
from samebits.paths import LOCK, PARAMETERS


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, in C if available: ten times as fast as ruamel's, with which DVC reads and writes.

    Both know the same values: in YAML 1.2, 1e-05 is a number, `off` is a string, and 017 is 17.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}


for _versions, _tag, _pattern, _first in implicit_resolvers:
    if (1, 2) in _versions:
        _Loader.add_implicit_resolver(_tag, _pattern, _first)


def _integer(loader: Any, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    return int(text, 0 if text.lstrip("+-")[1:2].isalpha() else 10)  # 0x, 0o, 0b


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


@dataclass(frozen=True)
class Output:
    """A file or folder that a stage wrote, its size in bytes."""

    stage: str
    path: str
    md5: str
    size: int


@dataclass(frozen=True)
class Stage:
    """What a stage read and wrote: dependencies are MD5s by path, parameters have the dotted keys of dvc.yaml."""

    dependencies: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """The stages by name, in the order in which they first ran. The stage of a .dvc file or of the run cache is called ""."""

    stages: dict[str, Stage]

    @classmethod
    def of(cls, outputs: Iterable[Output]) -> "Record":
        """Return a record of which only the outputs are known."""
        stages: dict[str, Stage] = {}
        for output in outputs:
            stages.setdefault(output.stage, Stage()).outputs.append(output)
        return cls(stages)

    @property
    def outputs(self) -> list[Output]:
        """The outputs of all stages."""
        return [output for stage in self.stages.values() for output in stage.outputs]

    @property
    def hashes(self) -> dict[str, str]:
        """The MD5 of each output by path."""
        return {output.path: output.md5 for output in self.outputs}

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of all stages."""
        return {key: value for stage in self.stages.values() for key, value in stage.params.items()}

    @property
    def dependencies(self) -> dict[str, str]:
        """The MD5 of each dependency that is no output, by path."""
        read = {path: md5 for stage in self.stages.values() for path, md5 in stage.dependencies.items()}
        return {path: md5 for path, md5 in read.items() if path not in self.hashes}

    @property
    def misfits(self) -> dict[str, list[str]]:
        """By stage: the dependencies whose MD5 is not that of the recorded output."""
        hashes = self.hashes
        return {
            name: paths
            for name, stage in self.stages.items()
            if (paths := [path for path, md5 in stage.dependencies.items() if hashes.get(path, md5) != md5])
        }


def of_workspace(root: Path) -> Record:
    """Read the dvc.lock in `root`; without one there are no stages. Raises UserError if it is damaged."""
    try:
        return read((root / LOCK).read_bytes(), LOCK)
    except FileNotFoundError:
        return Record({})
    except UserError as error:
        raise UserError(f"{error}; restore it with `git checkout {LOCK}`") from None


def read(content: bytes, name: str) -> Record:
    """Parse a record. Raises UserError, calling it `name`, if it is none."""
    values = mapping(content, name)
    try:
        stages = values.get("stages", {"": values} if "outs" in values else {})
        return Record({stage: _stage(stage, recorded) for stage, recorded in stages.items()})
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{name} is damaged: it is not what DVC writes") from None


def mapping(content: bytes, name: str) -> dict[str, Any]:
    """Parse YAML that holds keys and values. Raises UserError, calling it `name`, if it does not."""
    try:
        values = yaml.load(content, _Loader) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{name} is damaged: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{name} is damaged: it is no mapping")
    return values


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys as DVC writes them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def put(values: dict[str, Any], flattened: Mapping[str, Any]) -> dict[str, Any]:
    """Put parameters with dotted keys into nested ones, and return these; null removes a key."""
    for key, value in flattened.items():
        *names, last = key.split(".")
        section = values
        for name in names:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        if value is None:
            section.pop(last, None)
        else:
            section[last] = copy.deepcopy(value)  # a key within it may be put after it
    return values


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by dotted key, without those that are null: they are the same as absent."""
    return {key: value for key, value in flatten(values).items() if value is not None}


def _stage(name: str, recorded: Mapping[str, Any]) -> Stage:
    return Stage(
        {entry["path"]: entry.get("md5", "") for entry in recorded.get("deps", [])},
        recorded.get("params", {}).get(PARAMETERS, {}),
        [Output(name, entry["path"], entry.get("md5", ""), entry.get("size", 0)) for entry in recorded.get("outs", [])],
    )
