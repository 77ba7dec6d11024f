"""One revision: its files in git, what its dvc.lock records, and the recorded outputs where they can still be had."""

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from samebits.errors import UserError
from samebits.repository import git


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, in C where it was built with it: ten times as fast. It takes 1e-05 for a number, as DVC does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
# What a revision must hold, and what it means where it does not.
_WITHOUT = {
    "dvc.yaml": "it is from before the pipeline",
    "dvc.lock": "it is from before the first result, which `dvc repro` and a commit of dvc.lock record",
}


@dataclass(frozen=True)
class Output:
    """A file that a stage has written, as dvc.lock records it."""

    stage: str
    path: str
    md5: str
    size: int


@dataclass(frozen=True)
class Record:
    """A dvc.lock: the outputs of every stage in the order in which they first ran, and the inputs that do not fit them."""

    outputs: list[Output]
    misfits: dict[str, list[str]]  # by stage: inputs that are not the recorded outputs of the stages before
    params: dict[str, Any] = field(default_factory=dict)  # of all stages, by dotted keys as dvc.yaml names them
    dependencies: dict[str, str] = field(default_factory=dict)  # MD5s by path, those that are outputs left out


@dataclass(frozen=True)
class Revision:
    """A commit of the repository in `root` with the pipeline and its record, as the user named it."""

    root: Path
    name: str
    commit: str
    record: Record

    def __str__(self) -> str:
        short = self.commit[:7]
        return short if self.commit.startswith(self.name) else f"{self.name} ({short})"

    def yaml(self, path: str) -> dict[str, Any]:
        """Parse the YAML file `path`; empty where there is none. Raises UserError where it is none."""
        return mapping(self._file(path), f"{path} of {self}")

    def md5(self, path: str) -> str | None:
        """Give the recorded hash of an output; None where there is no such output."""
        return next((output.md5 for output in self.record.outputs if output.path == path), None)

    def read(self, path: str) -> bytes | None:
        """Give the content of a file from git, DVC's cache or its remote; None where none of them has it whole."""
        if content := self._file(path):
            return content
        from dvc.api import DVCFileSystem

        try:
            # The remotes of today: a revision from before a remote was named knows of none.
            content = DVCFileSystem(str(self.root), rev=self.commit, config=_remotes(self.root)).read_bytes(path)
        except Exception:  # a remote fails in as many ways as there are remotes
            return None
        return content if hashlib.md5(content).hexdigest() == self.md5(path) else None

    def _file(self, path: str) -> bytes:
        return git.read(self.root, self.commit, path)


@dataclass(frozen=True)
class Workspace(Revision):
    """What lies in the workspace now, and what its dvc.lock records; `commit` is the one that it stands on."""

    def __str__(self) -> str:
        return self.name

    def read(self, path: str) -> bytes | None:
        """Give the content of a file from the workspace or DVC's cache; None where neither has it as it is recorded."""
        from dvc.api import DVCFileSystem

        try:
            content = self._file(path) or DVCFileSystem(str(self.root)).read_bytes(path)
        except Exception:  # a remote fails in as many ways as there are remotes
            return None
        return content if self.md5(path) in (None, hashlib.md5(content).hexdigest()) else None

    def _file(self, path: str) -> bytes:
        file = self.root / path
        return file.read_bytes() if file.is_file() else b""


_Revision = TypeVar("_Revision", bound=Revision)


def find(root: Path, name: str) -> Revision:
    """Find the commit, branch, tag or DVC experiment `name`. Raises UserError where it is none, or holds no result."""
    commits = [commit] if (commit := git.commit(root, name)) else git.experiments(root, name)
    if not commits:
        raise UserError(
            f"{name} is no revision of {root}: give a commit, a branch, a tag or the name of a DVC experiment"
        )
    if len(commits) > 1:
        raise UserError(f"{name} is the name of {len(commits)} experiments: give a commit, {', '.join(commits)}")
    return _with_record(Revision(root, name, commits[0], Record([], {})))


def workspace(root: Path) -> Workspace:
    """Give what lies in the workspace `root`. Raises UserError where it holds no result."""
    return _with_record(Workspace(root, "workspace", git.commit(root) or "", Record([], {})))


def _with_record(empty: _Revision) -> _Revision:
    for path, why in _WITHOUT.items():
        if not empty._file(path):
            raise UserError(f"{empty} has no {path}: {why}")
    return replace(empty, record=read_lock(empty._file("dvc.lock"), f"dvc.lock of {empty}"))


def _remotes(root: Path) -> dict[str, Any]:
    """Give the part of the workspace's DVC settings that names remotes."""
    from dvc.repo import Repo

    with Repo(str(root)) as repository:
        default = repository.config["core"].get("remote")
        return {"core": {"remote": default} if default else {}, "remote": repository.config["remote"]}


def read_lock(content: bytes, name: str) -> Record:
    """Read a dvc.lock. Raises UserError, calling it `name`, where it is none."""
    stages = mapping(content, name).get("stages", {})
    try:
        outputs = [
            Output(stage, entry["path"], entry.get("md5", ""), entry.get("size", 0))
            for stage, recorded in stages.items()
            for entry in recorded.get("outs", [])
        ]
        hashes = {output.path: output.md5 for output in outputs}
        misfits = {
            stage: [
                path
                for entry in recorded.get("deps", [])
                if hashes.get(path := entry["path"], md5 := entry.get("md5", "")) != md5
            ]
            for stage, recorded in stages.items()
        }
        params = {
            key: value
            for recorded in stages.values()
            for values in recorded.get("params", {}).values()
            for key, value in values.items()
        }
        dependencies = {
            entry["path"]: entry.get("md5", "")
            for recorded in stages.values()
            for entry in recorded.get("deps", [])
            if entry["path"] not in hashes
        }
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{name} is damaged: it is not what DVC writes") from None
    return Record(outputs, {stage: paths for stage, paths in misfits.items() if paths}, params, dependencies)


def mapping(content: bytes, name: str) -> dict[str, Any]:
    """Parse YAML that holds keys and values. Raises UserError, calling it `name`, where it does not."""
    try:
        values = yaml.load(content, _Loader) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{name} is damaged: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{name} is damaged: it is no mapping")
    return values
