"""samebits: a reproducible image-classification pipeline. The same commit gives the same bits."""

import os

TYPE_CHECKING = False  # as typing's, whose import would take as long as all of this one
if TYPE_CHECKING:
    from samebits.loading import LoadedResult

# OpenMP reads it when torch is imported. Threads that wait then leave the cores to others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def load(name: str | None = None, root: "str | os.PathLike[str]" = ".") -> "LoadedResult":
    """Return a result for use in Python: its parameters, metrics, tables, test images and network.

    `name` is a commit, branch, tag or DVC experiment, or the id of an MLflow run; by default the result of the workspace.
    `root` is a folder in the clone that knows it. Nothing in the clone changes. Raises `samebits.errors.UserError` if there
    is no such result, or it is not complete.
    """
    from samebits import loading

    return loading.load(name, root)
