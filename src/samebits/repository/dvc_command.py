"""The pipeline as DVC runs it, spoken to by DVC's own command."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samebits.errors import UserError

# A DVC that is started from inside a stage of another repository must not take that one's root for its own.
_INHERITED = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")


def reproduce(root: Path) -> int:
    """Run `dvc repro` for all to see; give its exit code."""
    return _dvc(root, "repro").returncode


def reproduce_from_nothing(root: Path, stage: str | None, environment: Mapping[str, str]) -> int:
    """Run all stages, or those up to `stage`, for all to see: nothing recorded, restored from a cache or put there.

    The new dvc.lock holds what ran, in that order. Whatever interrupts this process ends the stages too.
    """
    import psutil

    (root / "dvc.lock").unlink(missing_ok=True)  # the commit of a first run has none
    command = _command("repro", "--no-run-cache", "--no-commit", *([stage] if stage else []))
    process = psutil.Popen(command, cwd=root, env=_environment(environment), stdin=subprocess.DEVNULL)
    try:
        return int(process.wait())
    except BaseException:
        with suppress(psutil.NoSuchProcess):  # it ended by itself
            family = [process, *process.children(recursive=True)]
            for each in family:
                each.kill()
            psutil.wait_procs(family, timeout=10)
        raise


@dataclass(frozen=True)
class Changes:
    """What of a stage is otherwise in the files than in dvc.lock: dependencies and parameters, and outputs that are there."""

    dependencies: list[str]
    outputs: list[str]


def changes(root: Path, stage: str | None, environment: Mapping[str, str]) -> dict[str, Changes]:
    """Compare the files of a clone that holds no cached output with its dvc.lock, for all stages or those up to `stage`.

    Raises UserError where DVC cannot read the pipeline.
    """
    targets = ["--with-deps", stage] if stage else []
    done = _dvc(root, "status", "--json", *targets, capture_output=True, environment=environment)
    if done.returncode != 0:
        raise UserError(f"DVC cannot read the pipeline: {' '.join(done.stderr.split()).removeprefix('ERROR: ')}")
    # For each stage a list of "changed command" and of {"changed deps" or "changed outs": {path: how}}.
    stages = {
        name: dict(part for entry in entries for part in (entry.items() if isinstance(entry, dict) else [(entry, {})]))
        for name, entries in json.loads(done.stdout).items()
    }
    missing = {path for entries in stages.values() for path in entries.get("changed outs", {})}
    return {name: _changes(entries, missing) for name, entries in stages.items()}


def _changes(entries: dict[str, dict[str, Any]], missing: set[str]) -> Changes:
    dependencies = ["the command in dvc.yaml"] if "changed command" in entries else []
    for path, how in entries.get("changed deps", {}).items():
        if isinstance(how, dict):  # a file of parameters, and how each has changed
            dependencies += [f"{key} in {path}" for key in how]
        elif path not in missing:
            dependencies.append(path)
    present = [path for path, how in entries.get("changed outs", {}).items() if how == "modified"]
    return Changes(dependencies, present)


def has_to_run(root: Path, stage: str) -> bool:
    """Tell whether `dvc repro` would run `stage`, rather than skip it or restore its outputs from the cache."""
    done = _dvc(root, "repro", "--dry", "--single-item", stage, capture_output=True)
    return f"Running stage '{stage}'" in done.stdout


def run_experiment(root: Path, name: str, settings: dict[str, str]) -> int:
    """Run the pipeline as the experiment `name`, in a temporary copy: no tracked file of `root` changes."""
    changes = [argument for key, value in settings.items() for argument in ("--set-param", f"{key}={value}")]
    return _dvc(root, "exp", "run", "--temp", "--name", name, *changes).returncode


def experiments(root: Path) -> list[str]:
    """Return the names of the experiments that are based on the current commit."""
    return _dvc(root, "exp", "list", "--name-only", capture_output=True).stdout.split()


def fetch(root: Path, revision: str, path: str, target: Path) -> None:
    """Copy the file or folder `path` of `revision` from git or DVC's cache to `target`."""
    from dvc.api import DVCFileSystem

    DVCFileSystem(str(root), rev=revision).get(path, str(target), recursive=True)


def _dvc(
    root: Path, *arguments: str, capture_output: bool = False, environment: Mapping[str, str] = os.environ
) -> "subprocess.CompletedProcess[str]":
    command = _command(*arguments)
    return subprocess.run(command, cwd=root, env=_environment(environment), capture_output=capture_output, text=True)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dvc", *arguments]


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in given.items() if name not in _INHERITED}
    # The stages say `python`: it is the one that runs this.
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), given.get("PATH", os.defpath)])}
