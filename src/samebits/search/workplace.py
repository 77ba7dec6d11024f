"""Where a worker of a search runs trainings: a clone of its own below `.samebits`, which shares git's objects and DVC's cache."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from samebits import paths
from samebits.repository import cache as caches
from samebits.repository import clones, dvc_command

_END_SECONDS = 10


@contextmanager
def workplace(root: Path) -> Iterator[Path]:
    """Remove what killed processes left; yield a folder of this process for a clone, which is removed at the end.

    A training whose worker was killed goes on alone: it is ended, and whoever takes the trial over goes on from its last
    resume point.
    """
    parent = (root / paths.SCRATCH / "search").resolve()  # as processes tell their working folder
    parent.mkdir(parents=True, exist_ok=True)
    for lock in parent.glob("*.lock"):
        with suppress(Timeout, OSError), FileLock(lock).acquire(timeout=0):
            _remove(lock)
    folder = parent / uuid.uuid4().hex[:12]
    with FileLock(f"{folder}.lock"):
        try:
            yield folder
        finally:
            _remove(Path(f"{folder}.lock"))


def end_stages(folder: Path) -> None:
    """End the processes of the stages that run in the clone `folder`; they save nothing more."""
    running = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if process.info["cwd"] == str(folder) and any("stages/" in word for word in process.info["cmdline"] or ()):
            with suppress(psutil.Error):
                process.kill()
                running.append(process)
    psutil.wait_procs(running, timeout=_END_SECONDS)


def _remove(lock: Path) -> None:
    folder = lock.with_suffix("")
    end_stages(folder)
    shutil.rmtree(folder, ignore_errors=True)
    lock.unlink(missing_ok=True)


def clone(root: Path, commit: str, folder: Path) -> None:
    """Make `folder` a clone of the repository in `root` at a commit. Raises UserError if that fails."""
    clones.make(root, commit, folder, f"{folder} cannot be made a clone: ")
    for key in ("user.name", "user.email"):
        if value := run_git(root, "config", "--default", "", "--get", key):
            run_git(folder, "config", key, value)
    dvc_command.use_cache(folder, caches.of(root).root)


def run_git(folder: Path, *arguments: str) -> str:
    """Return what a git command prints. Raises UserError, with git's reason, if it fails."""
    failure = f"git {arguments[0]} fails in {folder}: "
    return clones.run_git(folder, failure, *arguments).strip()
