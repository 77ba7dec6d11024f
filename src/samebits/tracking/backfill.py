"""Runs for results that were not logged when they came about: written from git and DVC's cache alone."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from samebits import results
from samebits.errors import UserError
from samebits.repository import cache as caches
from samebits.repository import git, remote
from samebits.repository.digests import md5_of
from samebits.results import Read, Result
from samebits.stage.inputs import Origin
from samebits.tracking import runs
from samebits.tracking.content import RunContent, record
from samebits.tracking.errors import store_errors
from samebits.tracking.store import open_store

_DATA, _CHECKPOINT = "data/prepared/dataset.json", "data/model/checkpoint.safetensors"
_HISTORY, _ENVIRONMENT = "data/model/history.csv", "data/model/environment.json"
_METRICS = "metrics/evaluate.json"
# Outputs without which a result is not complete.
_NEEDED = (_DATA, _CHECKPOINT, _HISTORY, _METRICS)

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def track(root: Path, names: Sequence[str], everything: bool) -> Counter[str]:
    """Make sure that MLflow holds the run of each result; count those that were "new", "completed" or "there".

    Of the revisions `names`; or of every commit and experiment; or, without either, of the workspace. Raises UserError
    if a result that was named is not complete, or the tracking store cannot be used.
    """
    root = root.resolve()
    counts: Counter[str] = Counter()

    def each(items: Iterable[_Item], make: Callable[[_Item], _Made]) -> Iterator[_Made]:
        for item in items:
            try:
                made = make(item)
            except UserError as error:
                if not everything:
                    raise
                tqdm.write(f"left out: {error}", file=sys.stderr)
                counts["left out"] += 1
            else:
                yield made

    with git.reader(root) as read:
        found = list(each(_ways(root, names, everything, read), lambda way: _complete(way())))
        _fetch(root, found)
        with store_errors(root):
            store = open_store(root)
            runs.close_abandoned(store)
        bar = tqdm(found, desc="tracking", unit="result", disable=None, leave=False)
        for content, origin in each(bar, lambda result: (_content(result), _origin(result))):
            with store_errors(root):
                counts[record(store, content, origin, is_live=False)] += 1
    return counts


def _ways(root: Path, names: Sequence[str], everything: bool, read: Read) -> list[Callable[[], Result]]:
    """Return for each result that is meant how to get it, which may fail."""
    if everything:
        experiments = git.experiment_names(root)
        named = {commit: experiments.get(commit) for commit in [*git.commits_of(root, "dvc.lock"), *experiments]}
        return [partial(results.of_commit, root, name or commit, commit, name, read) for commit, name in named.items()]
    return [partial(results.find, root, name, read) for name in names] or [partial(_of_workspace, root, read)]


def _of_workspace(root: Path, read: Read) -> Result:
    here = results.workspace(root)
    if here.commit and read(f"{here.commit}:dvc.lock") == here.file("dvc.lock"):
        # Whatever was edited since is not what gave the result; metrics are what it gave.
        head = results.of_commit(root, "HEAD", here.commit, None, read)
        return replace(head, file=lambda path: here.file(path) if path == _METRICS else head.file(path))
    return here


def _complete(result: Result) -> Result:
    missing = [path for path in _NEEDED if result.md5(path) is None] or list(result.record.misfits)
    if missing:
        raise UserError(f"dvc.lock of {result} records no complete result ({', '.join(missing)}): run `dvc repro`")
    return result


def _fetch(root: Path, found: Sequence[Result]) -> None:
    """Fetch from the default remote what is needed and not in the cache; without one, do without."""
    cache, settings = caches.of(root), caches.settings(root)
    needed = {md5 for result in found for path, md5 in result.record.hashes.items() if _is_artifact(path)}
    missing = sorted(md5 for md5 in needed if not cache.path(md5).is_file())
    if not missing or not settings["core"].get("remote"):
        return
    try:
        with remote.open_remote(root, None, settings) as opened:
            opened.fetch_objects(missing)
    except UserError as error:
        print(f"note: {error}", file=sys.stderr)


def _origin(result: Result) -> Origin:
    """Say where a result comes from, also if its files are not those that it was made from."""
    base = git.parent(result.root, result.commit) if result.experiment else None
    commit = base or result.commit or None
    if _is_stale(result):
        return Origin(commit, b"", result.experiment, {}, is_dirty=True)
    patch = git.diff(result.root, base, result.commit) if base else result.patch
    files = {name: content for name in ("params.yaml", "dvc.yaml") if (content := result.file(name)) is not None}
    return Origin(commit, patch, result.experiment, files, is_dirty=bool(patch))


def _is_stale(result: Result) -> bool:
    for path, md5 in result.record.dependencies.items():
        content = result.file(path)
        if content is not None and md5_of(content) != md5:
            return True
    try:
        values = result.yaml("params.yaml")
    except UserError:
        return True
    return any(_at(values, key) != value for key, value in result.record.params.items())


def _content(result: Result) -> RunContent:
    """Put together what its run says. Raises UserError if something of it is nowhere."""
    contents = {path: result.at_hand(path) for path in result.record.hashes if _is_artifact(path)}
    for path in (_METRICS, _HISTORY):
        if contents[path] is None:
            raise UserError(f"{path} of {result} is neither in git nor whole in DVC's cache or its remote")
    return RunContent(
        parameters=result.parameters(),
        data_md5=result.record.hashes[_DATA],
        checkpoint_md5=result.record.hashes[_CHECKPOINT],
        environment=json.loads(contents.get(_ENVIRONMENT) or b"{}"),
        metrics=json.loads(contents[_METRICS] or b""),
        history=[_numbers(row) for row in csv.DictReader((contents[_HISTORY] or b"").decode().splitlines())],
        pictures={Path(path).name: content for path, content in contents.items() if content and _is_picture(path)},
        outputs=result.record.outputs,
    )


def _is_artifact(path: str) -> bool:
    return path in (_METRICS, _HISTORY, _ENVIRONMENT) or _is_picture(path)


def _is_picture(path: str) -> bool:
    return path.endswith(".png")


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if value}


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
