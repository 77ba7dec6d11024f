"""`samebits verify --run`: from a run on the tracking page back to its bits."""

import os
import shutil
from pathlib import Path

import pytest

from samebits.tracking import open_store
from samebits.tracking.store import quiet_mlflow
from tests.conftest import Repository


@pytest.fixture
def tracked(known: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """The results that are known, each with its run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    quiet_mlflow()
    for name in ("mlflow.db", "mlflow.db.lock"):
        (known.root / name).unlink(missing_ok=True)
    shutil.rmtree(known.root / "mlartifacts", ignore_errors=True)
    known.run("samebits", "track", "--all")
    return known


def run_id(repository: Repository, name: str) -> str:
    store = open_store(repository.root)
    (run,) = [run for run in store.client.search_runs([store.experiment_id]) if run.info.run_name == name]
    return str(run.info.run_id)


def mistake(repository: Repository, *arguments: str) -> str:
    failed = repository.run("samebits", "verify", *arguments, ok=False)
    assert failed.returncode == 2 and failed.stdout == ""
    (line,) = failed.stderr.splitlines()
    return line.removeprefix("error: ")


def test_a_run_is_proved_with_the_changes_that_no_commit_holds(tracked: Repository, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    identity = run_id(tracked, "slower")  # an experiment: its commit's parameters are others
    done = tracked.run("samebits", "verify", "--run", identity, "--keep", TMPDIR=str(temporary))
    assert done.stdout.splitlines()[-2].startswith(f"identical: 17 of 17 outputs of run {identity} (")
    kept = Path(done.stdout.splitlines()[-1].removeprefix("kept: "))
    assert list(temporary.iterdir()) == [] and tracked.status() == ""

    # It can be worked in: DVC finds it up to date, git sees the changes.
    worktree = Repository(kept)
    assert "momentum: 0.8" in (kept / "params.yaml").read_text()
    assert "params.yaml" in worktree.status()
    assert "up to date" in worktree.run("dvc", "status").stdout
    assert f"{kept} is there already" in mistake(tracked, "--run", identity, "--keep")


def test_another_result_than_the_runs_is_seen(tracked: Repository) -> None:
    identity = run_id(tracked, "lab-seed0")
    for outputs in (tracked.root / "mlartifacts" / identity).rglob("outputs.json"):
        outputs.write_text(outputs.read_text().replace('"md5": "', '"md5": "x'))
    done = tracked.run("samebits", "verify", "--run", identity, "--stage", "prepare", ok=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith(f"different: 5 of 5 outputs of run {identity} (")


def test_a_run_without_its_list_of_outputs_is_proved_by_its_tags(tracked: Repository) -> None:
    identity = run_id(tracked, "lab-seed0")
    for outputs in (tracked.root / "mlartifacts" / identity).rglob("outputs.json"):
        outputs.unlink()
    done = tracked.run("samebits", "verify", "--run", identity, "--stage", "prepare")
    assert done.stdout.splitlines()[-1].startswith(f"identical: 1 of 1 outputs of run {identity} (")


def test_a_run_that_cannot_be_repeated_costs_one_line(tracked: Repository) -> None:
    assert "has no run 0123: `make ui` shows those that it has" in mistake(tracked, "--run", "0123")
    assert mistake(tracked, "HEAD", "--run", "0123") == "give a revision or a run, not both"
    assert mistake(tracked, "--keep").startswith("--keep goes with --run")

    store = open_store(tracked.root)
    foreign = store.client.create_run(store.experiment_id).info.run_id
    assert f"run {foreign} has no result of samebits (RUNNING)" in mistake(tracked, "--run", foreign)
    elsewhere, slower = run_id(tracked, "lab-seed0"), run_id(tracked, "slower")
    for key in ("samebits.commit", "samebits.commits"):
        store.client.set_tag(elsewhere, key, "f" * 40)
    assert "comes from commit fffffff, which is not in " in mistake(tracked, "--run", elsewhere)
    for patch in (tracked.root / "mlartifacts" / slower).rglob("diff.patch"):
        patch.write_text(
            "diff --git a/params.yaml b/params.yaml\n--- a/params.yaml\n+++ b/params.yaml\n@@ -1 +1 @@\n-a\n+b\n"
        )
    assert "the recorded changes cannot be applied" in mistake(tracked, "--run", slower)
    for patch in (tracked.root / "mlartifacts" / slower).rglob("diff.patch"):
        patch.unlink()
    assert "that were not kept" in mistake(tracked, "--run", slower)
    failed = tracked.run("samebits", "verify", "--run", slower, ok=False, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert failed.returncode == 2 and failed.stderr.startswith("error: the tracking store http://127.0.0.1:9 cannot")
    assert os.listdir(tracked.root / ".samebits") == [] or not (tracked.root / ".samebits/runs").exists()
