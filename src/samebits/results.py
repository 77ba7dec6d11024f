"""A result, wherever it lies: its code and parameters, what its stages recorded, and the files that came out."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from samebits.errors import UserError, printable
from samebits.params import Params
from samebits.paths import (
    CHECKPOINT,
    DATASET,
    HISTORY,
    LOCK,
    METRICS,
    PARAMETERS,
    PIPELINE,
    PREDICTIONS,
    split,
    whole_split,
)
from samebits.repository import cache as caches
from samebits.repository import dvc_lock, git
from samebits.repository.digests import md5_if_readable, md5_of
from samebits.repository.dvc_lock import Record
from samebits.repository.git import Origin
from samebits.repository.remote import open_remote

WORKSPACE = "workspace"
# Outputs without which a result is not complete.
_NEEDED = (DATASET, CHECKPOINT, HISTORY, METRICS)
# Reads the content that git holds under a name such as `main:params.yaml`.
Read = Callable[[str], bytes | None]


@dataclass(frozen=True)
class Result:
    """A result that the repository in `root` knows, called `name` by the user.

    Its files are those of `commit` ("" if there is none) with the changes in `patch`; `file` reads one of them.
    """

    name: str
    root: Path
    commit: str
    record: Record
    file: Read
    patch: bytes = b""
    experiment: str | None = None
    is_workspace: bool = False

    def __str__(self) -> str:
        if self.is_workspace:
            return self.name
        short, changes = self.commit[:7], " with its changes" if self.patch else ""
        return short if self.commit.startswith(self.name) else f"{self.name} ({short}{changes})"

    def yaml(self, path: str) -> dict[str, Any]:
        """Parse one of its YAML files; empty if there is none. Raises UserError if it is damaged."""
        return dvc_lock.mapping(self.file(path) or b"", f"{path} of {self}")

    def md5(self, path: str) -> str | None:
        """Return the recorded hash of an output; None if there is no such output."""
        return self.record.hashes.get(path)

    def at_hand(self, path: str) -> bytes | None:
        """Return an output as recorded, or any other file, from git or DVC's cache; None if neither has it."""
        content, md5 = self.file(path), self.md5(path)
        return content if not md5 or (content is not None and md5_of(content) == md5) else self.cache.read(md5)

    def place(self, path: str) -> Path | None:
        """Return where an output lies as recorded, in the workspace or in DVC's cache; None if it is in neither."""
        if not (md5 := self.md5(path)):
            return None
        places = [*([self.root / path] if self.is_workspace else []), self.cache.path(md5)]
        return next((place for place in places if md5_if_readable(place) == md5), None)

    def read(self, path: str) -> bytes | None:
        """Return what `at_hand` does; if that is nothing, ask DVC's default remote of today, whatever the revision."""
        content, md5 = self.at_hand(path), self.md5(path)
        if content is None and md5:
            with suppress(UserError):
                return self._from_remote(path, md5)
        return content

    def _from_remote(self, path: str, md5: str) -> bytes:
        """Return an object, which is `path`. Raises UserError if the default remote lacks it or cannot be used."""
        why = ""
        try:
            with open_remote(self.root) as remote:
                if (content := remote.read_object(md5)) is not None:
                    return content
        except UserError as error:
            why = f" ({error})"
        if self.is_workspace:
            raise UserError(f"{path} is not in the workspace as dvc.lock records it: run `dvc pull` or `dvc repro`")
        raise UserError(
            f"{path} of {self} is neither in DVC's cache nor on its remote{why}: run `dvc push` where it was made, "
            f"or make it again: git checkout {self.commit[:7]}, dvc repro"
        )

    def require(self, path: str) -> bytes:
        """Return the content of an output. Raises UserError, which says what to do, if it is nowhere to be found."""
        if (md5 := self.md5(path)) is None:
            raise UserError(f"{self} records no {path}: run `dvc repro` there and commit dvc.lock")
        content = self.at_hand(path)
        return self._from_remote(path, md5) if content is None else content

    @contextmanager
    def copied(self, path: str) -> Iterator[Path]:
        """Yield a path to read an output from, a file or folder, with its own name. Raises UserError as `require` does."""
        with tempfile.TemporaryDirectory(prefix="samebits-") as folder:
            copy = Path(folder) / Path(path).name
            if place := self.place(path):  # which need not fit into memory
                copy.symlink_to(place.absolute())
            elif (self.md5(path) or "").endswith(".dir"):
                copy.mkdir()
                for name, md5 in caches.members(self.require(path)).items():
                    if Path(name).is_absolute() or ".." in Path(name).parts:  # anybody may have written the list
                        raise UserError(f"{path} of {self} lists {printable(name)}, which is not in that folder")
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    if md5_if_readable(place := self.cache.path(md5)) == md5:
                        (copy / name).symlink_to(place.absolute())
                    else:
                        (copy / name).write_bytes(self._from_remote(f"{path}/{name}", md5))
            else:
                copy.write_bytes(self.require(path))
            yield copy

    def test_images(self) -> str:
        """Return the path of its prepared test images: a folder of parts, or one file in results of earlier versions."""
        whole = whole_split("test")
        return whole if self.md5(whole) else split("test")

    @property
    def identity(self) -> str:
        """The MD5s of network and predictions, which tell it from any other result."""
        return f"{self.md5(CHECKPOINT)} {self.md5(PREDICTIONS)}"

    def require_complete(self) -> None:
        """Raise UserError unless all that a result needs is recorded, and each stage ran on the recorded outputs of the stages before it."""
        if missing := [path for path in _NEEDED if self.md5(path) is None] or list(self.record.misfits):
            raise UserError(f"dvc.lock of {self} records no complete result ({', '.join(missing)}): run `dvc repro`")

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that decided it, in the form in which `Params.resolved` gives them to a live run.

        They are the recorded ones; those that no stage records come from its own params.yaml. If they were recorded by a
        version with other parameters, they are returned as recorded.
        """
        recorded = dvc_lock.put({}, self.record.params)
        recipes = recorded.pop("recipes", {})
        plain: dict[str, Any] = recorded | recipes.get(recorded.get("recipe"), {})
        try:
            whole = dvc_lock.put(self.yaml(PARAMETERS), self.record.params)
            recipe = whole["recipes"][whole["recipe"]]
            resolved = Params.model_validate(whole | {"recipes": {whole["recipe"]: recipe}}).resolved()
        except (UserError, ValidationError, LookupError, TypeError):
            return plain
        # Numbers as a live run has them (1 for a float is 1.0), but no keys that its version did not know.
        return resolved if dvc_lock.flatten(resolved).keys() <= dvc_lock.flatten(whole | recipe).keys() else plain

    @property
    def base(self) -> str | None:
        """The commit that it was made from, with or without changes; of an experiment, the one before."""
        return (git.commit(self.root, f"{self.commit}^") if self.experiment else None) or self.commit or None

    def origin(self) -> Origin:
        """Return where it comes from: its own files, unless they are not those that it was made from."""
        commit = self.base
        if self._is_stale():
            return Origin(commit, b"", self.experiment, is_dirty=True)
        patch = git.diff(self.root, commit, self.commit) if commit and commit != self.commit else self.patch
        files = {path: content for path in (PARAMETERS, PIPELINE) if (content := self.file(path)) is not None}
        return Origin(commit, patch, self.experiment, files, is_dirty=bool(patch))

    def _is_stale(self) -> bool:
        for path, md5 in self.record.dependencies.items():
            if (content := self.file(path)) is not None and md5_of(content) != md5:
                return True
        try:
            return dvc_lock.put(self.yaml(PARAMETERS), self.record.params) != self.yaml(PARAMETERS)
        except UserError:
            return True

    @cached_property
    def cache(self) -> caches.Cache:
        """DVC's cache in its repository."""
        return caches.of(self.root)


