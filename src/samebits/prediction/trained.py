"""Which trained network is meant: the workspace's, that of another revision, or one in any file."""

from dataclasses import dataclass
from pathlib import Path

from samebits import checkpoint, paths, results
from samebits.checkpoint import Checkpoint
from samebits.data.images import MAX_PIXELS
from samebits.errors import UserError, printable
from samebits.repository import git
from samebits.repository.digests import file_md5
from samebits.results import Result


@dataclass(frozen=True)
class Trained:
    """A checkpoint, and the MD5 of its file, by which DVC and MLflow know it."""

    checkpoint: Checkpoint
    md5: str


def clone_root(folder: Path) -> Path:
    """Return the root of the clone that `folder` is in, found upwards by its dvc.yaml; `folder` itself if it is in none."""
    return next((each for each in (folder, *folder.parents) if (each / paths.PIPELINE).is_file()), folder)


def load(folder: Path, name: str | None = None, file: Path | None = None) -> Trained:
    """Read the checkpoint of revision `name`, or `file`, or else that of the workspace in `folder`; none of it runs code.

    A revision's comes from DVC's cache or its remote, and the workspace stays as it is. Raises UserError if there is none,
    or the network cannot be used: it is of another version of the code, too large, or its training diverged.
    """
    if name is not None and name != results.WORKSPACE:
        return of_result(results.find(git.require_repository(folder), name))
    if file is None and not (folder / paths.PIPELINE).is_file():
        raise UserError(f"{folder} is not in a clone of samebits: run this in one, or name a file by --checkpoint")
    if file is not None and not file.exists():
        raise UserError(f"--checkpoint {printable(str(file))}: there is no such file")
    return _usable(file or folder / paths.CHECKPOINT)


def of_result(result: Result) -> Trained:
    """Read the checkpoint of a result. Raises UserError if it is nowhere to be found, or the network cannot be used."""
    with result.copied(paths.CHECKPOINT) as path:
        return _usable(path)


def _usable(path: Path) -> Trained:
    loaded = checkpoint.load(path)
    _channels, height, width = loaded.description.image_shape
    if height * width > MAX_PIXELS:
        raise UserError(
            f"the network takes images of {height:,} x {width:,} pixels, more than the limit of {MAX_PIXELS:,}"
        )
    loaded.network()  # refuses weights that do not fit
    if broken := [name for name, weight in loaded.weights.items() if not weight.isfinite().all()]:
        raise UserError(
            f"the network's weights are not all finite numbers ({printable(broken[0])}): its training diverged. "
            "Train it again, with a lower learning rate for example"
        )
    return Trained(loaded, file_md5(path))
