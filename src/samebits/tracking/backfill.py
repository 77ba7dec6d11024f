"""Runs of results that were not recorded when they were made, from git and DVC's cache alone."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from samebits import paths, results
from samebits.errors import UserError
from samebits.repository import cache as caches
from samebits.repository import git, remote
from samebits.results import Read, Result
from samebits.tracking.run_content import RunContent
from samebits.tracking.runs import close_abandoned, record
from samebits.tracking.store import open_store, store_errors


def track(root: Path, names: Sequence[str], everything: bool) -> Counter[str]:
    """Make sure that MLflow holds the run of each result; count those that were "new", "completed" or "there".

    The results are those of the revisions `names`, or of every commit and experiment, or by default that of the workspace.
    Raises UserError if a named result is not complete, or the tracking store cannot be used.
    """
    root = root.resolve()
    counts: Counter[str] = Counter()

    @contextmanager
    def leaving_out() -> Iterator[None]:
        try:
            yield
        except UserError as error:
            if not everything:
                raise
            tqdm.write(f"left out: {error}", file=sys.stderr)
            counts["left out"] += 1

    with git.reader(root) as read:
        found = []
        for find in _finders(root, names, everything, read):
            with leaving_out():
                result = find()
                result.require_complete()
                found.append(result)
        _fetch(root, found)
        with store_errors(root):
            store = open_store(root)
            close_abandoned(store)
            for result in tqdm(found, desc="tracking", unit="result", disable=None, leave=False):
                with leaving_out():
                    counts[record(store, _content(result), is_live=False)] += 1
    return counts


def _finders(root: Path, names: Sequence[str], everything: bool, read: Read) -> list[Callable[[], Result]]:
    """Return for each result a function that finds it."""
    if not everything:
        return [partial(results.find, root, name, read) for name in names] or [partial(_of_workspace, root, read)]
    experiments = git.experiment_names(root)
    commits = dict.fromkeys([*git.commits_of(root, paths.LOCK), *experiments])
    named = [(experiments.get(commit), commit) for commit in commits]
    return [partial(results.of_commit, root, name or commit, commit, name, read) for name, commit in named]


def _of_workspace(root: Path, read: Read) -> Result:
    here = results.workspace(root)
    if here.commit and read(f"{here.commit}:{paths.LOCK}") == here.file(paths.LOCK):
        # What was edited since did not make the result; only its metrics are read from the workspace.
        head = results.of_commit(root, "HEAD", here.commit, None, read)
        return replace(head, file=lambda path: here.file(path) if path == paths.METRICS else head.file(path))
    return here


def _fetch(root: Path, found: Sequence[Result]) -> None:
    """Fetch from the default remote, if there is one, what runs show and neither git nor the cache has."""
    cache = caches.of(root)
    missing = {
        md5
        for result in found
        for path, md5 in result.record.hashes.items()
        if _is_shown(path) and not cache.path(md5).is_file() and result.at_hand(path) is None
    }
    if missing and caches.settings(root)["core"].get("remote"):
        try:
            with remote.open_remote(root) as opened:
                opened.fetch_objects(sorted(missing))
        except UserError as error:
            print(f"note: {error}", file=sys.stderr)


def _content(result: Result) -> RunContent:
    """Return what the run of a result says. Raises UserError if a part of it is lost."""
    files = {path: result.at_hand(path) or b"" for path in result.record.hashes if _is_shown(path)}
    for path in (paths.METRICS, paths.HISTORY):
        if not files[path]:
            raise UserError(f"{path} of {result} is neither in git nor whole in DVC's cache or its remote")
    rows = csv.DictReader(files[paths.HISTORY].decode().splitlines())
    return RunContent(
        result.origin(),
        result.parameters(),
        data_md5=result.record.hashes[paths.DATASET],
        environment=json.loads(files.get(paths.MODEL_ENVIRONMENT) or b"{}"),
        checkpoint_md5=result.record.hashes[paths.CHECKPOINT],
        history=[{name: float(value) for name, value in row.items() if value} for row in rows],
        metrics=json.loads(files[paths.METRICS]),
        pictures={Path(path).name: content for path, content in files.items() if content and path.endswith(".png")},
        outputs=result.record.outputs,
    )


def _is_shown(path: str) -> bool:
    return path in (paths.METRICS, paths.HISTORY, paths.MODEL_ENVIRONMENT) or path.endswith(".png")