def find(root: Path, name: str, read: Read | None = None) -> Result:
    """Find the commit, branch, tag or DVC experiment `name`. Raises UserError if it is none, or holds no result."""
    commit, commits = git.commit(root, name), git.experiments(root, name)
    if commit and commits and commits != [commit] and (ref := git.ref(root, name)):
        both = ", ".join([f"{commit} ({ref})", *(f"{each} (experiment)" for each in commits)])
        raise UserError(f"{name} is the name of a branch or tag and of an experiment: give a commit, {both}")
    commits = commits or ([commit] if commit else [])  # an exact name goes before the beginning of a hash
    if not commits:
        raise UserError(
            f"{name} is no revision of {root}: give a commit, a branch, a tag or the name of a DVC experiment"
        )
    if len(commits) > 1:
        raise UserError(f"{name} is the name of {len(commits)} experiments: give a commit, {', '.join(commits)}")
    return of_commit(root, name, commits[0], git.experiment_names(root).get(commits[0]), read)


def of_commit(root: Path, name: str, commit: str, experiment: str | None, read: Read | None = None) -> Result:
    """Return the result of a commit; pass `read` to read many of them. Raises UserError if it holds none."""

    def file(path: str) -> bytes | None:
        return read(f"{commit}:{path}") if read else git.read(root, commit, path) or None

    return _with_record(Result(name, root, commit, Record({}), file, experiment=experiment))


def workspace(root: Path) -> Result:
    """Return what lies in the workspace `root`. Raises UserError if it holds no result."""

    def file(path: str) -> bytes | None:
        return (root / path).read_bytes() if (root / path).is_file() else None

    head = git.commit(root)
    patch = git.diff(root, head) if head else b""
    return _with_record(Result(WORKSPACE, root, head or "", Record({}), file, patch, is_workspace=True))


def _with_record(empty: Result) -> Result:
    if not (content := empty.file(LOCK)):
        raise UserError(
            f"{empty} has no dvc.lock: it is from before the first result, which `dvc repro` and a commit of dvc.lock record"
        )
    return replace(empty, record=dvc_lock.read(content, f"dvc.lock of {empty}"))
