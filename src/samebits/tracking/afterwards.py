"""Runs for results that were not logged when they came about: written from git and DVC's cache alone."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tqdm import tqdm

from samebits import params
from samebits.errors import UserError
from samebits.repository import cache as caches
from samebits.repository import git, remote, revisions
from samebits.repository.cache import Cache, md5_of
from samebits.repository.revisions import Output, Record
from samebits.tracking import results, runs
from samebits.tracking.errors import store_errors
from samebits.tracking.results import Result
from samebits.tracking.runs import Origin
from samebits.tracking.store import open_store

_DATA, _CHECKPOINT = "data/prepared/dataset.json", "data/model/checkpoint.safetensors"
_HISTORY, _ENVIRONMENT = "data/model/history.csv", "data/model/environment.json"
_METRICS = "metrics/evaluate.json"
# Outputs without which a result is not complete.
_NEEDED = (_DATA, _CHECKPOINT, _HISTORY, _METRICS)


@dataclass(frozen=True)
class State:
    """The files of the workspace, a commit or an experiment, as far as a run is made from them."""

    name: str
    read: Callable[[str], bytes | None]
    commit: str | None  # that the files differ from by `patch`
    patch: Callable[[], bytes]
    experiment: str | None = None

    def origin(self, record: Record) -> Origin:
        """Say where the result in `record` comes from, also where the files are not those that it was made from."""
        names = ("params.yaml", "dvc.yaml")
        files = {name: content for name in names if (content := self.read(name)) is not None}
        if not self._is_stale(record):
            patch = self.patch()
            return Origin(self.commit, patch, self.experiment, files, is_dirty=bool(patch))
        return Origin(self.commit, b"", self.experiment, {}, is_dirty=True)

    def _is_stale(self, record: Record) -> bool:
        for path, md5 in record.dependencies.items():
            content = self.read(path)
            if content is not None and md5_of(content) != md5:
                return True
        try:
            values = revisions.mapping(self.read("params.yaml") or b"", "params.yaml")
        except UserError:
            return True
        return any(_at(values, key) != value for key, value in record.params.items())


def track(root: Path, names: Sequence[str], everything: bool) -> Counter[str]:
    """Make sure that MLflow holds the run of each result; count those that were "new", "completed" or "there".

    Of the revisions `names`; or of every commit and experiment; or, without either, of the workspace. Raises UserError
    where a result that was named is not complete, or the tracking store cannot be used.
    """
    root = root.resolve()
    cache = caches.of(root)
    with _states(root, names, everything) as states:
        counts: Counter[str] = Counter()
        records = {}
        for state in states:
            record = _record(state)
            if isinstance(record, Record):
                records[state] = record
            elif everything:
                counts["left out"] += 1
                print(f"left out: {record}", file=sys.stderr)
            else:
                raise UserError(record)
        _fetch(root, cache, records)
        with store_errors(root):
            store = open_store(root)
            runs.close_abandoned(store)
        bar = tqdm(records.items(), desc="tracking", unit="result", disable=None, leave=False)
        for state, record in bar:
            result = _result(state, record, cache)
            if isinstance(result, Result):
                origin = state.origin(record)
                with store_errors(root):
                    counts[results.fill_in(store, result, origin)] += 1
            elif everything:
                tqdm.write(f"left out: {result}", file=sys.stderr)
                counts["left out"] += 1
            else:
                raise UserError(result)
        return counts


@contextmanager
def _states(root: Path, names: Sequence[str], everything: bool) -> Iterator[list[State]]:
    experiments = git.experiment_names(root)
    with git.reader(root) as read:
        if everything:
            commits = dict.fromkeys([*git.commits_of(root, "dvc.lock"), *experiments])
            yield [_of_commit(root, commit[:7], commit, experiments.get(commit), read) for commit in commits]
        elif names:
            found = [revisions.find(root, name) for name in names]
            yield [_of_commit(root, str(each), each.commit, experiments.get(each.commit), read) for each in found]
        else:
            yield [_of_workspace(root, read)]


def _of_commit(root: Path, name: str, commit: str, experiment: str | None, read: git.Reader) -> State:
    base = git.parent(root, commit) if experiment else None
    patch = (lambda: git.diff(root, base, commit)) if base else (lambda: b"")
    return State(experiment or name, lambda path: read(f"{commit}:{path}"), base or commit, patch, experiment)


def _of_workspace(root: Path, read: git.Reader) -> State:
    def read_file(path: str) -> bytes | None:
        return (root / path).read_bytes() if (root / path).is_file() else None

    head = git.commit(root)
    if head and read(f"{head}:dvc.lock") == read_file("dvc.lock"):
        # Whatever was edited since is not what gave the result; metrics are what it gave.
        recorded = _of_commit(root, "HEAD", head, None, read)
        return replace(recorded, read=lambda path: read_file(path) if path == _METRICS else recorded.read(path))
    return State("the workspace", read_file, head, lambda: git.diff(root, head) if head else b"")


def _record(state: State) -> Record | str:
    """Read the dvc.lock of a state; where it records no complete result, the reason."""
    content = state.read("dvc.lock")
    if content is None:
        return f"{state.name} has no dvc.lock: run `dvc repro`"
    try:
        record = revisions.read_lock(content, f"dvc.lock of {state.name}")
    except UserError as error:
        return str(error)
    recorded = {output.path for output in record.outputs}
    if missing := [path for path in _NEEDED if path not in recorded] or list(record.misfits):
        return f"dvc.lock of {state.name} records no complete result ({', '.join(missing)}): run `dvc repro`"
    return record


def _fetch(root: Path, cache: Cache, records: Mapping[State, Record]) -> None:
    """Fetch from the default remote what is needed and not in the cache; without one, do without."""
    needed = {output.md5 for record in records.values() for output in record.outputs if _is_artifact(output)}
    missing = sorted(md5 for md5 in needed if not cache.path(md5).is_file())
    settings = caches.settings(root)
    if not missing or not settings["core"].get("remote"):
        return
    try:
        with remote.open_remote(root, None, settings) as opened:
            opened.fetch_objects(missing)
    except UserError as error:
        print(f"note: {error}", file=sys.stderr)


def _result(state: State, record: Record, cache: Cache) -> Result | str:
    """Put a result together; where something of it is nowhere, the reason."""
    outputs = {output.path: output for output in record.outputs}
    contents = {path: _content(state, output, cache) for path, output in outputs.items() if _is_artifact(output)}
    for path in (_METRICS, _HISTORY):
        if contents.get(path) is None:
            return f"{path} of {state.name} is neither in git nor whole in DVC's cache or its remote"
    pictures = {
        Path(path).name: content for path, content in contents.items() if content and _is_picture(outputs[path])
    }
    return Result(
        parameters=_parameters(record.params),
        data_md5=outputs[_DATA].md5,
        checkpoint_md5=outputs[_CHECKPOINT].md5,
        environment=json.loads(contents.get(_ENVIRONMENT) or b"{}"),
        metrics=json.loads(contents[_METRICS] or b""),
        history=[_numbers(row) for row in csv.DictReader((contents[_HISTORY] or b"").decode().splitlines())],
        pictures=pictures,
        outputs=record.outputs,
    )


def _content(state: State, output: Output, cache: Cache) -> bytes | None:
    if (content := cache.read(output.md5)) is not None:
        return content
    content = state.read(output.path)
    return content if content is not None and md5_of(content) == output.md5 else None


def _is_artifact(output: Output) -> bool:
    return output.path in (_METRICS, _HISTORY, _ENVIRONMENT) or _is_picture(output)


def _is_picture(output: Output) -> bool:
    return output.path.endswith(".png")


def _parameters(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Give the parameters as `Params.resolved` does, from those that dvc.lock records."""
    prefix = f"recipes.{recorded.get('recipe')}."
    parts = {key.removeprefix(prefix): value for key, value in recorded.items() if key.startswith(prefix)}
    # Versions differ in what they record.
    names = [name for name in ("recipe", "seed", "device", "determinism", "data") if name in recorded]
    plain = {name: recorded.get(name) for name in names} | {
        name: parts.get(name) for name in ("model", "train", "evaluate")
    }
    whole = {name: recorded.get(name) for name in names} | {
        "checkpoint_every_seconds": 1.0,
        "recipes": {recorded.get("recipe"): parts},
    }
    try:
        resolved = params.Params.model_validate(whole).resolved()
    except ValidationError:
        return plain  # recorded by a version with other parameters
    # Numbers as that code would have had them (1 for a float is 1.0); no keys that it did not know.
    return resolved if runs.flatten(resolved).keys() == runs.flatten(plain).keys() else plain


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if value}


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
