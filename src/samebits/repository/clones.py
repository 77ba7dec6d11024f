"""Clean temporary clones: nothing of the user's workspace, cache, settings or tracking reaches in or is reached."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from samebits.errors import UserError, printable

# What would lead git in a clone back to the user's repository: it is set inside a git hook.
_GIT_VARIABLES = (
    *("GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_NAMESPACE"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
)
# What files in git, DVC's and MLflow's databases and the like take beside the outputs.
_REST_BYTES = 50_000_000
# DVC's settings of the clone: they win over those that the revision itself holds.
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
    """A clone in `root`; what runs in it gets `environment`."""

    root: Path
    environment: Mapping[str, str]


@contextmanager
def clean(repository: Path, commit: str, num_bytes: int, variables: Mapping[str, str]) -> Iterator[Clone]:
    """Return a clone of `repository` at `commit`, with room for outputs of `num_bytes` and with these variables set.

    It is removed at the end, also when this process is interrupted or told to end. Raises UserError where it cannot be made.
    """
    with _temporary_folder() as folder:
        if folder.is_relative_to(repository.resolve()):  # Python's last resort, where no other folder has room
            raise UserError("no temporary folder outside of the repository has room: set TMPDIR to one")
        needed, free = num_bytes + _REST_BYTES, shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"a clone with its outputs takes {needed / 1e6:,.0f} MB, and {folder.parent} has {free / 1e6:,.0f} MB left: "
                "make room there, or set TMPDIR to a folder with more"
            )
        root = folder / "samebits"
        clone = Clone(root, {**_environment(folder), **variables})
        # Sharing the objects copies nothing and finds commits that no branch holds, as experiments are; no hook of the user's runs.
        options = ("--quiet", "--shared", "--no-checkout", "--config", f"core.hooksPath={os.devnull}")
        _git(folder, clone.environment, "clone", *options, "--", str(repository), root.name)
        _git(root, clone.environment, "checkout", "--quiet", "--detach", commit)
        (root / ".dvc" / "config.local").write_text(_SETTINGS, encoding="utf-8")
        yield clone


def apply(clone: Clone, patch: bytes) -> list[str]:
    """Apply what `git.diff` gave to a clone; return the files that it changes. Raises UserError if it does not fit."""
    # In the index too: git would not see a change of the same second that leaves a file as long as it was.
    command = ["git", "apply", "--index", "--whitespace=nowarn", "--apply", "--numstat", "-z", "-"]
    done = subprocess.run(command, cwd=clone.root, env=clone.environment, input=patch, capture_output=True)
    if done.returncode != 0:
        reason = " ".join(done.stderr.decode(errors="replace").split())
        raise UserError(f"the recorded changes cannot be applied: {printable(reason)}")
    return [line.split("\t", 2)[2] for line in done.stdout.decode(errors="replace").split("\0") if line]


def keep(clone: Clone, target: Path, cache: Path) -> None:
    """Move a clone out of its temporary folder, to work in it with DVC's cache `cache`."""
    settings = clone.root / ".dvc" / "config.local"
    settings.write_text(f"[cache]\n    dir = {cache}\n", encoding="utf-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(clone.root, target)


def _environment(folder: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DVC_", "MLFLOW_")) and name not in _GIT_VARIABLES
    }
    own = {"TMPDIR": folder / "tmp"} | {
        f"DVC_{name}_DIR": folder / name.lower() for name in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")
    }
    for path in own.values():
        path.mkdir()
    return kept | {name: str(path) for name, path in own.items()}


def _git(folder: Path, environment: Mapping[str, str], *arguments: str) -> None:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise UserError(f"the revision could not be cloned into {folder}: {' '.join(done.stderr.split())}")


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    ends = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ends)}
    for number in ends:
        signal.signal(number, _exit)
    try:
        with _new_folder() as name:
            try:
                yield Path(name).resolve()
            finally:
                for number in before:  # whoever is impatient now would leave the folder behind
                    signal.signal(number, signal.SIG_IGN)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _new_folder() -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory(prefix="samebits-verify-")
    except OSError as error:
        raise UserError(f"no temporary folder can be made ({error.strerror}): set TMPDIR to one with room") from None


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
