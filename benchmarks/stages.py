"""Whole stages as processes, on drawn images in a temporary clone: what lies around the training."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks import lab_script
from benchmarks.measure import NUM_ROUNDS, Row, ratio
from samebits import params

EMPTY_PIPELINE = {
    "stages": {name: {"cmd": f"echo {name} > {name}", "outs": [name]} for name in ("one", "two", "three")}
}


def rows() -> list[Row]:
    """Give the rows of the stages."""
    with tempfile.TemporaryDirectory() as folder:
        clone, empty = Path(folder, "clone"), Path(folder, "empty")
        _run(Path.cwd(), "git", "clone", "--quiet", ".", str(clone))
        shutil.copy("params.yaml", clone)
        _edit(clone, "shapes", 1)
        _run(clone, "dvc", "repro", "--quiet")
        empty.mkdir()
        YAML().dump(EMPTY_PIPELINE, empty / "dvc.yaml")
        for command in (("git", "init", "--quiet"), ("dvc", "init", "--quiet"), ("dvc", "repro", "--quiet")):
            _run(empty, *command)

        def stage(name: str) -> list[str]:
            return [sys.executable, f"stages/{name}.py"]

        seconds: dict[str, list[float]] = {}
        for number in range(NUM_ROUNDS):
            measured = {
                "no-op": _run(clone, "dvc", "repro", "--quiet"),
                "empty": _run(empty, "dvc", "repro", "--quiet"),
                "prepare": _run(clone, *stage("prepare")),
                "evaluate": _run(clone, *stage("evaluate")),
                "plain evaluation": lab_script.measuring("test", 10_000)(),
                "first step": _first_step(clone),
                "import torch": _run(clone, sys.executable, "-c", "import torch"),
            }
            measured["whole"] = _run(clone, "dvc", "repro", "--quiet", "--force")
            measured["loop"] = _training_loop(clone)
            for name, value in measured.items():
                seconds.setdefault(name, []).append(value)
            print(f"\rstages, round {number + 1} of {NUM_ROUNDS}", end="", file=sys.stderr, flush=True)
        print("\r".ljust(40), end="\r", file=sys.stderr)
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
    ]


def _run(folder: Path, *command: str) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _edit(clone: Path, source: str, num_epochs: int) -> None:
    yaml = YAML()
    values = yaml.load(clone / "params.yaml")
    values["recipe"], values["data"]["source"] = "lab", source
    values["recipes"]["lab"]["train"]["num_epochs"] = num_epochs
    yaml.dump(values, clone / "params.yaml")


def _first_step(clone: Path) -> float:
    """Seconds from the start of a train process to its first report, after one step; then it is stopped."""
    other = clone.parent / "first"
    if not other.exists():
        shutil.copytree(clone, other)
        yaml = YAML()
        values = yaml.load(other / "params.yaml")
        values["recipes"]["lab"]["train"]["report_every_steps"] = 1
        yaml.dump(values, other / "params.yaml")
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-u", "stages/train.py"],
        cwd=other,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("["):
            break
    seconds = time.perf_counter() - began
    process.kill()
    process.wait()
    shutil.rmtree(other / ".samebits", ignore_errors=True)
    return seconds


def _training_loop(clone: Path) -> float:
    """Seconds that the newest training's loop took, from the speed that it logged."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{clone / 'mlflow.db'}")
    runs = mlflow.search_runs(search_all_experiments=True, order_by=["start_time DESC"], max_results=1)
    settings = params.load(clone / "params.yaml")
    return settings.data.shapes.num_train * settings.chosen.train.num_epochs / runs["metrics.images_per_second"][0]
