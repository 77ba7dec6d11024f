"""An MLflow run as something to prove: the commit, the changes and the record of what came out."""

import re
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from samebits import tracking
from samebits.errors import UserError, printable
from samebits.repository import git
from samebits.repository.dvc_lock import Output, Record
from samebits.results import Result

if TYPE_CHECKING:
    from mlflow.entities import Run

# Of runs that hold no list of outputs: what is known of them by their tags.
_OUTPUTS_BY_TAG = {
    "samebits.data_md5": Output("prepare", "data/prepared/dataset.json", "", 0),
    "samebits.checkpoint_md5": Output("train", "data/model/checkpoint.safetensors", "", 0),
}


def find(root: Path, run_id: str) -> Result:
    """Find a complete run by its id. Raises UserError where there is none, or where this repository cannot repeat it."""
    with tracking.store_errors(root):
        store = tracking.open_store(root)
        run = tracking.get_run(store, run_id)
        where = tracking.without_password(tracking.tracking_uri(root))
        if run is None:
            raise UserError(f"{where} has no run {run_id}: `make ui` shows those that it has")
        if "samebits.content" not in run.data.tags:
            raise UserError(f"run {run_id} has no result of samebits ({run.info.status}): nothing to prove")
        with tempfile.TemporaryDirectory() as folder:
            found = store.client.list_artifacts(run_id)
            paths = [file.path for file in found if not file.is_dir and Path(file.path).name == file.path]
            for path in paths:
                store.client.download_artifacts(run_id, path, folder)
            artifacts = {path: (Path(folder) / path).read_bytes() for path in paths}
    commit, patch = _origin(root, run, artifacts)

    def file(path: str) -> bytes | None:
        return artifacts.get(Path(path).name) or git.read(root, commit, path) or None

    return Result(f"run {run_id}", root, commit, _record(run, artifacts), file, patch)


def _origin(root: Path, run: "Run", artifacts: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the commit that the run was made from and its changes; if these are lost, a commit that gave the same result."""
    tags, patch = run.data.tags, artifacts.get("diff.patch", b"")
    name = tags.get("samebits.commit")
    base = _commit(root, name)
    if base and (patch or tags.get("samebits.dirty") == "false"):
        return base, patch
    for other in tags.get("samebits.commits", "").split():
        if not other.endswith("-dirty") and (commit := _commit(root, other)):
            return commit, b""
    if name is None:
        raise UserError(f"run {run.info.run_id} was made in no git repository: its code is not known")
    if base is None:
        raise UserError(
            f"run {run.info.run_id} comes from commit {printable(name[:7])}, which is not in {root}: fetch it, or go to its project"
        )
    raise UserError(
        f"run {run.info.run_id} comes from changes to commit {base[:7]} that were not kept: it cannot be repeated"
    )


def _commit(root: Path, name: str | None) -> str | None:
    return git.commit(root, name) if name and re.fullmatch("[0-9a-f]{40,64}", name) else None


def _record(run: "Run", artifacts: dict[str, bytes]) -> Record:
    """Return what came out; anybody may have written it. Raises UserError if it is damaged or leads out of a clone."""
    if (content := artifacts.get(tracking.OUTPUTS)) is None:
        tags = run.data.tags
        return Record.of(replace(each, md5=tags[tag]) for tag, each in _OUTPUTS_BY_TAG.items() if tag in tags)
    name = f"{tracking.OUTPUTS} of run {run.info.run_id}"
    try:
        outputs = TypeAdapter(list[Output]).validate_json(content, strict=True)
    except ValidationError as error:
        raise UserError(f"{name} is damaged: {error.errors()[0]['msg']}") from None
    for output in outputs:
        path = PurePosixPath(output.path)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"{name} is damaged: {printable(output.path)} leads out of a clone")
        if not f"{output.stage}{output.path}{output.md5}".isprintable():
            raise UserError(f"{name} is damaged: {printable(output.path)} has signs that cannot be printed")
    return Record.of(outputs)
