"""What DVC records of the stages that ran: dvc.lock, a .dvc file, a record of the run cache."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from samebits.errors import UserError


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, in C if it was built with it: ten times as fast. It takes 1e-05 for a number, as DVC does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


@dataclass(frozen=True)
class Output:
    """A file that a stage has written."""

    stage: str
    path: str
    md5: str
    size: int


@dataclass(frozen=True)
class Stage:
    """What a stage read and wrote: dependencies are MD5s by path, parameters have the dotted keys of dvc.yaml."""

    cmd: str = ""
    dependencies: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """The stages by name, in the order in which they first ran. That of a .dvc file or of the run cache has no name: ""."""

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
        """The dependencies of all stages, except those that are outputs."""
        paths, hashes = self.hashes, [stage.dependencies for stage in self.stages.values()]
        return {path: md5 for each in hashes for path, md5 in each.items() if path not in paths}

    @property
    def misfits(self) -> dict[str, list[str]]:
        """For each stage that has some: dependencies that are not the recorded outputs of the stages before it."""
        hashes = self.hashes
        misfits = {
            name: [path for path, md5 in stage.dependencies.items() if hashes.get(path, md5) != md5]
            for name, stage in self.stages.items()
        }
        return {name: paths for name, paths in misfits.items() if paths}


def read(content: bytes, name: str) -> Record:
    """Read a record. Raises UserError, calling it `name`, if it is none."""
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
    except yaml.YAMLError as error:
        raise UserError(f"{name} is damaged: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{name} is damaged: it is no mapping")
    return values


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys as DVC has them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def paths(definition: Mapping[str, Any], *kinds: str) -> set[str]:
    """Return the paths of these kinds (deps, outs, ...) that a stage of dvc.yaml names; some are followed by settings."""
    entries = [entry for kind in kinds for entry in definition.get(kind, [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def _stage(name: str, recorded: Mapping[str, Any]) -> Stage:
    return Stage(
        recorded.get("cmd", ""),
        {entry["path"]: entry.get("md5", "") for entry in recorded.get("deps", [])},
        {key: value for values in recorded.get("params", {}).values() for key, value in values.items()},
        [Output(name, entry["path"], entry.get("md5", ""), entry.get("size", 0)) for entry in recorded.get("outs", [])],
    )
