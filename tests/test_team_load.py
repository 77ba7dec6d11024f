"""Many results at once: a queue of experiments, people who share at the same time, and workers that are killed."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml

from samebits.tracking import open_store
from samebits.tracking.store import quiet_mlflow
from tests import remotes
from tests.conftest import Repository, stages_run
from tests.remotes import clone


@pytest.mark.parametrize("number", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_all_that_two_clones_share_at_once_is_restored_from_a_third(
    quick: Repository, tmp_path: Path, number: int
) -> None:
    team = remotes.folder(tmp_path / "team")
    team.add_to(quick)
    both = [clone(quick, name) for name in ("first", "second")]
    made: dict[int, bytes] = {}
    for index, repository in enumerate(both):
        for seed in range(10 + number * index, 10 + number * (index + 1)):
            (repository.root / "params.yaml").write_text(f"seed: {seed}\n")
            assert "work" in repository.repro()
            made[seed] = (repository.root / "out.bin").read_bytes()
    num_killed = 0
    for number_shared in (1, 3, 5):  # both at once, killed when the remote has so many objects
        processes = [repository.start("samebits", "share", is_warm=True) for repository in both]
        while len(team.objects()) < number_shared and any(process.poll() is None for process in processes):
            time.sleep(0.002)
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                num_killed += 1
            process.wait()
    assert num_killed
    processes = [repository.start("samebits", "share", is_warm=True) for repository in both]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]

    third = clone(quick, "third")
    for seed, content in made.items():
        (third.root / "params.yaml").write_text(f"seed: {seed}\n")
        assert "work" not in third.repro("--pull")
        assert (third.root / "out.bin").read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize(("number", "num_kills"), [(50, 0), (12, 4)])
def test_a_queue_with_two_workers_loses_and_doubles_nothing(done: Repository, number: int, num_kills: int) -> None:
    quiet_mlflow()
    for name in ("mlflow.db", "mlflow.db.lock"):
        (done.root / name).unlink(missing_ok=True)
    shutil.rmtree(done.root / "mlartifacts", ignore_errors=True)
    names = [f"seed-{seed}" for seed in range(1, number + 1)]
    for seed, name in enumerate(names, start=1):
        done.run("dvc", "exp", "run", "--queue", "--name", name, "--set-param", f"seed={seed}")
    started = time.monotonic()
    counts = work_off(done, num_kills)
    print(f"{counts} after {time.monotonic() - started:.0f} s")

    finished = done.run("dvc", "exp", "list", "--name-only").stdout.split()
    store = open_store(done.root)
    logged = [run for run in store.client.search_runs([store.experiment_id]) if run.info.status == "FINISHED"]
    if counts["Success"] == number:
        assert sorted(run.data.params["seed"] for run in logged) == sorted(map(str, range(1, number + 1)))
        for name in set(names) - set(finished):  # DVC's own workers can lose a name when two end in the same moment
            again = done.run("dvc", "exp", "run", "--name", name, "--set-param", f"seed={name.removeprefix('seed-')}")
            assert "train" not in stages_run(again.stdout)
        finished = names
    require_runs(done, finished)


def start_workers(repository: Repository) -> None:
    """Start two workers, without waiting for them to close the pipe that they inherit."""
    assert repository.start("dvc", "queue", "start", "--jobs", "2", is_warm=True).wait() == 0


def require_runs(repository: Repository, names: list[str]) -> None:
    """Fail where an experiment has no run, or two, or one that names another network; or the cache is damaged."""
    store = open_store(repository.root)
    repository.run("samebits", "track", *names)
    repository.run("samebits", "track", *names)
    found = store.client.search_runs([store.experiment_id])
    contents = Counter(run.data.tags.get("samebits.content") for run in found)
    assert {count for content, count in contents.items() if content} == {1}
    by_checkpoint = {
        run.data.tags.get("samebits.checkpoint_md5"): run.data.tags.get("samebits.experiments", "")
        for run in found
        if run.info.status == "FINISHED"
    }
    for name in names:
        lock = yaml.safe_load(repository.run("git", "show", f"{commit_of(repository, name)}:dvc.lock").stdout)
        outputs = {output["path"]: output["md5"] for stage in lock["stages"].values() for output in stage["outs"]}
        assert name in by_checkpoint[outputs["data/model/checkpoint.safetensors"]].split()
    assert "all whole" in repository.run("samebits", "check", ok=False).stdout


def work_off(repository: Repository, num_kills: int) -> Counter[str]:
    """Run the queue to its end with two workers, and kill something of it now and then; count its tasks by their states.

    DVC takes a task whose worker was killed for running, for ever: the end is also where nothing has run for a minute.
    """
    draw = random.Random(0)
    start_workers(repository)
    newest_work = time.monotonic()
    next_kill = time.monotonic() + draw.uniform(5, 15)
    while (counts := status(repository))["Queued"] + counts["Running"] and time.monotonic() < newest_work + 60:
        if not (found := working(repository.root)):
            start_workers(repository)
        elif num_kills and time.monotonic() > next_kill:
            draw.choice(found).send_signal(signal.SIGKILL)
            num_kills -= 1
            next_kill = time.monotonic() + draw.uniform(5, 15)
        if any("queue-worker" not in process.info["cmdline"] for process in found):
            newest_work = time.monotonic()
        time.sleep(2)
    assert not num_kills, "the queue ended before all were killed"
    return counts


def commit_of(repository: Repository, name: str) -> str:
    """Return the commit of an experiment."""
    listed = repository.run("git", "for-each-ref", "--format=%(objectname) %(refname:lstrip=4)", "refs/exps").stdout
    (commit,) = [line.split()[0] for line in listed.splitlines() if line.endswith(f" {name}")]
    return commit


def status(repository: Repository) -> Counter[str]:
    """Count the tasks of the queue by what DVC says of them."""
    words = repository.run("dvc", "queue", "status").stdout.split()
    return Counter(word for word in words if word in ("Queued", "Running", "Success", "Failed"))


def working(root: Path) -> list[psutil.Process]:
    """Return the processes that work on the queue: DVC's workers, and the stages that they run."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command, folder = " ".join(process.info["cmdline"] or []), process.info["cwd"] or ""
        if folder.startswith(str(root)) and ("celery" in command or "stages/" in command or "queue-worker" in command):
            found.append(process)
    return found
