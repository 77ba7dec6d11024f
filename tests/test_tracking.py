"""Runs in a real MLflow store: found by content, one for each result, and never in training's way."""

import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from samebits.repository import git
from samebits.repository.git import Origin
from samebits.tracking import Recorder, RunContent, content_md5, find_run, open_store, runs, tracking_uri
from samebits.tracking.store import Store, quiet_mlflow
from tests.conftest import FOREIGN, PROGRAMS, Repository

SOURCE = Path(__file__).parents[1] / "src"
PYTHON = str(PROGRAMS / "python")  # which starts cold
DATA, CHECKPOINT = "d" * 32, "c" * 32
PARAMETERS: dict[str, Any] = {
    "recipe": "lab",
    "seed": 0,
    "device": "auto",
    "data": {"source": "shapes", "seed": 0},
    "model": {"name": "lab"},
    "train": {"learning_rate": 0.001, "num_epochs": 2},
    "evaluate": {"batch_size": 100},
}
ENVIRONMENT = {"processor": "a processor", "versions": {"torch": "2.13.0"}, "flags": ["avx2"]}
HISTORY = [
    {"step": 2000 * n, "epoch": n, "train_loss": 2.0 / n, "validation_loss": None, "other": float("nan")}
    for n in (1, 2, 3)
]
METRICS = {"test": {"accuracy": 0.5, "recall": {"plane": 0.25, "sea & sky": 0.75}}}

# A stage's training, in a process of its own: argv is root, seed, how to end.
TRAINING = f"""
import sys, time
from pathlib import Path
from dataclasses import replace
from samebits.repository.git import Origin
from samebits.tracking import Recorder, RunContent
root, seed, end = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
parameters = {PARAMETERS!r} | {{"seed": seed}}
content = RunContent(Origin(None, b"", None), parameters, "{DATA}", {{}}, str(seed))
with Recorder(root, "this training") as record:
    record.begin(content)
    started = time.monotonic()
    for step in range(200):
        record.report({{"step": step, "train_loss": 1.0}}, images_per_second=100.0)
    assert time.monotonic() - started < 0.5, "training waited for MLflow"
    if end == "wait":
        time.sleep(600)
    record.finish(replace(content, checkpoint_md5=str(seed) * 32))
print("trained")
"""

# A stage's evaluation that does not come to its end: argv is root, how it fails.
EVALUATION = """
import os, signal, sys
from pathlib import Path
from samebits.tracking import Recorder
with Recorder(Path(sys.argv[1]), "this evaluation"):
    print("begun", flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit("the networks outputs are no numbers")
"""

# Trainings with the seeds of argv[2] that reach the store at about the same moment.
TRAININGS = (
    """
import os, sys
children = []
for seed in sys.argv[2].split(","):
    if (pid := os.fork()) == 0:
        sys.argv[2] = seed
        break
    children.append(pid)
else:
    sys.exit(any([os.waitpid(pid, 0)[1] for pid in children]))
"""
    + TRAINING
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, warm_python: None) -> None:
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    quiet_mlflow()


@pytest.fixture
def root(tmp_path: Path, empty_database: Path) -> Path:
    """A DVC root with a git history of one commit and a migrated database."""
    root = tmp_path / "a root"
    root.mkdir()
    shutil.copy(empty_database, root / "mlflow.db")
    (root / "params.yaml").write_text("seed: 0\n")
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / ".gitignore").write_text("mlflow.db*\nmlartifacts/\n")
    _git(root, "init", "--quiet")
    _commit(root)
    return root


def _git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=folder, check=True)


def _commit(folder: Path) -> str:
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--allow-empty", "--message", "a commit")
    commit = git.commit(folder)
    assert commit
    return commit


def _origin(root: Path) -> Origin:
    """Read where the files of `root` come from, as a stage does at its start."""
    commit = git.commit(root)
    patch = git.diff(root, commit) if commit else b""
    files = {name: (root / name).read_bytes() for name in ("params.yaml", "dvc.yaml") if (root / name).exists()}
    return Origin(commit, patch, os.environ.get("DVC_EXP_NAME"), files, is_dirty=bool(patch))


