"""The pipeline as DVC runs it, spoken to by DVC's own command."""

import os
import subprocess
import sys
from pathlib import Path

# A DVC that is started from inside a stage of another repository must not take that one's root for its own.
_INHERITED = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")


def reproduce(root: Path) -> int:
    """Run `dvc repro` for all to see; give its exit code."""
    return _dvc(root, "repro").returncode


def has_to_run(root: Path, stage: str) -> bool:
    """Tell whether `dvc repro` would run `stage`, rather than skip it or restore its outputs from the cache."""
    done = _dvc(root, "repro", "--dry", "--single-item", stage, capture_output=True)
    return f"Running stage '{stage}'" in done.stdout


def run_experiment(root: Path, name: str, settings: dict[str, str]) -> int:
    """Run the pipeline as the experiment `name`, in a temporary copy: no tracked file of `root` changes."""
    changes = [argument for key, value in settings.items() for argument in ("--set-param", f"{key}={value}")]
    return _dvc(root, "exp", "run", "--temp", "--name", name, *changes).returncode


def experiments(root: Path) -> list[str]:
    """Give the names of the experiments that are based on the current commit."""
    return _dvc(root, "exp", "list", "--name-only", capture_output=True).stdout.split()


def fetch(root: Path, revision: str, path: str, target: Path) -> None:
    """Copy the file or folder `path` of `revision` from git or DVC's cache to `target`."""
    from dvc.api import DVCFileSystem

    DVCFileSystem(str(root), rev=revision).get(path, str(target), recursive=True)


def read_text(root: Path, revision: str, path: str) -> str:
    """Read the text file `path` of `revision`, from git or DVC's cache."""
    from dvc.api import DVCFileSystem

    text: str = DVCFileSystem(str(root), rev=revision).read_text(path, encoding="utf-8")
    return text


def _dvc(root: Path, *arguments: str, capture_output: bool = False) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name not in _INHERITED}
    # The stages say `python`: it is the one that runs this.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=capture_output, text=True)
