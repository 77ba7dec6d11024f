"""Is dvc.lock the result of this code and these parameters? `python -m samebits.gate.lock_check` runs nothing to tell."""

import os
from pathlib import Path

from samebits import results
from samebits.errors import UserError, as_one_line
from samebits.repository import dvc_command, dvc_lock
from samebits.repository.false_records import RUN_AGAIN, contradictions


def require_fresh(root: Path) -> None:
    """Raise UserError where dvc.lock records other code, parameters or data than the files in `root`, or is not there.

    Needs no output, so a bare clone can be asked; it compares what the cache or the default remote holds of those that
    describe themselves. Raises UserError also if they say something else than dvc.lock.
    """
    if not (root / "dvc.lock").is_file():
        raise UserError(f"{root} has no dvc.lock: run `dvc repro`")
    # Of the stages before, none of which has an output here: a training on other data than dvc.lock prepares, say.
    misfits = dvc_lock.read((root / "dvc.lock").read_bytes(), "dvc.lock").misfits
    stale = misfits | {
        stage: [*changes.dependencies, *changes.outputs, *misfits.get(stage, [])]
        for stage, changes in dvc_command.changes(root, None, os.environ).items()
        if changes.dependencies or changes.outputs
    }
    if stale:
        what = "; ".join(f"{stage}: {', '.join(paths)}" for stage, paths in stale.items())
        raise UserError(f"dvc.lock is not the result of this code and params.yaml ({what}): run `dvc repro`")
    here = results.workspace(root)
    if false := contradictions(here.record, here.read):
        raise UserError(f"dvc.lock is false ({', '.join(false)}): {RUN_AGAIN}")


if __name__ == "__main__":
    with as_one_line():
        require_fresh(Path.cwd())
