"""The pipeline as a user lives in it: edit, reproduce, compare; each test asserts which stages really ran."""

import csv
import getpass
import hashlib
import json
import platform
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Repository, require_program, stages_run


def outputs(repository: Repository) -> dict[str, str]:
    files = [path for name in ("data", "metrics") for path in (repository.root / name).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(repository.root)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in files
        if path.name != ".gitignore"
    }


def test_a_second_run_changes_nothing(done: Repository) -> None:
    assert done.repro() == []
    assert done.status() == ""


def test_an_evaluation_setting_does_not_train_again(done: Repository) -> None:
    done.edit(lambda values: values["recipes"]["lab"]["evaluate"].update(num_pictures=3))
    assert done.repro("--dry") == ["evaluate"]


def test_another_recipe_makes_nothing_stale(done: Repository) -> None:
    done.edit(lambda values: values["recipes"]["linear"]["train"]["optimizer"].update(learning_rate=0.5))
    assert done.repro() == []


@pytest.mark.usefixtures("untracked")
def test_another_recipe_trains_and_what_was_trained_before_comes_back(done: Repository) -> None:
    weights = outputs(done)["data/model/checkpoint.safetensors"]
    done.edit(lambda values: values.update(recipe="linear"))
    assert done.repro() == ["train", "evaluate"]
    assert outputs(done)["data/model/checkpoint.safetensors"] != weights
    done.edit(lambda values: values.update(recipe="lab"))
    assert "train" not in done.repro()
    assert outputs(done)["data/model/checkpoint.safetensors"] == weights


@pytest.mark.usefixtures("untracked")
def test_code_that_a_stage_runs_makes_it_stale(done: Repository) -> None:
    loop = done.root / "src/samebits/training/loop.py"
    loop.write_text(loop.read_text() + "# changed\n")
    assert done.repro() == ["train"]  # the same weights come out, so evaluate has nothing to do
    assert done.status().split() == ["M", "dvc.lock", "M", "src/samebits/training/loop.py"]


@pytest.mark.usefixtures("untracked")
def test_other_data_is_prepared_and_validation_images_are_measured_at_the_end_of_each_epoch(done: Repository) -> None:
    done.edit(lambda values: values["data"].update(num_validation=50, normalization="half"))
    assert done.repro("train") == ["prepare", "train"] and done.repro("--dry") == ["evaluate"]
    rows = (done.root / "data/model/history.csv").read_text().splitlines()
    assert rows[0] == "step,epoch,train_loss,validation_loss,validation_accuracy"
    assert [row.endswith(",,") for row in rows[1:]] == [True, False]
    assert [row.split(",")[:2] for row in rows[1:]] == [["50", "1"], ["88", "1"]]


def test_a_diverging_training_stops_with_one_line_and_leaves_the_result_alone(done: Repository) -> None:
    done.edit(lambda values: values["recipes"]["lab"]["train"]["optimizer"].update(learning_rate=1e12))
    failed = done.run("dvc", "repro", ok=False)
    assert failed.returncode != 0
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("error:")]
    assert re.search(
        r"loss is (nan|inf) at step \d+ with learning_rate 1000000000000.0; lower train.optimizer.learning_rate", line
    )
    assert "Traceback" not in failed.stderr
    assert done.status() == " M params.yaml\n"
    done.run("git", "checkout", "params.yaml")
    assert done.repro() == []


def test_metrics_are_scalars_and_the_table_has_every_test_image(done: Repository) -> None:
    metrics = json.loads((done.root / "metrics/evaluate.json").read_text())
    per_class = metrics.pop("per_class")
    assert len(per_class) == 10 and all(set(values) == {"accuracy", "precision"} for values in per_class.values())
    numbers = [*metrics.values(), *(value for values in per_class.values() for value in values.values())]
    assert all(isinstance(number, float) and number == round(number, 6) for number in numbers)
    assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
    table = (done.root / "data/evaluation/predictions.csv").read_text().splitlines()
    assert table[0].startswith("index,true,predicted,probability_") and len(table) == 1 + 100
    right = sum(row.split(",")[1] == row.split(",")[2] for row in table[1:])
    assert metrics["accuracy"] == right / 100


def test_nothing_of_the_host_or_the_run_is_in_an_output(done: Repository) -> None:
    (run_id,) = runs(done)
    forbidden = re.compile(
        rf"\b({re.escape(platform.node())}|{run_id}|{getpass.getuser()})\b|{re.escape(str(done.root))}"
    )
    for name in outputs(done):
        content = (done.root / name).read_bytes()
        if name.endswith((".safetensors", ".part")):
            content = content[8 : 8 + int.from_bytes(content[:8], "little")]  # the text before the tensors
        if not name.endswith(".png"):
            assert not forbidden.search(content.decode()), name


@pytest.mark.usefixtures("untracked")
def test_edit_reproduce_and_compare(done: Repository) -> None:
    before = json.loads((done.root / "metrics/evaluate.json").read_text())["accuracy"]
    done.edit(lambda values: values["recipes"]["lab"]["train"]["optimizer"].update(learning_rate=0.02))
    assert done.repro() == ["train", "evaluate"]  # the learning rate prepares nothing again
    after = json.loads((done.root / "metrics/evaluate.json").read_text())["accuracy"]

    parameters = row_of(done.run("dvc", "params", "diff").stdout, "recipes.lab.train.optimizer.learning_rate")
    assert parameters == ["params.yaml", "recipes.lab.train.optimizer.learning_rate", "0.001", "0.02"]
    row = row_of(done.run("dvc", "metrics", "diff").stdout, "accuracy")
    assert row[:4] == ["metrics/evaluate.json", "accuracy", f"{before:g}", f"{after:g}"]

    done.commit("a larger learning rate")
    assert row_of(done.run("dvc", "metrics", "diff", "HEAD~1", "HEAD").stdout, "accuracy") == row


