"""Is dvc.lock the result of this code and these parameters? `python -m samebits.gate.lock_check` tells without running it."""

import os
from pathlib import Path

from samebits import results
from samebits.errors import UserError, as_one_line
from samebits.paths import LOCK
from samebits.repository import dvc_command, dvc_lock
from samebits.repository.false_records import RUN_AGAIN, contradictions


def require_fresh(root: Path) -> None:
    """Raise UserError if dvc.lock is missing, records other code, parameters or data than the files in `root`, or is false.

    It is false if outputs that the cache or the default remote holds say something else of themselves. Needs no output, so
    a fresh clone will do.
    """
    record = dvc_lock.of_workspace(root)
    if not record.stages:
        raise UserError(f"{root} has no {LOCK}: run `dvc repro`")
    here = results.workspace(root)
    if false := contradictions(record, here.read):  # first, for `dvc repro` alone cannot repair it
        raise UserError(f"{LOCK} is false ({', '.join(false)}): {RUN_AGAIN}")
    # DVC cannot see that a stage read other outputs than are recorded, such as a training on other data: none is here.
    stale = record.misfits
    for stage, changes in dvc_command.changes(root, None, os.environ).items():
        if changed := [*changes.dependencies, *changes.outputs]:
            is_recorded = stage in record.stages or stage.endswith(".dvc")
            stale[stage] = [*changed, *stale.get(stage, [])] if is_recorded else ["no record"]
    if stale:
        what = "; ".join(f"{stage}: {', '.join(paths)}" for stage, paths in stale.items())
        raise UserError(f"{LOCK} is not the result of this code and params.yaml ({what}): run `dvc repro`")


if __name__ == "__main__":
    with as_one_line():
        require_fresh(Path.cwd())
