"""`samebits verify --run`: from a run on the tracking page back to its bits."""

import os
import pty
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from samebits.tracking import open_store
from samebits.tracking.store import quiet_mlflow
from tests.conftest import Repository, built_once, copy_tree


@pytest.fixture(scope="session")
def tracked_template(known_template: Path, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(root: Path) -> None:
        copy_tree(known_template, root)
        shutil.copy(empty_database, root)
        shutil.rmtree(root / "mlartifacts", ignore_errors=True)
        Repository(root).run("samebits", "track", "--all")

    return built_once(tmp_path_factory, "tracked", build)


@pytest.fixture
def tracked(tracked_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """The results that are known, each with its run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    quiet_mlflow()
    root = tmp_path / "samebits"
    copy_tree(tracked_template, root)
    with closing(sqlite3.connect(root / "mlflow.db")) as database, database:  # it names the template's artifacts
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            replaced = f"replace({column}, '{tracked_template}', '{root}')"
            database.execute(f"UPDATE {table} SET {column} = {replaced}")
    return Repository(root)


def run_id(repository: Repository, name: str) -> str:
    store = open_store(repository.root)
    (run,) = [run for run in store.client.search_runs([store.experiment_id]) if run.info.run_name == name]
    return str(run.info.run_id)


def prove(repository: Repository, identity: str, *arguments: str, **kwargs: Any) -> "subprocess.CompletedProcess[str]":
    return repository.run("samebits", "verify", "--run", identity, "--yes", *arguments, **kwargs)


def artifact(repository: Repository, identity: str, name: str) -> Path:
    (path,) = (repository.root / "mlartifacts" / identity).rglob(name)
    return path


def mistake(repository: Repository, *arguments: str) -> str:
    failed = repository.run("samebits", "verify", *arguments, *(["--yes"] if "--run" in arguments else []), ok=False)
    assert failed.returncode == 2 and failed.stdout == ""
    (line,) = failed.stderr.splitlines()
    return line.removeprefix("error: ")


def test_a_run_is_proved_with_the_changes_that_no_commit_holds(tracked: Repository, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    identity = run_id(tracked, "slower")  # an experiment: its commit's parameters are others
    done = prove(tracked, identity, "--keep", TMPDIR=str(temporary))
    assert done.stdout.splitlines()[-2].startswith(f"identical: 17 of 17 outputs of run {identity} (")
    kept = Path(done.stdout.splitlines()[-1].removeprefix("kept: "))
    assert list(temporary.iterdir()) == [] and tracked.status() == ""

    # It can be worked in: DVC finds it up to date, git sees the changes.
    worktree = Repository(kept)
    assert "momentum: 0.8" in (kept / "params.yaml").read_text()
    assert "params.yaml" in worktree.status()
    assert "up to date" in worktree.run("dvc", "status").stdout
    assert f"{kept} exists already" in mistake(tracked, "--run", identity, "--keep")


def on_a_terminal(repository: Repository, answer: str, *command: str) -> tuple[int, str]:
    """Run a command on a terminal of its own and type `answer`; return its exit code and all that it shows."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        command, cwd=repository.root, env=repository.environment_of(command), stdin=its, stdout=its, stderr=its
    ) as process:
        os.close(its)
        os.write(ours, answer.encode())
        shown = b""
        try:
            while some := os.read(ours, 1000):
                shown += some
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    text = shown.decode().replace("\r\n", "\n")
    return process.returncode, text.removesuffix("\x1b[0m")  # of colorama, if it starts warm: DVC has it loaded


def test_a_run_is_shown_before_it_runs_and_only_runs_when_the_user_agrees(tracked: Repository) -> None:
    identity, head = run_id(tracked, "slower"), tracked.run("git", "rev-parse", "HEAD").stdout.strip()
    command = ("samebits", "verify", "--run", identity, "--stage", "prepare")
    for answer in ("n\n", "\n", "\x04"):
        code, shown = on_a_terminal(tracked, answer, *command)
        assert code == 2 and "Running stage" not in shown
        assert shown.splitlines()[-1].endswith(f"error: run {identity} ({head[:7]} with its changes) was not run")
    assert f"  commit {head[:7]} by tests@example.org <tests@example.org>, 20" in shown and ": its result\n" in shown
    assert "\n  in main\n" in shown
    assert re.search(r"\n  with a patch of \d\d lines to params.yaml\n", shown)
    code, shown = on_a_terminal(tracked, "y\n", *command)
    assert code == 0 and shown.index("run it? [y/N]") < shown.index("Running stage 'prepare'")

    # Nobody is there to ask.
    failed = tracked.run(*command, ok=False)
    assert failed.returncode == 2 and failed.stdout == ""
    assert failed.stderr.startswith("error: --run runs the code that the run names") and "--yes" in failed.stderr

    # Of a branch that is gone: whoever wrote it.
    store = open_store(tracked.root)
    stranger = tracked.run("git", "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "\x1b[2Jhello").stdout.strip()
    store.client.set_tag(identity, "samebits.commit", stranger)
    _, shown = on_a_terminal(tracked, "n\n", *command)
    assert "\n  which no branch or tag of this clone holds\n" in shown and r"\x1b[2Jhello" in shown


def test_a_run_is_made_from_its_own_commit_and_changes_not_from_a_later_commit(tracked: Repository) -> None:
    identity = run_id(tracked, "slower")
    store = open_store(tracked.root)
    tracked.edit(lambda values: values["data"].update(seed=5))
    tracked.commit("another data set")
    store.client.set_tag(identity, "samebits.commits", tracked.run("git", "rev-parse", "HEAD").stdout.strip())
    done = prove(tracked, identity, "--stage", "prepare")
    assert done.stdout.splitlines()[-1].startswith(f"identical: 5 of 5 outputs of run {identity} (")
    assert " with its changes)" in done.stdout
    # Without its changes there is only that commit.
    artifact(tracked, identity, "diff.patch").unlink()
    done = prove(tracked, identity, "--stage", "prepare", ok=False)
    assert done.returncode == 1 and "different: " in done.stdout and " with its changes)" not in done.stdout


def test_what_a_stranger_wrote_to_a_run_costs_one_line(tracked: Repository) -> None:
    identity = run_id(tracked, "slower")

    def said_of(name: str, content: str) -> str:
        path = artifact(tracked, identity, name)
        before = path.read_text()
        path.write_text(content)
        said = mistake(tracked, "--run", identity)
        path.write_text(before)
        return said

    entry = '[{"stage": "train", "path": "%s", "md5": "", "size": 1}]'
    for content, expected in [
        ("", "Invalid JSON"),
        ('[{"stage": "train", "path": "a"}]', "Field required"),
        (entry % "../a", "../a leads out of a clone"),
        (entry % "/etc/passwd", "/etc/passwd leads out of a clone"),
        (entry % r"\u001b[2Ja", r"\x1b[2Ja has characters that cannot be printed"),
    ]:
        assert said_of("outputs.json", content).startswith(f"outputs.json of run {identity} is damaged: {expected}")
    for content in ("garbage", "--- a/../../out\n+++ b/../../out\n@@ -0,0 +1 @@\n+out\n"):
        assert said_of("diff.patch", content).startswith("the recorded changes cannot be applied: error: ")


def test_another_result_than_the_runs_is_seen(tracked: Repository) -> None:
    identity = run_id(tracked, "lab-seed0")
    for outputs in (tracked.root / "mlartifacts" / identity).rglob("outputs.json"):
        outputs.write_text(outputs.read_text().replace('"md5": "', '"md5": "x'))
    done = prove(tracked, identity, "--stage", "prepare", ok=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith(f"different: 5 of 5 outputs of run {identity} (")


def test_a_run_that_records_nothing_to_compare_is_not_proved(tracked: Repository) -> None:
    identity = run_id(tracked, "lab-seed0")
    artifact(tracked, identity, "outputs.json").write_text("[]")
    done = prove(tracked, identity, "--stage", "prepare", ok=False)
    assert done.returncode == 2 and "identical" not in done.stdout
    assert done.stderr.endswith("records no output that these stages make: there is nothing to compare\n")


def test_a_run_without_its_list_of_outputs_is_proved_by_its_tags(tracked: Repository) -> None:
    identity = run_id(tracked, "lab-seed0")
    for outputs in (tracked.root / "mlartifacts" / identity).rglob("outputs.json"):
        outputs.unlink()
    done = prove(tracked, identity, "--stage", "prepare")
    assert done.stdout.splitlines()[-1].startswith(f"identical: 1 of 1 outputs of run {identity} (")


def test_a_run_that_cannot_be_repeated_costs_one_line(tracked: Repository) -> None:
    assert "has no run 0123: `make ui` shows the runs that it has" in mistake(tracked, "--run", "0123")
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
    failed = prove(tracked, slower, ok=False, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert failed.returncode == 2 and failed.stderr.startswith("error: the tracking store http://127.0.0.1:9 cannot")
    assert os.listdir(tracked.root / ".samebits") == [] or not (tracked.root / ".samebits/runs").exists()