def test_experiments_are_run_shown_and_compared(done: Repository) -> None:
    run = done.run("dvc", "exp", "run", "--name", "fast", "-S", "recipes.lab.train.optimizer.learning_rate=0.02")
    assert stages_run(run.stdout) == ["train", "evaluate"]
    shown = list(csv_rows(done.run("dvc", "exp", "show", "--csv").stdout))
    rates = {row["Experiment"]: row["recipes.lab.train.optimizer.learning_rate"] for row in shown if row["Experiment"]}
    assert rates["fast"] == "0.02"
    assert all(row["accuracy"] for row in shown if row["Experiment"] == "fast")

    assert row_of(done.run("dvc", "metrics", "diff", "main", "fast").stdout, "loss")
    done.run("dvc", "plots", "diff", "main", "fast")
    page = (done.root / "dvc_plots/index.html").read_text()
    assert "Training loss" in page and "Confusion of classes" in page and "confusion_matrix.png" in page
    assert "vegaEmbed" in page and not re.search(r"""<(script|link)[^>]+(src|href)=["']?https?:""", page)

    drawn = draw(done, "dvc_plots/index.html")
    assert drawn.count("<svg") >= 2 or drawn.count("<canvas") >= 2, "the charts are not drawn without network"

    unknown = done.run("dvc", "exp", "run", "-S", "recipes.lab.train.unknown=1", ok=False)
    assert unknown.returncode != 0 and "unknown" in unknown.stderr


@pytest.mark.parametrize("number", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_queued_experiments_run_the_code_of_the_moment_of_queueing_and_each_leaves_a_run(
    done: Repository, number: int
) -> None:
    """`src` is edited while they wait: a stage runs the code beside it."""
    names = [f"seed-{seed}" for seed in range(1, number + 1)]
    for seed, name in enumerate(names, start=1):
        done.run("dvc", "exp", "run", "--queue", "--name", name, "-S", f"seed={seed}")
    loop = done.root / "src/samebits/training/loop.py"
    original = loop.read_text()
    loop.write_text('raise SystemExit("the code of the main workspace ran")\n')
    done.work_off_queue("--jobs", "2")
    wait_for_queue(done, names)
    loop.write_text(original)
    assert len(runs(done)) == 1 + len(names)
    assert done.status() == ""
    results = done.run("dvc", "exp", "list", "--sha-only").stdout.split()
    assert results  # DVC can lose the name of one if two end in the same moment
    for result in results:
        changed = done.run("git", "diff", "--name-only", "main", result).stdout.split()
        assert set(changed) == {"dvc.lock", "metrics/evaluate.json", "params.yaml"}


def test_a_stage_refuses_another_copy_of_samebits(done: Repository, tmp_path: Path) -> None:
    """An installed copy that is imported before the stage starts (here: by sitecustomize) must not run in its place."""
    other = tmp_path / "other"
    shutil.copytree(done.root / "src/samebits", other / "samebits")
    (other / "sitecustomize.py").write_text("import samebits\n")
    refused = done.run("python", "stages/train.py", ok=False, PYTHONPATH=str(other))
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert str(other / "samebits") in line and str(done.root / "src/samebits") in line


def test_pinned_libraries_are_required(done: Repository) -> None:
    lock = done.root / "compute.lock"
    lock.write_text(lock.read_text().replace("safetensors==", "safetensors==9."))
    failed = done.run("dvc", "repro", ok=False)
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("error:")]
    assert "safetensors is" in line and "compute.lock says safetensors==9." in line


def draw(repository: Repository, page: str) -> str:
    """Open a page in a real browser that reaches no network; give the document that its scripts made of it."""
    require_program("chromium", package="chromium")
    quiet = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"
    profile = f"--user-data-dir={repository.root.parent / 'browser'}"
    url = (repository.root / page).as_uri()
    return repository.run(
        "chromium", *quiet.split(), offline, profile, "--virtual-time-budget=5000", "--dump-dom", url
    ).stdout


def runs(repository: Repository) -> list[str]:
    """Return the ids of the finished MLflow runs."""
    with sqlite3.connect(repository.root / "mlflow.db") as database:
        rows = database.execute("SELECT run_uuid FROM runs WHERE status = 'FINISHED' AND lifecycle_stage = 'active'")
        return [run_id for (run_id,) in rows]


def wait_for_queue(repository: Repository, names: list[str]) -> None:
    """Wait until the queue has run the experiments; all of them have to succeed."""
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        status = repository.run("dvc", "queue", "status").stdout
        states = {name: row.split()[-1] for row in status.splitlines() for name in names if f" {name} " in f" {row} "}
        if all(state in ("Success", "Failed") for state in states.values()) and len(states) == len(names):
            break
        time.sleep(3)
    logs = (
        "" if set(states.values()) == {"Success"} else repository.run("dvc", "queue", "logs", names[0], ok=False).stdout
    )
    assert states == dict.fromkeys(names, "Success"), f"{status}\n{logs}"


def row_of(table: str, word: str) -> list[str]:
    """Return the cells of the row of a printed table that has the cell `word`."""
    (row,) = [line.split() for line in table.splitlines() if word in line.split()]
    return row


def csv_rows(text: str) -> Iterator[dict[str, str]]:
    """Return the rows of a printed CSV table."""
    return iter(csv.DictReader(text.splitlines()))
