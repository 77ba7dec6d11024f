"""`samebits track`: the run of a result written from git and DVC's cache alone, equal to the one that was logged live."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import yaml

from samebits.repository import git
from samebits.tracking import open_store
from samebits.tracking.store import Store, quiet_mlflow
from tests import remotes
from tests.conftest import Repository
from tests.remotes import clone

# What belongs to the process that logged live, or to when it did.
LIVE_TAGS = {"samebits.host", "samebits.pid", "samebits.process_started", "mlflow.user"}
LIVE_METRICS = {"images_per_second"}
TAG = "samebits.recorded"
LoseRuns = Callable[[Repository], None]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    quiet_mlflow()


def track(repository: Repository, *arguments: str, **environment: str) -> str:
    """Track; give how many runs were new, completed and there already, as it says."""
    done = repository.run("samebits", "track", *arguments, **environment)
    assert done.stderr == ""
    return done.stdout.strip().rpartition(": ")[2]


def lose_database(repository: Repository) -> None:
    for name in ("mlflow.db", "mlflow.db.lock"):
        (repository.root / name).unlink(missing_ok=True)
    shutil.rmtree(repository.root / "mlartifacts", ignore_errors=True)


@pytest.fixture
def lose_runs(empty_database: Path) -> LoseRuns:
    """Lose the database and have an empty one, for tests that are not about a database that is made anew."""

    def lose(repository: Repository) -> None:
        lose_database(repository)
        shutil.copy(empty_database, repository.root)

    return lose


def runs_of(store: Store) -> list[Any]:
    return [run for run in store.client.search_runs([store.experiment_id]) if run.info.status == "FINISHED"]


def content_of(store: Store, run: Any, folder: Path) -> dict[str, Any]:
    """Return all that a run says, apart from what only a live one can."""
    run_id = run.info.run_id
    folder.mkdir(parents=True)
    for file in store.client.list_artifacts(run_id):
        store.client.download_artifacts(run_id, file.path, str(folder))
    return {
        "name": run.info.run_name,
        "params": run.data.params,
        "tags": {
            key: value.replace(run_id, "ID") for key, value in run.data.tags.items() if key not in LIVE_TAGS | {TAG}
        },
        "history": {
            key: sorted((each.step, each.value) for each in store.client.get_metric_history(run_id, key))
            for key in run.data.metrics
            if key not in LIVE_METRICS
        },
        "artifacts": {path.name: path.read_bytes() for path in folder.iterdir()},
    }


def contents(root: Path, folder: Path) -> dict[str, dict[str, Any]]:
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (once, for all processes that are forked)

    # In a process of its own: MLflow keeps a connection to a database that was removed since.
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(_contents, root, folder).result()


def _contents(root: Path, folder: Path) -> dict[str, dict[str, Any]]:
    store = open_store(root)
    return {
        run.data.tags["samebits.content"]: content_of(store, run, folder / run.info.run_id) for run in runs_of(store)
    }


def test_a_run_written_afterwards_is_the_one_that_was_logged_live(
    done: Repository, lose_runs: LoseRuns, tmp_path: Path
) -> None:
    done.run("git", "reset", "--quiet", "HEAD~1")  # as its result was when its run was logged: in no commit yet
    done.run(
        "dvc", "exp", "run", "--temp", "--name", "slower", "--set-param", "recipes.lab.train.optimizer.momentum=0.8"
    )
    live = contents(done.root, tmp_path / "live")
    assert len(live) == 2
    lose_runs(done)
    assert track(done) == "1 new, 0 completed, 0 there already"
    assert track(done, "slower") == "1 new, 0 completed, 0 there already"
    written = contents(done.root, tmp_path / "afterwards")
    assert written.keys() == live.keys()
    for content, run in live.items():
        for part, value in run.items():
            assert written[content][part] == value, part
    store = open_store(done.root)
    for run in runs_of(store):
        assert run.data.tags[TAG] == "afterwards"
        assert not LIVE_TAGS & set(run.data.tags) and not LIVE_METRICS & set(run.data.metrics)

    # Committed, it is the same result: its run gets to know the commit too, and no more.
    first = git.commit(done.root)
    done.commit("its result")
    assert track(done, "HEAD", "slower") == "0 new, 0 completed, 2 there already"
    assert track(done, "--all") == "0 new, 0 completed, 2 there already"
    (run,) = [run for run in runs_of(store) if run.info.run_name == "lab-seed0"]
    assert run.data.tags["samebits.commits"].split() == [first, git.commit(done.root)]


NEW_PARAMETERS = """

class Calibrate(Section):
    temperature: float


class Params(Params):
    calibrate: Calibrate

    def resolved(self):
        return super().resolved() | {"calibrate": self.calibrate.model_dump()}
