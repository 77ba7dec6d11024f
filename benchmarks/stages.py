"""Whole stages as processes, on drawn images in a temporary clone: what lies around the training."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import lab_script
from benchmarks.measure import NUM_ROUNDS, Row, ratio, show_progress
from benchmarks.parallel import precision
from samebits import params
from samebits.repository import dvc_command

NUM_REPRO_ROUNDS = 31  # of less than a second each, and a difference of a tenth of one is to be seen

EMPTY_PIPELINE = {
    "stages": {name: {"cmd": f"echo {name} > {name}", "outs": [name]} for name in ("one", "two", "three")}
}


def rows() -> list[Row]:
    """Return the rows of the stages."""
    with tempfile.TemporaryDirectory() as folder:
        clone, empty = Path(folder, "clone"), Path(folder, "empty")
        run(Path.cwd(), "git", "clone", "--quiet", ".", str(clone))
        shutil.copy("params.yaml", clone)
        choose(clone, "lab")
        run(clone, "dvc", "repro", "--quiet")
        pair = [_speed_clone(clone, number) for number in range(2)]
        empty.mkdir()
        (empty / "dvc.yaml").write_text(json.dumps(EMPTY_PIPELINE))
        for command in (("git", "init", "--quiet"), ("dvc", "init", "--quiet"), ("dvc", "repro", "--quiet")):
            run(empty, *command)

        def stage(name: str) -> list[str]:
            return [sys.executable, f"stages/{name}.py"]

        repro = ("dvc", "repro", "--quiet")
        seconds: dict[str, list[float]] = {"no-op": [], "empty": []}
        # Before the stages run by hand: what they write DVC would hash anew.
        for _ in range(NUM_REPRO_ROUNDS):
            seconds["no-op"].append(run(clone, *repro))
            seconds["empty"].append(run(empty, *repro))
        for number in range(NUM_ROUNDS):
            measured = {
                "prepare": run(clone, *stage("prepare")),
                "evaluate": run(clone, *stage("evaluate")),
                "plain evaluation": lab_script.measuring("test", 10_000)(),
                "first step": _first_step(clone),
                "import torch": run(clone, sys.executable, "-c", "import torch"),
                "one": _at_once(pair[:1], stage("train")),
                "two": _at_once(pair, stage("train")),
            }
            measured["whole"] = run(clone, "dvc", "repro", "--quiet", "--force")
            measured["loop"] = _training_loop(clone)
            for name, value in measured.items():
                seconds.setdefault(name, []).append(value)
            show_progress(f"stages, round {number + 1} of {NUM_ROUNDS}")
        show_progress("")
    return [
        ratio("dvc repro without work / an empty pipeline of 3 stages", "empty", seconds["no-op"], seconds["empty"]),
        ratio("lab, whole dvc repro / its training loop", "loop", seconds["whole"], seconds["loop"]),
        ratio(
            "start of train to its first step / import torch", "import", seconds["first step"], seconds["import torch"]
        ),
        ratio("prepare, drawing 60,000 shapes / import torch", "import", seconds["prepare"], seconds["import torch"]),
        ratio(
            "evaluate, with pictures / the lab's test loop", "loop", seconds["evaluate"], seconds["plain evaluation"]
        ),
        ratio("two speed trainings at once / one, 5 steps", "one", seconds["two"], seconds["one"]),
    ]


def run(folder: Path, *command: str) -> float:
    """Return the seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=_environment(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _environment() -> dict[str, str]:
    """Return the user's environment without that of DVC and MLflow: the runs go to the clone, and no statistics to DVC."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    return kept | {"DVC_NO_ANALYTICS": "1"}


def _at_once(clones: list[Path], command: list[str]) -> float:
    """Seconds until the same command, which begins in all clones at once and from nothing, has ended in all."""
    for clone in clones:
        shutil.rmtree(clone / ".samebits", ignore_errors=True)
    with ThreadPoolExecutor() as pool:
        return max(pool.map(lambda clone: run(clone, *command), clones))


def _speed_clone(clone: Path, number: int) -> Path:
    """Copy a clone with its prepared images; its recipe is then speed, one epoch of 10,000 images."""
    other = clone.parent / f"speed-{number}"
    shutil.copytree(clone, other, symlinks=True)
    choose(other, "speed", num_train=10_000, num_test=1_000)
    slow = {"precision": precision()}
    dvc_command.edit_yaml(other / "params.yaml", lambda values: values["recipes"]["speed"]["train"].update(slow))
    run(other, sys.executable, "stages/prepare.py")
    return other


def choose(clone: Path, recipe: str, **shapes: int) -> None:
    """Let a clone train a recipe for one epoch on drawn images: as many as `shapes` says, or as params.yaml does."""

    def change(values: dict[str, Any]) -> None:
        values["recipe"], values["data"]["source"] = recipe, "shapes"
        values["data"]["shapes"].update(shapes)
        values["recipes"][recipe]["train"]["num_epochs"] = 1

    dvc_command.edit_yaml(clone / "params.yaml", change)


def _first_step(clone: Path) -> float:
    """Seconds from the start of a train process to its first report, after one step; then it is stopped."""
    other = clone.parent / "first"
    if not other.exists():
        shutil.copytree(clone, other, symlinks=True)
        often = {"report_every_steps": 1}
        dvc_command.edit_yaml(other / "params.yaml", lambda values: values["recipes"]["lab"]["train"].update(often))
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-u", "stages/train.py"],
        cwd=other,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    reported = next((line for line in process.stdout if line.startswith("[")), None)
    seconds = time.perf_counter() - began
    assert reported, "the training ended without a report"
    process.kill()
    process.wait()
    shutil.rmtree(other / ".samebits", ignore_errors=True)
    return seconds


def _training_loop(clone: Path) -> float:
    """Seconds that the newest training's loop took, from the speed that it logged."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{clone / 'mlflow.db'}")
    # Also deleted ones: a training that gives a known result deletes its run.
    runs = mlflow.search_runs(
        search_all_experiments=True,
        order_by=["start_time DESC"],
        max_results=1,
        run_view_type=mlflow.entities.ViewType.ALL,
    )
    settings = params.load(clone / "params.yaml")
    return settings.data.shapes.num_train * settings.chosen.train.num_epochs / runs["metrics.images_per_second"][0]