def _head(root: Path) -> str:
    head = git.commit(root)
    assert head
    return head


def _train(root: Path, parameters: dict[str, Any] = PARAMETERS, reported: list[dict[str, Any]] = HISTORY) -> None:
    content = RunContent(_origin(root), parameters, DATA, ENVIRONMENT, "key")
    with Recorder(root, "this training") as record:
        record.begin(content)
        for row in reported:
            record.report(row, images_per_second=1000.0)
        record.finish(replace(content, checkpoint_md5=CHECKPOINT, history=HISTORY))


def _evaluate(root: Path, parameters: dict[str, Any] = PARAMETERS, pictures: dict[str, bytes] | None = None) -> None:
    with Recorder(root, "this evaluation") as record:
        content = RunContent(_origin(root), parameters, DATA, {}, "", CHECKPOINT, HISTORY, METRICS, pictures or {})
        record.finish(content)


def _runs(store: Store) -> list[Any]:
    return list(store.client.search_runs([store.experiment_id]))


def _only_run(root: Path) -> Any:
    (run,) = _runs(open_store(root))
    return run


def _values(root: Path, run: Any, key: str) -> list[tuple[int, float]]:
    history = open_store(root).client.get_metric_history(run.info.run_id, key)
    return [(metric.step, metric.value) for metric in history]


def _artifacts(root: Path, run: Any) -> set[str]:
    return {file.path for file in open_store(root).client.list_artifacts(run.info.run_id)}


LOSSES = [(row["step"], row["train_loss"]) for row in HISTORY]


