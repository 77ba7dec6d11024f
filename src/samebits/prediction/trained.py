"""Which trained network is meant: the workspace's, that of another revision, or one in any file."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from samebits import checkpoint, results
from samebits.checkpoint import Checkpoint
from samebits.errors import UserError
from samebits.repository import git
from samebits.repository.digests import file_md5, md5_of
from samebits.results import Result

CHECKPOINT = "data/model/checkpoint.safetensors"


@dataclass(frozen=True)
class Trained:
    """A checkpoint, the MD5 of its file, by which DVC and MLflow know it, and the revision that it was asked from."""

    checkpoint: Checkpoint
    md5: str
    revision: Result | None


def load(folder: Path, name: str | None = None, file: Path | None = None) -> Trained:
    """Read the checkpoint of revision `name`, or `file`, or else that of the workspace in `folder`; none of it runs code.

    A revision's comes from DVC's cache or its remote, and the workspace stays as it is. Raises UserError where there is none.
    """
    if file is not None or name is None:
        path = file or folder / CHECKPOINT
        if file is None and not (folder / "dvc.yaml").is_file():
            raise UserError(f"{folder} has no dvc.yaml: run this in the root of a clone of samebits")
        loaded = checkpoint.load(path)
        return Trained(loaded, file_md5(path), None)
    root = git.top_folder(folder)
    if root is None:
        raise UserError(f"{folder} is in no git repository: run this in a clone of samebits")
    revision = results.find(root, name)
    if (content := revision.read(CHECKPOINT)) is None:
        raise UserError(
            f"the checkpoint of {revision} is neither in DVC's cache nor in a remote: `dvc push` it where it was trained, "
            "or check the revision out and run `dvc repro`"
        )
    with tempfile.TemporaryDirectory(prefix="samebits-") as temporary:
        path = Path(temporary) / Path(CHECKPOINT).name
        path.write_bytes(content)
        return Trained(checkpoint.load(path), md5_of(content), revision)
