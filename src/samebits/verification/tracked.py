"""An MLflow run as something to prove: the commit, the changes and the record of what came out."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from samebits import tracking
from samebits.errors import UserError
from samebits.repository import git
from samebits.repository.lock import Output, Record
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
            paths = [file.path for file in store.client.list_artifacts(run_id) if not file.is_dir]
            for path in paths:
                store.client.download_artifacts(run_id, path, folder)
            artifacts = {path: (Path(folder) / path).read_bytes() for path in paths}
    commit, patch = _origin(root, run, artifacts)

    def file(path: str) -> bytes | None:
        return artifacts.get(Path(path).name) or git.read(root, commit, path) or None

    return Result(f"run {run_id}", root, commit, _record(run, artifacts), file, patch)


def _origin(root: Path, run: "Run", artifacts: dict[str, bytes]) -> tuple[str, bytes]:
    """Choose a commit that gives the result: the one it was made from with its changes, or one that gave it as it is."""
    tags = run.data.tags
    clean = [commit for commit in tags.get("samebits.commits", "").split() if not commit.endswith("-dirty")]
    for commit in clean:
        if git.commit(root, commit):
            return commit, b""
    base, patch = tags.get("samebits.commit"), artifacts.get("diff.patch", b"")
    if base is None:
        raise UserError(f"run {run.info.run_id} was made in no git repository: its code is not known")
    if not git.commit(root, base):
        raise UserError(
            f"run {run.info.run_id} comes from commit {base[:7]}, which is not in {root}: fetch it, or go to its project"
        )
    if not patch:
        raise UserError(
            f"run {run.info.run_id} comes from changes to commit {base[:7]} that were not kept: it cannot be repeated"
        )
    return base, patch


def _record(run: "Run", artifacts: dict[str, bytes]) -> Record:
    if content := artifacts.get(tracking.OUTPUTS):
        return Record.of(Output(**entry) for entry in json.loads(content))
    tags = run.data.tags
    return Record.of(Output(each.stage, each.path, tags[tag], 0) for tag, each in _OUTPUTS_BY_TAG.items())