"""


def test_the_parameters_of_a_new_stage_are_part_of_the_result(done: Repository, lose_runs: LoseRuns) -> None:
    lose_runs(done)
    code, definition = done.root / "src/samebits/params.py", done.root / "dvc.yaml"
    code.write_text(code.read_text() + NEW_PARAMETERS)
    pipeline = yaml.safe_load(definition.read_text())
    command = "python -c \"open('data/calibrated', 'w').write('1')\""
    parts = {"deps": ["data/evaluation/predictions.csv"], "params": ["calibrate"], "outs": ["data/calibrated"]}
    pipeline["stages"]["calibrate"] = {"cmd": command, **parts}
    definition.write_text(yaml.safe_dump(pipeline, sort_keys=False))
    done.edit(lambda values: values.update(calibrate={"temperature": 1}))
    assert "calibrate" in done.repro("--force")
    assert track(done, PYTHONPATH=str(done.root / "src")) == "0 new, 0 completed, 1 there already"
    done.commit("calibrated")
    assert track(done, "HEAD", PYTHONPATH=str(done.root / "src")) == "0 new, 0 completed, 1 there already"


def test_every_commit_and_experiment_has_one_run_however_many_track(known: Repository) -> None:
    lose_database(known)
    processes = [known.start("samebits", "track", "--all", is_warm=True) for _ in range(3)]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), said
    assert sum(int(line.rpartition(": ")[2].split()[0]) for line in said) == 2
    store = open_store(known.root)
    assert sorted(run.info.run_name for run in store.client.search_runs([store.experiment_id])) == [
        "lab-seed0",
        "slower",
    ]
    assert track(known, "--all") == "0 new, 0 completed, 2 there already"
    known.run("dvc", "remote", "add", "--default", "nobody", "http://127.0.0.1:9/nobody")
    assert known.run("samebits", "track", "--all").stderr == ""  # nothing is missing


def test_a_colleague_with_nothing_but_a_remote_has_every_run(
    known: Repository, empty_database: Path, tmp_path: Path
) -> None:
    remote = remotes.folder(tmp_path / "team")
    remote.add_to(known)
    known.run("samebits", "share")
    second = clone(known, "second")
    shutil.copy(empty_database, second.root)
    second.run("git", "fetch", "--quiet", "origin", "refs/exps/*:refs/exps/*")
    assert track(second, "--all") == "2 new, 0 completed, 0 there already"
    run = runs_of(open_store(second.root))[0]
    assert "mistakes.png" in {file.path for file in open_store(second.root).client.list_artifacts(run.info.run_id)}
    # Nothing was fetched that no run shows.
    assert not (second.root / "data/model/checkpoint.safetensors").exists()


def test_what_a_run_lacks_is_filled_in_and_what_it_has_stays(known: Repository, lose_runs: LoseRuns) -> None:
    lose_runs(known)
    track(known)
    store = open_store(known.root)
    (run,) = runs_of(store)
    store.client.log_metric(run.info.run_id, "accuracy", 0.5, step=0)  # by another version of the code, say
    for picture in (known.root / "mlartifacts").rglob("mistakes.png"):
        picture.unlink()
    assert track(known) == "0 new, 1 completed, 0 there already"
    assert track(known) == "0 new, 0 completed, 1 there already"
    assert list((known.root / "mlartifacts").rglob("mistakes.png"))
    assert store.client.get_run(run.info.run_id).data.metrics["accuracy"] == 0.5


def test_runs_that_two_machines_wrote_at_once_become_one(known: Repository, lose_runs: LoseRuns) -> None:
    lose_runs(known)
    track(known)
    store = open_store(known.root)
    (run,) = runs_of(store)
    twin = store.client.create_run(store.experiment_id, tags=run.data.tags | {"samebits.experiments": "elsewhere"})
    store.client.set_terminated(twin.info.run_id)
    track(known)
    (left,) = runs_of(store)
    assert left.info.run_id == run.info.run_id and left.data.tags["samebits.experiments"] == "elsewhere"


def test_a_killed_tracking_is_repeated(known: Repository, lose_runs: LoseRuns) -> None:
    lose_runs(known)
    open_store(known.root)
    process = known.start("samebits", "track", "--all", is_warm=True)
    deadline = time.monotonic() + 300
    while not list((known.root / "mlartifacts").rglob("params.yaml")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()  # until nobody holds its output any more
    track(known, "--all")
    store = open_store(known.root)
    assert sorted(run.info.run_name for run in runs_of(store)) == ["lab-seed0", "slower"]
    others = [run for run in store.client.search_runs([store.experiment_id]) if "samebits.content" not in run.data.tags]
    assert {run.info.status for run in others} <= {"KILLED"}


def test_running_a_cached_result_leaves_its_run_visible(known: Repository, lose_runs: LoseRuns) -> None:
    lose_runs(known)
    done = known.run("samebits", "run")
    assert done.stderr == "" and "Running stage" not in done.stdout
    (run,) = runs_of(open_store(known.root))
    assert run.info.run_name == "lab-seed0"


def test_edits_that_nobody_ran_are_not_said_to_give_the_result(known: Repository, lose_runs: LoseRuns) -> None:
    lose_runs(known)
    known.edit(lambda values: values.update(seed=7))
    assert track(known) == "1 new, 0 completed, 0 there already"  # HEAD's result, which is still in dvc.lock
    (run,) = runs_of(open_store(known.root))
    assert run.data.params["seed"] == "0" and run.data.tags["samebits.dirty"] == "false"
    known.commit("parameters without their result")
    track(known, "HEAD")
    (run,) = runs_of(open_store(known.root))
    clean, stale = run.data.tags["samebits.commits"].split()
    assert clean == git.commit(known.root, "HEAD~1") and stale == f"{git.commit(known.root)}-dirty"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["nothing"], "nothing is no revision of "),
        (["HEAD~1"], "has no dvc.lock: it is from before the first result"),
        (["--all", "HEAD"], "--all already means every revision"),
    ],
)
def test_a_mistake_costs_one_line(known: Repository, arguments: list[str], what: str) -> None:
    failed = known.run("samebits", "track", *arguments, ok=False)
    assert failed.returncode == 1 and failed.stdout == ""
    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: ") and what in line


def test_an_incomplete_result_is_left_out(known: Repository, lose_runs: LoseRuns) -> None:
    lose_runs(known)
    for path in ("dvc.lock", "metrics/evaluate.json"):
        (known.root / path).write_text((known.root / path).read_text() + "\n")
    metrics = json.loads((known.root / "metrics/evaluate.json").read_text())
    (known.root / "metrics/evaluate.json").write_text(json.dumps(metrics | {"accuracy": 1.0}))
    known.commit("metrics that were edited by hand")
    done = known.run("samebits", "track", "--all")
    (line,) = done.stderr.splitlines()
    assert line.startswith("left out: metrics/evaluate.json of ")
    assert done.stdout.endswith(": 2 new, 0 completed, 0 there already; 1 without a complete result left out\n")


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///broken.db"])
def test_a_store_that_cannot_be_used_costs_one_line(known: Repository, uri: str) -> None:
    (known.root / "broken.db").write_bytes(b"no database" * 1000)
    failed = known.run("samebits", "track", ok=False, MLFLOW_TRACKING_URI=uri)
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: the tracking store ") and "cannot be used" in line
    # `samebits run` shows the result all the same.
    done = known.run("samebits", "run", MLFLOW_TRACKING_URI=uri)
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: MLflow does not hold the run of this result: ") and "accuracy" in done.stdout


def test_an_older_schema_is_named_with_its_remedy(known: Repository, lose_runs: LoseRuns) -> None:
    lose_runs(known)
    open_store(known.root)
    set_schema(known.root / "mlflow.db", "728d730b5ebd")
    failed = known.run("samebits", "track", ok=False)
    (line,) = failed.stderr.splitlines()
    assert "has the schema of an older MLflow" in line and "`mlflow db upgrade sqlite:///" in line


def set_schema(database: Path, revision: str) -> None:
    import sqlite3

    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def many_experiments(repository: Repository, number: int) -> None:
    """Let the repository hold experiments as if each had been run: seeds in dvc.lock and params.yaml, their own checkpoint."""
    lock, parameters = ((repository.root / name).read_text() for name in ("dvc.lock", "params.yaml"))
    base = git.commit(repository.root)
    assert base
    md5 = next(
        line.split()[1]
        for line, before in zip(lock.splitlines()[2:], lock.splitlines(), strict=False)
        if "md5: " in line and "data/model/checkpoint" in before
    )
    for seed in range(1, number + 1):
        for name, content in (("dvc.lock", lock), ("params.yaml", parameters)):
            changed = content.replace(md5, f"{seed:031x}f").replace("seed: 0", f"seed: {seed}")
            (repository.root / name).write_text(changed)
        repository.run("git", "commit", "--quiet", "--all", "--message", f"seed {seed}")
        repository.run("git", "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/seed-{seed}", "HEAD")
        repository.run("git", "reset", "--quiet", "--hard", base)


@pytest.mark.parametrize("number", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_many_experiments_are_tracked(done: Repository, lose_runs: LoseRuns, number: int) -> None:
    lose_runs(done)
    many_experiments(done, number)
    started = time.monotonic()
    assert track(done, "--all") == f"{number + 1} new, 0 completed, 0 there already"
    print(f"{number + 1} results tracked in {time.monotonic() - started:.1f} s")
    started = time.monotonic()
    assert track(done, "--all") == f"0 new, 0 completed, {number + 1} there already"
    print(f"found again in {time.monotonic() - started:.1f} s")
    assert len({run.data.tags["samebits.content"] for run in runs_of(open_store(done.root))}) == number + 1
