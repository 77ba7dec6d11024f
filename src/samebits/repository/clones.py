"""Clones: clean temporary ones, isolated from the user's workspace, cache, settings and tracking, and what makes any other."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from samebits.errors import UserError, printable
from samebits.repository import dvc_command

# A git hook sets these: they would lead git in a clone back to the user's repository.
_GIT_VARIABLES = (
    *("GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_NAMESPACE"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
)
_REST_BYTES = 50_000_000  # for all beside the outputs: git's files, the databases of DVC and MLflow
# In config.local, so that they win over the revision's own.
_SETTINGS = """\
[core]
    analytics = false
    check_update = false
    autostage = true
[cache]
    dir = cache
"""


@dataclass(frozen=True)
class Clone:
    """A clone in `root`; commands in it run with `environment`."""

    root: Path
    environment: Mapping[str, str]


@contextmanager
def clean(repository: Path, commit: str, num_bytes: int, variables: Mapping[str, str]) -> Iterator[Clone]:
    """Yield a clone of `repository` at `commit`, with room for outputs of `num_bytes` and with these variables set.

    It is removed at the end, even if this process is interrupted or terminated. Raises UserError if it cannot be made.
    """
    with _temporary_folder() as folder:
        needed, free = num_bytes + _REST_BYTES, shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"a clone with its outputs takes {needed / 1e6:,.0f} MB, and {folder.parent} has {free / 1e6:,.0f} MB left: "
                "make room there, or set TMPDIR to a folder with more"
            )
        clone = Clone(folder / "samebits", {**_environment(folder), **variables})
        make(repository, commit, clone.root, f"the revision could not be cloned into {folder}: ")
        (clone.root / ".dvc" / "config.local").write_text(_SETTINGS, encoding="utf-8")
        yield clone


def make(repository: Path, commit: str, root: Path, failure: str) -> None:
    """Make the folder `root` a clone of `repository` at `commit`. Raises UserError, which begins with `failure`, if that fails."""
    # Sharing objects copies nothing and reaches commits that no branch holds, such as experiments; no user's hook runs.
    options = ("--quiet", "--shared", "--no-checkout", "--config", f"core.hooksPath={os.devnull}")
    root.mkdir()
    run_git(root, failure, "clone", *options, "--", str(repository), ".")
    run_git(root, failure, "checkout", "--quiet", "--detach", commit)


def apply(clone: Clone, patch: bytes) -> list[str]:
    """Apply a patch of `git.diff` to a clone; return the files that it changes. Raises UserError if it does not fit."""
    # In the index too: git would not see a change of the same second that leaves a file's size as it was.
    options = ("--index", "--whitespace=nowarn", "--apply", "--numstat", "-z", "-")
    failure = "the recorded changes cannot be applied: "
    listed = run_git(clone.root, failure, "apply", *options, given=patch)
    return [line.split("\t", 2)[2] for line in listed.split("\0") if line]


def keep(clone: Clone, target: Path, cache: Path) -> None:
    """Move a clone out of its temporary folder, to work in it with DVC's cache `cache`."""
    (clone.root / ".dvc" / "config.local").unlink()
    dvc_command.use_cache(clone.root, cache)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(clone.root, target)


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in _outside_of_hooks().items() if not name.startswith(("DVC_", "MLFLOW_"))}
    own = {"TMPDIR": folder / "tmp"} | {
        f"DVC_{name}_DIR": folder / name.lower() for name in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")
    }
    for path in own.values():
        path.mkdir()
    return kept | {name: str(path) for name, path in own.items()}


def _outside_of_hooks() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _GIT_VARIABLES}


def run_git(folder: Path, failure: str, *arguments: str, given: bytes = b"") -> str:
    """Return what a git command prints. Raises UserError, git's reason after `failure`, if it fails."""
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=folder, env=_outside_of_hooks(), input=given, capture_output=True)
    if done.returncode != 0:
        reason = " ".join(done.stderr.decode(errors="replace").split()) or "without a reason"
        raise UserError(failure + printable(reason))
    return done.stdout.decode(errors="replace")


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a folder that is removed at the end, even if this process is told to end."""
    ends = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ends)}
    try:
        for number in ends:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        try:
            temporary = tempfile.TemporaryDirectory(prefix="samebits-verify-")
        except OSError as error:
            raise UserError(
                f"no temporary folder can be made ({error.strerror}): set TMPDIR to one with room"
            ) from None
        with temporary as name:
            try:
                yield Path(name).resolve()
            finally:
                for number in before:  # a second Ctrl-C now would leave the folder behind
                    signal.signal(number, signal.SIG_IGN)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
