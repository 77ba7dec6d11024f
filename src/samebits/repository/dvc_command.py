"""The pipeline as DVC runs it: by its command, or by its library if a new process would cost too much time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import chdir, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samebits.errors import UserError
from samebits.paths import LOCK

_DVC = (sys.executable, "-m", "dvc")
# A DVC that is started inside a stage of another repository must not take that one's root for its own.
_INHERITED = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")


def reproduce(root: Path) -> int:
    """Run `dvc repro`, showing its output; return its exit code."""
    return _dvc(root, "repro").returncode


def reproduce_from_nothing(root: Path, stage: str | None, environment: Mapping[str, str]) -> int:
    """Run all stages, or those up to `stage`, without record or cache, showing their output; return the exit code.

    The new dvc.lock holds the stages that ran, in that order. Whatever interrupts this process ends the stages too.
    """
    import psutil

    (root / LOCK).unlink(missing_ok=True)  # a run before the first commit of one has none
    command = [*_DVC, "repro", "--no-run-cache", "--no-commit", *([stage] if stage else [])]
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
    """What differs between the files and dvc.lock: a stage's dependencies and parameters, and its outputs that exist."""

    dependencies: list[str]
    outputs: list[str]


def changes(root: Path, stage: str | None, environment: Mapping[str, str]) -> dict[str, Changes]:
    """Compare the files in `root` with its dvc.lock, for all stages or those up to `stage`. Outputs need not be there.

    Raises UserError if DVC cannot read the pipeline.
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
    return Changes(dependencies, [path for path, how in entries.get("changed outs", {}).items() if how == "modified"])


def has_to_run(root: Path, stage: str) -> bool:
    """Return whether `dvc repro` would run `stage`, rather than skip it or restore its outputs from the cache."""
    done = _dvc(root, "repro", "--dry", "--single-item", stage, capture_output=True)
    return f"Running stage '{stage}'" in done.stdout


def run_experiment(root: Path, name: str, settings: dict[str, str]) -> int:
    """Run the pipeline as the experiment `name` in a temporary copy, so no tracked file of `root` changes; return the exit code."""
    changes = [f"--set-param={key}={value}" for key, value in settings.items()]
    return _dvc(root, "exp", "run", "--temp", "--name", name, *changes).returncode


def reproduce_here(root: Path, environment: Mapping[str, str], experiment: Mapping[str, str]) -> bool:
    """Do as `dvc repro` in the folder `root` does, in this process; tell whether it succeeded, and print why not.

    The stages run with `environment` and, over that, what DVC would tell them of their `experiment`. The working folder and
    the environment of this process are theirs meanwhile, so no other thread may rely on either.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update({**_environment(environment), **experiment})
        with chdir(root), Repo(str(root)) as repository:
            repository.reproduce()
    except DvcException as error:
        print(f"DVC: {error}", file=sys.stderr, flush=True)
        return False
    finally:
        os.environ.clear()
        os.environ.update(before)
    return True


def edit_yaml(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a YAML file as DVC does: its comments and the order of its keys stay."""
    from dvc.utils.serialize import modify_yaml

    with modify_yaml(str(path)) as content:
        edit(content)


def use_cache(root: Path, cache: Path) -> None:
    """Let the clone in `root` use DVC's cache in the folder `cache`."""
    from dvc.config import Config

    with Config(str(root / ".dvc")).edit("local") as settings:
        settings["cache"] = {"dir": str(cache)}


def fetch(root: Path, revision: str, path: str, target: Path) -> None:
    """Copy the file or folder `path` of `revision` from git or DVC's cache to `target`."""
    from dvc.api import DVCFileSystem

    DVCFileSystem(str(root), rev=revision).get(path, str(target), recursive=True)


def fetch_tracked(root: Path, revision: str, path: str, clone: Path) -> None:
    """Put the files at `path` into a clone of the repository at `revision`, if a .dvc file tracks them and they are missing."""
    if (clone / f"{Path(path)}.dvc").is_file() and not (clone / path).exists():
        fetch(root, revision, path, clone / path)


def _dvc(
    root: Path, *arguments: str, capture_output: bool = False, environment: Mapping[str, str] = os.environ
) -> "subprocess.CompletedProcess[str]":
    values = _environment(environment)
    return subprocess.run([*_DVC, *arguments], cwd=root, env=values, capture_output=capture_output, text=True)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in given.items() if name not in _INHERITED}
    # The stages run `python`: the one that runs this.
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), given.get("PATH", os.defpath)])}
