"""Killed at any moment: the training goes on, and ends with the bytes of one that was never stopped."""

import hashlib
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import Repository, built_once, slow_down, stages_run

EVERY_SECONDS = 0.25
# From one moment at which a training can be saved to the next, on a machine that does other work too.
SLACK_SECONDS = 2.0
pytestmark = pytest.mark.usefixtures("untracked")
OUTPUTS = ("checkpoint.safetensors", "history.csv", "environment.json")


def lengthen(values: dict) -> None:
    """Make the training of 500 steps, with many resume points."""
    values["checkpoint_every_seconds"] = EVERY_SECONDS
    values["recipes"]["lab"]["train"].update(num_epochs=5, report_every_steps=50)


@pytest.fixture(scope="module")
def never_stopped(fresh_template: Path, without_mlflow: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository whose training ran through, once. It takes some four seconds."""

    def build(root: Path) -> None:
        subprocess.run(["cp", "-r", str(fresh_template), str(root)], check=True)
        repository = Repository(root)
        repository.edit(lengthen)
        slow_down(repository, 0.008)
        repository.commit("longer")
        done = repository.run("dvc", "repro", PYTHONPATH=str(without_mlflow))
        assert stages_run(done.stdout) == ["prepare", "train", "evaluate"]
        repository.commit("its result")

    return Repository(built_once(tmp_path_factory, "never-stopped", build))


@pytest.fixture
def unfinished(never_stopped: Repository, tmp_path: Path) -> Repository:
    """The same, with everything done but the training; none of it is in a cache."""
    root = tmp_path / "samebits"
    subprocess.run(["cp", "-r", str(never_stopped.root), str(root)], check=True)
    for name in (".dvc/cache/runs", "data/model", "data/evaluation", "mlflow.db", "mlartifacts", ".samebits"):
        subprocess.run(["rm", "-rf", str(root / name)], check=True)
    for output in OUTPUTS:
        digest = md5(never_stopped.root / "data/model" / output)
        (root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).unlink()
    return Repository(root)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def model(repository: Repository) -> dict[str, str]:
    return {name: md5(repository.root / "data/model" / name) for name in OUTPUTS}


def points(repository: Repository) -> list[Path]:
    return sorted((repository.root / ".samebits/resume").glob("*/*.point"))


def writes(repository: Repository) -> list[Path]:
    """Return the resume points that are being written, or were when their process was killed."""
    return list((repository.root / ".samebits/resume").glob("*/.*.point.*"))


def wait_until(condition, process: "subprocess.Popen[str]", seconds: float = 60, pause: float = 0.005) -> bool:
    """Wait until something holds; False when the process has ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(pause)
    pytest.fail("waited in vain")


def kill_group(process: "subprocess.Popen[str]", number: int = signal.SIGKILL) -> str:
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    return output


def kill_repeatedly(repository: Repository, num_kills: int, seed: int, is_warm: bool = False) -> int:
    """Kill the trainer at random moments until it has been killed `num_kills` times; then let it end.

    Every third kill comes as soon as a write is seen. Asserts after each how much was lost. Returns how many
    kills landed inside a write: fewer if `is_warm`, for a kill takes a moment longer then.
    """
    chance, inside = random.Random(seed), 0
    for number in range(num_kills):
        known = [path.name for path in points(repository)]
        process = repository.start("python", "stages/train.py", is_warm=is_warm)
        started = wait_until(lambda known=known: [path.name for path in points(repository)] != known, process)
        assert started, f"the training ended after {number} kills: {process.communicate()[0]}"
        if number % 3 == 0:
            assert wait_until(lambda: writes(repository), process, pause=0.0002)
        else:
            time.sleep(chance.uniform(0, 3 * EVERY_SECONDS))
        killed_at = time.time()
        output = kill_group(process)
        inside += bool(writes(repository))
        newest = points(repository)[-1]
        assert killed_at - newest.stat().st_mtime <= EVERY_SECONDS + SLACK_SECONDS
        if known:
            assert f"going on after step {int(known[-1].split('.')[0]):,} of " in output
    last = repository.start("python", "stages/train.py", is_warm=is_warm)
    output, _ = last.communicate()
    assert last.returncode == 0, output
    return inside


def test_killed_5_times_at_random_the_bytes_are_the_same(never_stopped: Repository, unfinished: Repository) -> None:
    kill_repeatedly(unfinished, num_kills=5, seed=0, is_warm=True)
    assert model(unfinished) == model(never_stopped)
    assert not writes(unfinished)


@pytest.mark.parametrize(
    ("num_kills", "num_epochs"),
    [pytest.param(25, 22, marks=pytest.mark.long), pytest.param(200, 180, marks=pytest.mark.slow)],
)
def test_killed_many_times_at_random_the_bytes_are_the_same(
    unfinished: Repository, tmp_path: Path, num_kills: int, num_epochs: int
) -> None:
    unfinished.edit(lambda values: values["recipes"]["lab"]["train"].update(num_epochs=num_epochs))
    reference = Repository(tmp_path / "reference")
    subprocess.run(["cp", "-r", str(unfinished.root), str(reference.root)], check=True)
    reference.run("python", "stages/train.py")
    inside = kill_repeatedly(unfinished, num_kills, seed=0)
    print(f"{num_kills} kills, {inside} of them inside a write")
    assert inside >= num_kills // 5
    assert model(unfinished) == model(reference)
    assert not writes(unfinished)


def test_dvc_and_trainer_killed_together(never_stopped: Repository, unfinished: Repository) -> None:
    process = unfinished.start("dvc", "repro")
    assert wait_until(lambda: len(points(unfinished)) > 1, process)
    kill_group(process)
    done = unfinished.run("dvc", "repro")
    assert "train" in stages_run(done.stdout) and "going on after step" in done.stdout
    assert model(unfinished) == model(never_stopped)
    assert unfinished.status() == ""
    assert points(unfinished) == [], "the points of a recorded training are of no use any more"


def test_interrupted_from_the_keyboard(never_stopped: Repository, unfinished: Repository) -> None:
    process = unfinished.start("dvc", "repro")
    assert wait_until(lambda: len(points(unfinished)) > 1, process)
    output = kill_group(process, signal.SIGINT)
    assert "Traceback" not in output
    assert "going on after step" in unfinished.run("dvc", "repro", "train").stdout
    assert model(unfinished) == model(never_stopped)


def test_dvc_alone_killed_a_second_one_takes_the_work_over(never_stopped: Repository, unfinished: Repository) -> None:
    """The training runs to its end, and no DVC has lived to record it: that costs no second training."""
    process = unfinished.start("dvc", "repro")
    assert wait_until(lambda: len(points(unfinished)) > 1, process)
    trainer = psutil.Process(process.pid).children(recursive=True)
    for each in trainer:
        each.suspend()  # so that it is still at work when the second one comes
    process.kill()  # not its group: the trainer lives on
    process.wait()
    second, output = unfinished.start("dvc", "repro", "train"), ""
    assert second.stdout is not None
    for line in second.stdout:
        output += line
        if "is at this very training; waiting" in line:
            for each in trainer:
                each.resume()
    assert second.wait() == 0
    waited = re.search(r"process (\d+) is at this very training; waiting", output)
    assert waited and int(waited[1]) in [each.pid for each in trainer]
    process.communicate()
    assert "going on after step 500 of 500" in output, "the second one trained what the first had trained"
    assert model(unfinished) == model(never_stopped)
    assert unfinished.status() == ""


def test_other_parameters_start_fresh_and_it_says_so(unfinished: Repository) -> None:
    process = unfinished.start("python", "stages/train.py", is_warm=True)
    assert wait_until(lambda: points(unfinished), process)
    kill_group(process)
    unfinished.edit(lambda values: values["recipes"]["lab"]["train"].update(num_epochs=1))
    done = unfinished.run("dvc", "repro", "train")
    assert "this one starts fresh" in done.stderr and "going on" not in done.stdout