def test_a_training_and_its_evaluation_are_one_run(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _train(root)
    _evaluate(root, pictures={"mlartifacts.png": b"a picture"})

    run = _only_run(root)
    tags = run.data.tags
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "lab-seed0"
    assert run.data.params["train.learning_rate"] == "0.001"
    assert len(run.data.params) == 9
    assert _values(root, run, "train_loss") == LOSSES
    assert run.data.metrics["test.accuracy"] == 0.5
    assert run.data.metrics["test.recall.sea _ sky"] == 0.75
    assert run.data.metrics["images_per_second"] == 1000.0
    assert not {"validation_loss", "other", "step"} & set(run.data.metrics)
    assert _artifacts(root, run) == {"params.yaml", "dvc.yaml", "environment.json", "evaluate.json", "mlartifacts.png"}
    assert (tags["samebits.data_md5"], tags["samebits.checkpoint_md5"]) == (DATA, CHECKPOINT)
    (written,) = (root / "mlartifacts").rglob("environment.json")
    assert json.loads(written.read_text()) == ENVIRONMENT
    assert tags["samebits.commit"] == tags["samebits.commits"] == tags["mlflow.source.git.commit"] == git.commit(root)
    assert (tags["mlflow.source.name"], tags["mlflow.user"]) == ("dvc.yaml", psutil.Process().username())
    ((data,),) = ([each.dataset for each in found] for found in [run.inputs.dataset_inputs])
    assert (data.name, data.digest, json.loads(data.source)) == ("shapes", DATA, PARAMETERS["data"])
    assert tags["samebits.dirty"] == "false"
    found = find_run(open_store(root), content_md5(PARAMETERS, DATA, CHECKPOINT))
    assert found is not None and found.info.run_id == run.info.run_id
    # Neither MLflow nor its libraries print anything.
    assert capfd.readouterr() == ("", "")


def test_the_description_says_what_came_out_and_stays_as_somebody_edits_it(root: Path) -> None:
    metrics = {"accuracy": 0.5397, "accuracy_low": 0.5299, "accuracy_high": 0.5495}
    result = RunContent(
        _origin(root), PARAMETERS, DATA, {}, "", CHECKPOINT, HISTORY, metrics, {"confusion_matrix.png": b"p"}
    )
    store = open_store(root)
    runs.record(store, replace(result, metrics={}))  # as after the training
    assert runs.record(store, result) == "completed"
    (run,) = _runs(store)
    note, run_id = run.data.tags["mlflow.note.content"], run.info.run_id
    assert note.startswith("**lab** on shapes, seed 0: accuracy **53.97 %** (95 %: 52.99 to 54.95)\n")
    assert f"`samebits verify --run {run_id}`" in note and f"`git checkout {_head(root)[:12]} && dvc repro`" in note
    assert f"(get-artifact?path=confusion_matrix.png&run_uuid={run_id})" in note
    store.client.set_tag(run_id, "mlflow.note.content", "the best so far")
    runs.record(store, result)
    assert _only_run(root).data.tags["mlflow.note.content"] == "the best so far"


def test_a_run_of_an_earlier_version_is_found_and_left_as_it_is(root: Path) -> None:
    result = RunContent(_origin(root), PARAMETERS, DATA, ENVIRONMENT, "", CHECKPOINT, HISTORY, METRICS)
    store = open_store(root)
    tags = {"samebits.environment.versions.torch": "2.12.0", "samebits.commits": _head(root), **result.result_tags}
    old = store.client.create_run(store.experiment_id, tags=tags).info.run_id
    assert runs.record(store, result, is_live=False) == "completed"
    assert runs.record(store, result, is_live=False) == "there"
    run = _only_run(root)
    assert run.info.run_id == old and tags.items() <= run.data.tags.items()


def test_evaluating_again_changes_nothing(root: Path) -> None:
    for _ in range(2):
        _evaluate(root)
    run = _only_run(root)
    assert _values(root, run, "test.accuracy") == [(0, 0.5)]
    assert _values(root, run, "train_loss") == LOSSES


def test_rows_from_before_a_resume_are_recorded_once(root: Path) -> None:
    _train(root, reported=HISTORY[2:])
    assert sorted(_values(root, _only_run(root), "train_loss")) == LOSSES


def test_another_evaluation_of_one_checkpoint_is_a_run_with_the_same_history(root: Path) -> None:
    other = copy.deepcopy(PARAMETERS)
    other["evaluate"]["batch_size"] = 7
    _train(root)
    _evaluate(root)
    _evaluate(root, other)

    both = _runs(open_store(root))
    assert sorted(run.data.params["evaluate.batch_size"] for run in both) == ["100", "7"]
    for run in both:
        assert run.info.status == "FINISHED"
        assert _values(root, run, "train_loss") == LOSSES
        assert _values(root, run, "test.accuracy") == [(0, 0.5)]


def test_one_result_of_two_commits_is_one_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = git.commit(root)
    _train(root)
    _evaluate(root)
    second = _commit(root)
    monkeypatch.setenv("DVC_EXP_NAME", "muddy-fork")
    _train(root)
    run = _only_run(root)
    _evaluate(root)

    assert _only_run(root).data.tags == run.data.tags
    assert run.data.tags["samebits.commits"] == f"{first} {second}"
    assert run.data.tags["samebits.experiments"] == "muddy-fork"
    assert _values(root, run, "test.accuracy") == [(0, 0.5)]
    assert _values(root, run, "train_loss") == LOSSES


def test_one_result_finished_twice_at_once_is_one_run(root: Path) -> None:
    store = open_store(root)
    trained = threading.Event()
    complete = RunContent(_origin(root), PARAMETERS, DATA, {}, "key", CHECKPOINT, HISTORY)

    def train() -> None:
        with Recorder(root, "this training") as record:
            record.begin(RunContent(_origin(root), PARAMETERS, DATA, {}, "key"))
            trained.wait(30)
            record.finish(complete)

    thread = threading.Thread(target=train)
    thread.start()
    _wait_until(lambda: _runs(store))
    with store.lock:
        trained.set()
        time.sleep(0.5)
        assert [run.info.status for run in _runs(store)] == ["RUNNING"]
        assert runs.record(store, complete) == "new"
        (twin,) = [run for run in _runs(store) if run.info.status == "FINISHED"]
    thread.join(30)
    assert _only_run(root).info.run_id == twin.info.run_id


def test_a_changed_workspace_is_recorded_with_its_patch(root: Path) -> None:
    (root / "picture").write_bytes(b"\0before")
    _commit(root)
    (root / "picture").write_bytes(b"\0after")
    (root / "params.yaml").write_text("seed: 1\n")
    (root / "untracked").write_text("secret")
    _evaluate(root)

    run = _only_run(root)
    assert run.data.tags["samebits.dirty"] == "true"
    assert run.data.tags["samebits.commits"] == f"{git.commit(root)}-dirty"
    patch = next((root / "mlartifacts").rglob("diff.patch"))
    assert b"secret" not in patch.read_bytes()
    _git(root, "reset", "--quiet", "--hard")
    _git(root, "apply", str(patch))
    assert (root / "params.yaml").read_text() == "seed: 1\n"
    assert (root / "picture").read_bytes() == b"\0after"


def test_a_lost_database_is_written_again(root: Path, empty_database: Path) -> None:
    _train(root)
    shutil.copy(empty_database, root / "mlflow.db")
    _evaluate(root)

    run = _only_run(root)
    assert run.info.status == "FINISHED"
    assert _values(root, run, "train_loss") == LOSSES
    assert run.data.metrics["test.accuracy"] == 0.5


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_an_exception_ends_the_run(root: Path, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), Recorder(root, "this training") as record:
        record.begin(RunContent(_origin(root), PARAMETERS, DATA, {}, "key"))
        record.report(HISTORY[0])
        raise error
    run = _only_run(root)
    assert run.info.status == status
    assert "samebits.content" not in run.data.tags
    assert _values(root, run, "train_loss") == LOSSES[:1]


def test_the_store_lies_in_the_dvc_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/runs.db")
    assert tracking_uri(tmp_path) == "sqlite:////elsewhere/runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert tracking_uri(tmp_path) == "http://server"


def test_git_ignores_what_dvc_writes(root: Path, tmp_path: Path) -> None:
    (root / "dvc.lock").write_text("a\n")
    (root / "metrics").mkdir()
    (root / "metrics" / "test.json").write_text("{}\n")
    _commit(root)
    (root / "dvc.lock").write_text("b\n")
    (root / "metrics" / "test.json").write_text("[]\n")
    assert not git.diff(root, _head(root))
    (root / "dvc.yaml").write_text("stages: {a: {cmd: b}}\n")
    assert git.diff(root, _head(root))

    nothing = tmp_path / "nothing"
    nothing.mkdir()
    assert git.commit(nothing) is None
    _git(nothing, "init", "--quiet")
    assert git.commit(nothing) is None


def test_the_tags_by_which_runs_are_found_never_change() -> None:
    """Else no run in a user's database would be found, and each would be written again."""
    content = RunContent(Origin("a" * 40, b"patch", "muddy-fork", is_dirty=True), PARAMETERS, DATA, ENVIRONMENT, "key")
    assert content.tags == {
        "samebits.data_md5": DATA,
        "samebits.parameters_md5": "856b14f3381f7b7793660d6b54bd86e8",
        "samebits.training": "key",
        "samebits.experiments": "muddy-fork",
        "samebits.commit": "a" * 40,
        "samebits.commits": f"{'a' * 40}-dirty",
        "samebits.dirty": "true",
        "mlflow.source.name": "dvc.yaml",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": "a" * 40,
    }
    complete = replace(content, checkpoint_md5=CHECKPOINT)
    assert complete.result_tags == {
        "samebits.checkpoint_md5": CHECKPOINT,
        "samebits.content": "405c5d9dd1797bc1eac61aeb237e5f96",
    }


def test_importing_the_package_does_not_import_mlflow() -> None:
    code = "import sys, samebits.tracking; sys.exit('mlflow' in sys.modules)"
    subprocess.run([PYTHON, "-c", code], env={**os.environ, "PYTHONPATH": str(SOURCE)}, check=True)


# Processes of their own


def _start(
    root: Path,
    seeds: str = "0",
    end: str = "well",
    script: str = TRAINING,
    wrap: tuple[str, ...] = (),
    is_warm: bool = True,
    **environment: str,
) -> Any:
    command = (*wrap, "python", "-c", script, str(root), seeds, end)
    repository = Repository(root)
    own = repository.environment_of(command) if is_warm else repository.environment()
    return subprocess.Popen(
        command,
        env={**own, "PYTHONPATH": str(SOURCE), **environment},
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _assert_one_warning(process: Any, seconds: float) -> None:
    started = time.monotonic()
    try:
        output, errors = process.communicate(timeout=seconds + 5)
    finally:
        process.kill()
    assert (process.returncode, output) == (0, "trained\n"), errors
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("warning: MLflow did not record this training (")
    assert errors.endswith("); the result itself is complete\n")
    assert time.monotonic() - started < seconds


def test_eight_trainings_start_at_once_without_a_database(tmp_path: Path) -> None:
    with _start(tmp_path, "0,1,2,3,4,5,6,7", script=TRAININGS) as process:
        assert process.communicate(timeout=120) == ("trained\n" * 8, "")
        assert process.returncode == 0
    finished = _runs(open_store(tmp_path))
    assert sorted(run.data.params["seed"] for run in finished) == [str(seed) for seed in range(8)]
    assert {run.info.status for run in finished} == {"FINISHED"}
    assert all(len(_values(tmp_path, run, "train_loss")) == 200 for run in finished)
    assert not list(tmp_path.rglob("mlruns"))


def test_a_killed_trainings_run_is_closed_by_the_next(root: Path) -> None:
    store = open_store(root)
    with _start(root, "1", "wait", is_warm=False) as killed, _start(root, "2", "wait", is_warm=False) as alive:
        try:
            _wait_until(lambda: sum("train_loss" in run.data.metrics for run in _runs(store)) == 2)
            killed.send_signal(signal.SIGKILL)
            # Not waited for here: a process that is only a zombie is gone as well.
            _wait_until(lambda: _is_zombie(killed.pid))
            _train(root)
            status = {run.data.params["seed"]: run.info.status for run in _runs(store)}
            assert status == {"0": "FINISHED", "1": "KILLED", "2": "RUNNING"}
        finally:
            alive.kill()


def test_a_process_number_used_again_does_not_keep_a_run_alive(root: Path) -> None:
    _train(root)
    store = open_store(root)
    run_id = _only_run(root).info.run_id
    store.client.update_run(run_id, status="RUNNING")
    _evaluate(root)
    assert _only_run(root).info.status == "RUNNING"
    store.client.set_tag(run_id, "samebits.process_started", "1000000000.0")
    _evaluate(root)
    assert _only_run(root).info.status == "KILLED"


def _wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_zombie(pid: int) -> bool:
    return " Z " in Path(f"/proc/{pid}/stat").read_text()


def test_no_server_costs_a_warning(tmp_path: Path) -> None:
    _assert_one_warning(_start(tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9"), seconds=15)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts every connection (the kernel does) and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_never_answers_costs_a_warning(tmp_path: Path, silent_server: str) -> None:
    _assert_one_warning(_start(tmp_path, MLFLOW_TRACKING_URI=silent_server), seconds=25)


def test_an_evaluation_without_a_store_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://a:secret@server")
    _evaluate(tmp_path)
    output, errors = capfd.readouterr()
    assert output == "" and "secret" not in errors and len(errors.splitlines()) == 1
    assert errors.startswith("warning: MLflow did not record this evaluation (")


@pytest.mark.parametrize(("end", "errors"), [("failed", "the networks outputs are no numbers\n"), ("killed", "")])
def test_an_evaluation_that_does_not_end_writes_nothing_and_leaves_nobody(root: Path, end: str, errors: str) -> None:
    _train(root)
    before = _only_run(root).to_dictionary()
    command = [PYTHON, "-c", EVALUATION, str(root), end]
    # The process that would have written holds these pipes too: both reach their end only when it is gone.
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(SOURCE)}, capture_output=True, timeout=60)
    assert (ended.stdout, ended.stderr) == (b"begun\n", errors.encode())
    assert _only_run(root).to_dictionary() == before


def test_a_corrupt_database_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 1000)
    _assert_one_warning(_start(tmp_path), seconds=15)


@pytest.mark.parametrize("mode", [0o444, 0o000])
def test_a_database_without_permission_costs_a_warning(root: Path, mode: int) -> None:
    (root / "mlflow.db").chmod(mode)
    wrap: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and there is no setpriv to stop it")
        dropped = "-dac_override,-dac_read_search"
        wrap = ("setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}")
    _assert_one_warning(_start(root, wrap=wrap), seconds=15)
