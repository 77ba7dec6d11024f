"""`samebits verify`: run a revision once more, from nothing, and compare it with its record."""

import os
import sys
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path

from tabulate import tabulate  # type: ignore[import-untyped]

from samebits import results
from samebits.data.sources import cifar10
from samebits.errors import UserError, listed, printable
from samebits.paths import LOCK, PARAMETERS, PIPELINE, RAW, SCRATCH
from samebits.proof import mlflow_run
from samebits.proof.explanation import explain
from samebits.proof.outputs import Verdict, compare
from samebits.repository import cache as caches
from samebits.repository import clones, dvc_command, dvc_lock, git
from samebits.repository.clones import Clone
from samebits.results import Result

_DIGITS = 12  # of a hash: enough to tell two apart


def verify(folder: Path, name: str = "HEAD", stage: str | None = None) -> int:
    """Run the stages of revision `name`, or those up to `stage`, in a clean clone; print how their outputs compare.

    `folder` is in the user's repository, which does not change. Returns 0 if all outputs that count are the recorded ones,
    else 1. Raises UserError if they could not be made.
    """
    root = git.require_repository(folder)
    result = results.find(root, name)
    _require_stage(result, stage)
    if files := git.uncommitted(root):
        print(f"note: uncommitted changes ({listed(files)}) are not part of {result}", file=sys.stderr)
    with _clean_clone(result) as clone:
        _fetch_own_images(result, clone.root)
        changes = dvc_command.changes(clone.root, stage, clone.environment)
        _say_other_origin(result, changes)
        edited = [path for change in changes.values() for path in change.outputs]
        for path in edited:
            print(f"{path} of {result} was edited after {LOCK} recorded it")
        return _repeat(result, stage, clone, edited, is_run=False)


def verify_run(folder: Path, run_id: str, keep: bool, stage: str | None, is_agreed: bool) -> int:
    """Do as `verify` does for an MLflow run: with its commit and, if that alone would not give it, its changes.

    Whoever may write to the tracking store wrote them: unless `is_agreed`, the user is asked on the terminal. With `keep`
    the clone stays, to work in it. Raises UserError also if the run, its commit or its changes are not available, or the
    user does not agree.
    """
    root = git.require_repository(folder)
    if not (is_agreed or sys.stdin.isatty()):
        raise UserError(
            "--run runs the code that the run names, maybe a stranger's: add --yes, or answer on a terminal"
        )
    run = mlflow_run.find(root, run_id)
    _require_stage(run, stage)
    target = root / SCRATCH / "runs" / run_id
    if keep and target.exists():
        raise UserError(f"{target} exists already, from a run that was kept before: move it away, or work in it")
    with _clean_clone(run) as clone:
        _show(run, clones.apply(clone, run.patch) if run.patch else [])
        if not (is_agreed or _ask()):
            raise UserError(f"{run} was not run")
        try:
            _fetch_own_images(run, clone.root)
            return _repeat(run, stage, clone, set(), is_run=True)
        finally:
            if keep:
                clones.keep(clone, target, caches.of(root).root)
                print(f"kept: {target}")


def _clean_clone(result: Result) -> AbstractContextManager[Clone]:
    num_bytes = sum(output.size for output in result.record.outputs)
    return clones.clean(result.root, result.commit, num_bytes, _raw_data(result))


def _repeat(result: Result, stage: str | None, clone: Clone, edited: Collection[str], is_run: bool) -> int:
    """Run the stages in the clone and print how their outputs compare with the record; return 0 if all that count are the same."""
    print(f"running {result} in a clean clone, without any cache", flush=True)
    if code := dvc_command.reproduce_from_nothing(clone.root, stage, clone.environment):
        raise UserError(f"{result} could not be run: `dvc repro` ended with exit code {code}, for the reason above")
    rows = compare(result, dvc_lock.of_workspace(clone.root).outputs, clone.root, edited)
    if is_run:  # older ones record only some outputs
        rows = [row for row in rows if row.recorded]
    if not rows:
        raise UserError(f"{result} records no output that these stages make: there is nothing to compare")
    cells = [(row.stage, row.path, row.recorded[:_DIGITS], row.got[:_DIGITS], row.verdict) for row in rows]
    print(tabulate(cells, headers=("stage", "output", "recorded", "got", ""), disable_numparse=True))
    for line in explain(result, rows, clone.root):
        print(line)
    if num_different := sum(row.counts for row in rows):
        print(f"different: {num_different} of {len(rows)} outputs of {result}")
        return 1
    num_same = sum(row.verdict is Verdict.IDENTICAL for row in rows)
    apart = f", the other {len(rows) - num_same} in all that counts" if num_same < len(rows) else ""
    print(f"identical: {num_same} of {len(rows)} outputs of {result} bit for bit{apart}")
    return 0


def _ask() -> bool:
    try:
        return input("run it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _show(run: Result, changed: list[str]) -> None:
    """Say whose code a run is."""
    print(f"{run} is this code, which runs as you:")
    print(f"  commit {run.commit[:7]} by {printable(git.described(run.root, run.commit))}")
    names = git.reached_by(run.root, run.commit)
    print(f"  in {', '.join(names)}" if names else "  which no branch or tag of this clone holds")
    if changed:
        print(f"  with a patch of {len(run.patch.splitlines())} lines to {printable(', '.join(changed))}")


def _require_stage(result: Result, stage: str | None) -> None:
    names = list(result.yaml(PIPELINE).get("stages") or {})
    if stage is not None and stage.partition("@")[0] not in names:  # the rest names an item of foreach or matrix
        raise UserError(f"{stage} is no stage of {result}: its dvc.yaml has {', '.join(names) or 'none'}")


def _raw_data(result: Result) -> dict[str, str]:
    """Point the clone to the user's raw data: the folder of SAMEBITS_DATA, or the workspace's own if CIFAR-10 is there."""
    if chosen := os.environ.get("SAMEBITS_DATA"):
        return {"SAMEBITS_DATA": str((result.root / chosen).resolve())}
    raw = result.root / RAW
    match result.yaml(PARAMETERS):
        case {"data": {"path": str(path)}}:
            raw = result.root / path
    return {"SAMEBITS_DATA": str(raw)} if cifar10.is_available(raw) else {}


def _fetch_own_images(result: Result, clone: Path) -> None:
    """Put images of a data source `folder` that DVC tracks into the clone; others are outside, where both find them."""
    match result.yaml(PARAMETERS):
        case {"data": {"source": "folder", "path": str(path)}}:
            dvc_command.fetch_tracked(result.root, result.commit, path, clone)


def _say_other_origin(result: Result, changes: dict[str, dvc_command.Changes]) -> None:
    """Say which files of the revision differ from those that the record was made from, each with its stages."""
    recorded = {output.stage for output in result.record.outputs}
    stages_of: dict[str, list[str]] = {}
    for stage, change in changes.items():
        if stage.endswith(".dvc"):  # images that DVC tracks: recorded by this file, not in dvc.lock
            continue
        misfits = [f"{path}, not the recorded output" for path in result.record.misfits.get(stage, [])]
        for what in [*change.dependencies, *misfits] if stage in recorded else ["no record at all"]:
            stages_of.setdefault(what, []).append(stage)
    if stages_of:
        print(f"{LOCK} of {result} was made by other code, parameters or data than the revision holds:")
        for what, stages in stages_of.items():
            print(f"  {what} ({', '.join(stages)})")
