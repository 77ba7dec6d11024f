"""An MLflow run as a result to verify: its commit, its changes, and the record of its outputs."""

import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from samebits import tracking
from samebits.errors import UserError, printable
from samebits.paths import CHECKPOINT, DATASET
from samebits.repository import git
from samebits.repository.dvc_lock import Output, Record
from samebits.results import Result

if TYPE_CHECKING:
    from mlflow.entities import Run

# Stage and path by tag: all that is known of the outputs of a run without a list of them.
_OUTPUTS_BY_TAG = {"samebits.data_md5": ("prepare", DATASET), "samebits.checkpoint_md5": ("train", CHECKPOINT)}


def find(root: Path, run_id: str) -> Result:
    """Find a complete run by its id. Raises UserError if there is none, or if this repository cannot repeat it."""
    with tracking.store_errors(root), tempfile.TemporaryDirectory() as folder:
        store = tracking.open_store(root)
        run = tracking.get_run(store, run_id)
        if run is None:
            where = tracking.without_password(tracking.tracking_uri(root))
            raise UserError(f"{where} has no run {run_id}: `make ui` shows the runs that it has")
        if "samebits.content" not in run.data.tags:
            raise UserError(f"run {run_id} has no result of samebits ({run.info.status})")
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
    name, what = tags.get("samebits.commit"), f"run {run.info.run_id}"
    base = _commit(root, name)
    if base and (patch or tags.get("samebits.dirty") == "false"):
        return base, patch
    for other in tags.get("samebits.commits", "").split():
        if not other.endswith("-dirty") and (commit := _commit(root, other)):
            return commit, b""
    if name is None:
        raise UserError(f"{what} was made in no git repository: its code is unknown")
    if base is None:
        short = printable(name[:7])
        raise UserError(f"{what} comes from commit {short}, which is not in {root}: fetch it, or go to its project")
    raise UserError(f"{what} comes from changes to commit {base[:7]} that were not kept: it cannot be repeated")


def _commit(root: Path, name: str | None) -> str | None:
    return git.commit(root, name) if name and re.fullmatch("[0-9a-f]{40,64}", name) else None


def _record(run: "Run", artifacts: dict[str, bytes]) -> Record:
    """Return what came out. Raises UserError if it is damaged or leads out of a clone: anybody may have written it."""
    if (content := artifacts.get(tracking.OUTPUTS)) is None:
        tags = run.data.tags
        return Record.of(Output(*each, tags[tag], 0) for tag, each in _OUTPUTS_BY_TAG.items() if tag in tags)
    damaged = f"{tracking.OUTPUTS} of run {run.info.run_id} is damaged"
    try:
        outputs = TypeAdapter(list[Output]).validate_json(content, strict=True)
    except ValidationError as error:
        raise UserError(f"{damaged}: {error.errors()[0]['msg']}") from None
    for output in outputs:
        path = PurePosixPath(output.path)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"{damaged}: {printable(output.path)} leads out of a clone")
        if not f"{output.stage}{output.path}{output.md5}".isprintable():
            raise UserError(f"{damaged}: {printable(output.path)} has characters that cannot be printed")
    return Record.of(outputs)
