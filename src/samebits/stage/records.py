"""What DVC has recorded of stages, compared with what a stage read when it started."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from samebits.errors import UserError, listed
from samebits.paths import PARAMETERS, PIPELINE
from samebits.repository import dvc_lock
from samebits.repository.digests import path_md5
from samebits.repository.git import GitError, Origin
from samebits.stage import changes
from samebits.stage.changes import DIGITS, Change
from samebits.stage.inputs import Inputs, covers


def origin(inputs: Inputs) -> Origin:
    """Return where code and parameters come from. If git fails, that costs a warning, and the origin is unknown."""
    experiment = os.environ.get("DVC_EXP_NAME")
    try:
        commit, patch = inputs.commit_and_patch()
    except GitError as error:
        print(f"warning: the run will not say which commit it comes from: {error}", file=sys.stderr)
        return Origin(None, b"", experiment, is_dirty=True)
    # The record of a stage before that was edited just when it had ended disappears a moment later.
    now, before = dvc_lock.of_workspace(Path()), inputs.stages_before()
    if patch is None or any(now.stages.get(name) != inputs.recorded[name] or misfits(inputs, name) for name in before):
        return Origin(commit, b"", experiment, is_dirty=True)
    files = {name: inputs.texts[name] for name in (PARAMETERS, PIPELINE)}
    return Origin(commit, patch, experiment, files, is_dirty=bool(patch))


def is_recorded(inputs: Inputs, path: str) -> bool:
    """Tell whether DVC runs this stage and has recorded the data file `path` as it was at the start."""
    return "DVC_STAGE" in os.environ and dvc_lock.of_workspace(Path()).hashes.get(path) == inputs.md5(path)


def require_stages_before(inputs: Inputs) -> None:
    """Raise UserError if the stages before were recorded with other parameters or outputs than this one has read.

    That happens if something is edited after they ended. If DVC does not run this stage, there is no record to compare.
    """
    for name in inputs.stages_before() if "DVC_STAGE" in os.environ else ():
        for output in inputs.recorded[name].outputs:
            if output.path in inputs.data and inputs.md5(output.path) != output.md5:
                raise UserError(
                    f"{output.path} is not what {name} wrote: run `dvc checkout {output.path}` and `dvc repro`"
                )
        if differing := [change for change in misfits(inputs, name) if change.is_parameter]:
            raise UserError(
                f"{name} ran with other values than {PARAMETERS} had when {inputs.stage} started "
                f"({listed(differing)}): run `dvc repro`"
            )


def misfits(inputs: Inputs, stage: str) -> list[Change]:
    """Return how the record of a stage before differs from the files at the start of this one."""
    recorded = inputs.recorded[stage]
    return changes.between(dvc_lock.flat(recorded.params), inputs.parameters(stage)) + [
        Change(path, md5[:DIGITS], expected[:DIGITS])
        for path, md5 in recorded.dependencies.items()
        if (expected := inputs.recordable_md5(path)) and expected != md5
    ]


def misrecorded(inputs: Inputs, recorded: dvc_lock.Stage, outputs: Mapping[str, str]) -> list[Change]:
    """Return how the record of this stage differs from what ran; `outputs` are the MD5s of what it wrote."""
    hashes = {output.path: output.md5 for output in recorded.outputs}
    wrong = changes.between(inputs.parameters(inputs.stage), dvc_lock.flat(recorded.params))
    wrong += [
        Change(path, md5[:DIGITS], hashes[path][:DIGITS])
        for path, md5 in outputs.items()
        if hashes.get(path, md5) != md5
    ]
    used, changed = (
        {name for path in paths for name in inputs.names(path)}
        for paths in (inputs.files, [change.what for change in changes.since_start(inputs)])
    )
    for path, md5 in recorded.dependencies.items():
        expected, is_changed = inputs.recordable_md5(path), any(covers(path, name) for name in changed)
        if expected is None and is_changed:  # images: no hash was taken of them
            wrong.append(Change(path, "as it was read", md5[:DIGITS]))
        if expected in (None, md5) or not any(covers(path, name) for name in used):
            continue
        # The hashes may differ by layout alone, or by files that the stage does not use. So this counts only if a file in
        # use has changed, or if what lies there now is not what was recorded.
        if is_changed or inputs.recordable_md5_now(path) != md5:
            wrong.append(Change(path, (expected or "")[:DIGITS], md5[:DIGITS]))
    return wrong


def outputs(inputs: Inputs) -> list[dvc_lock.Output]:
    """Return the outputs of all stages: those that DVC has recorded, and as they are now those of the stage that runs."""
    recorded = dvc_lock.of_workspace(Path()).outputs if "DVC_STAGE" in os.environ else []
    known = {output.path: output for output in recorded if output.stage != inputs.stage}
    return [
        known.get(path) or dvc_lock.Output(stage, path, path_md5(Path(path)), _size(Path(path)))
        for stage, path in inputs.outputs()
        if path in known or Path(path).exists()
    ]


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in [path, *path.rglob("*")] if each.is_file())
