"""`make run`: one command from a clone to a result, and what it says on the way."""

import json
import os
import re
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from samebits import results
from samebits.reporting import terminal
from samebits.repository import dvc_lock
from tests.conftest import IDENTITY, PROJECT, Repository, stages_run
from tests.test_pipeline import outputs

# A proxy that refuses every connection: no network, wherever the tests run.
OFFLINE = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}


def make(repository: Repository, target: str, **environment: str) -> str:
    """Run a target of the Makefile with what is installed already."""
    done = repository.run("make", "--old-file=.venv/installed", "--no-print-directory", target, **environment)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def imported(profile: str) -> set[str]:
    """Return the names of the modules that a program with PYTHONPROFILEIMPORTTIME has imported."""
    return {line.rpartition("|")[2].strip() for line in profile.splitlines()}


def test_a_clone_is_run_and_the_result_shown(fresh: Repository, done_template: Path) -> None:
    output = make(fresh, "run")
    assert stages_run(output) == ["prepare", "train", "evaluate"]
    # Another folder, the same bits.
    assert (fresh.root / "dvc.lock").read_bytes() == (done_template / "dvc.lock").read_bytes()
    assert outputs(fresh) == outputs(Repository(done_template))
    accuracy = json.loads((fresh.root / "metrics/evaluate.json").read_text())["accuracy"]
    assert "lab on shapes, seed 0" in output
    assert f"accuracy {100 * accuracy:.2f} %" in output
    assert re.search(r"^  crescent +\d+\.\d\d %", output, re.MULTILINE)
    assert "data/plots/*.png" in output and "make ui" in output
    assert len(list((fresh.root / "data/plots").glob("*.png"))) == 7
    assert "report: report.html" in output and f"{100 * accuracy:.2f} %" in (fresh.root / "report.html").read_text()
    assert "report.html" not in fresh.status()


def test_a_second_run_changes_nothing_and_shows_the_result(done: Repository) -> None:
    before = (done.root / "dvc.lock").read_bytes()
    page = f'<meta name="result" content="{results.workspace(done.root).identity}">the page of this very result'
    (done.root / "report.html").write_text(page)
    output = make(done, "run")
    assert (done.root / "report.html").read_text() == page
    assert stages_run(output) == []
    assert "accuracy" in output and "another kind of machine" not in output
    assert "This is bit for bit the recorded result: all 17 outputs." in output
    assert done.status() == "" and (done.root / "dvc.lock").read_bytes() == before


@pytest.mark.parametrize("identity", ["of this result", "of another"])
def test_a_page_that_is_older_than_the_result_or_of_another_is_written_again(done: Repository, identity: str) -> None:
    page, of_this = done.root / "report.html", results.workspace(done.root).identity
    page.write_text(of_this if identity == "of this result" else "the page of another result")
    if identity == "of this result":
        time_of_lock = (done.root / "dvc.lock").stat().st_mtime
        os.utime(page, (time_of_lock - 1, time_of_lock - 1))
    make(done, "run")
    assert "accuracy" in page.read_text() and f'<meta name="result" content="{of_this}">' in page.read_text()


def test_another_kind_of_machine_is_named_in_one_sentence(done: Repository) -> None:
    environment = json.loads((done.root / "metrics/environment.json").read_text())
    environment["processor"] = "Imaginary 9000"
    environment["libraries"]["torch"] = "0.1"
    (done.root / "metrics/environment.json").write_text(json.dumps(environment))
    metrics = json.loads((done.root / "metrics/evaluate.json").read_text())
    (done.root / "metrics/evaluate.json").write_text(json.dumps(metrics | {"accuracy": 0.4321}))
    done.commit("a result from elsewhere")
    output = make(done, "run")
    (sentence,) = [line for line in output.splitlines() if "another kind of machine" in line]
    assert "processor Imaginary 9000 → portable; libraries.torch 0.1 → 2" in sentence and "bit for bit" not in output
    assert f"its accuracy is 43.21 %, this one's {100 * metrics['accuracy']:.2f} %" in sentence


def test_without_cifar10_the_embedded_data_runs_as_an_experiment(fresh: Repository, empty_database: Path) -> None:
    shutil.copy(empty_database, fresh.root)
    fresh.edit(lambda values: values["data"].update(source="cifar10"))
    fresh.commit("on the real data")
    output = make(fresh, "run", **OFFLINE)
    (why,) = [line for line in output.splitlines() if line.startswith("CIFAR-10 could not be downloaded")]
    assert "shapes" in why
    assert stages_run(output) == ["prepare", "train", "evaluate"]
    assert fresh.status() == ""
    name = re.search(r"experiment (shapes-\w+) on shapes \(not CIFAR-10\)", output)
    assert name
    assert f"data/experiments/{name[1]}/plots/*.png" in output
    assert len(list((fresh.root / f"data/experiments/{name[1]}/plots").glob("*.png"))) == 7
    assert "lab on shapes, seed 0" in (fresh.root / f"data/experiments/{name[1]}/report.html").read_text()

    again = fresh.run("samebits", "run", PYTHONPROFILEIMPORTTIME="1", **OFFLINE)
    assert stages_run(again.stdout) == [] and f"experiment {name[1]} on shapes" in again.stdout
    assert not {"mlflow", "matplotlib"} & imported(again.stderr)  # PyTorch is: torchvision tries to download again
    assert fresh.status() == ""


def test_dvc_itself_never_switches_the_data(fresh: Repository) -> None:
    fresh.edit(lambda values: values["data"].update(source="cifar10"))
    failed = fresh.run("dvc", "repro", ok=False, **OFFLINE)
    assert failed.returncode != 0
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("error:")]
    assert "CIFAR-10 could not be downloaded" in line and "SAMEBITS_DATA" in line and "shapes" in line
    assert not (fresh.root / "dvc.lock").exists()


@pytest.mark.parametrize("change", ["recipe: lba", "recipe: [", "seed: -1"])
def test_a_mistake_in_params_is_one_line(fresh: Repository, change: str) -> None:
    path = fresh.root / "params.yaml"
    path.write_text(re.sub(f"^{change.split(':')[0]}:.*$", change, path.read_text(), flags=re.MULTILINE))
    failed = fresh.run("samebits", "run", ok=False)
    assert failed.returncode == 1 and failed.stdout == ""
    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: params.yaml")


def test_outside_a_clone_it_says_so(tmp_path: Path) -> None:
    failed = Repository(tmp_path).run("samebits", "run", ok=False)
    assert failed.returncode == 1
    assert failed.stderr == f"error: {tmp_path} has no dvc.yaml: run this in the root of a clone of samebits\n"


def test_without_a_git_identity_the_lines_that_set_it_are_told(done: Repository) -> None:
    unknown = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull} | dict.fromkeys(IDENTITY, "")
    (note,) = done.run("samebits", "run", **unknown).stderr.splitlines()
    assert note.startswith("note: git does not know who you are")
    assert "note   git does not know who you are" in done.run("samebits", "check", **unknown).stdout
    for command in re.findall("`(.*?)`", note):
        done.run(*shlex.split(command))
    assert "who you are" not in done.run("samebits", "check", **unknown).stdout


def test_help_names_every_target(fresh: Repository) -> None:
    output = make(fresh, "help")
    targets = re.findall(r"^([a-z-]+):.*##", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert len(targets) > 10 and all(f"make {target} " in output for target in targets)


def test_a_lock_that_is_not_the_result_of_this_code_is_found_in_a_bare_clone(done: Repository, tmp_path: Path) -> None:
    clone = Repository(tmp_path / "clone")
    done.run("git", "clone", "--quiet", str(done.root), str(clone.root))
    assert make(clone, "check-lock") == ""
    clone.edit(lambda values: values["recipes"]["lab"]["train"]["optimizer"].update(momentum=0.8))
    failed = clone.run("make", "--old-file=.venv/installed", "check-lock", ok=False)
    assert failed.returncode != 0 and "(train: recipes.lab.train in params.yaml): run `dvc repro`" in failed.stderr
    clone.run("git", "checkout", "params.yaml")
    loop = clone.root / "src/samebits/training/loop.py"
    loop.write_text(loop.read_text() + "# changed\n")
    failed = clone.run("make", "--old-file=.venv/installed", "check-lock", ok=False)
    assert failed.returncode != 0 and "(train: src/samebits/training/loop.py)" in failed.stderr


def test_a_run_without_work_imports_neither_pytorch_nor_mlflow(done: Repository) -> None:
    done.run("samebits", "run")  # which notes on the MLflow run that this commit gave the result too
    quick = done.run("samebits", "run", PYTHONPROFILEIMPORTTIME="1")
    assert "samebits.quickstart" in imported(quick.stderr)
    assert not {"torch", "mlflow", "matplotlib"} & imported(quick.stderr)
    assert "accuracy" in quick.stdout
    # A run that lacks something is completed, and one that is gone is written again.
    (listed,) = (done.root / "mlartifacts").rglob("outputs.json")
    listed.unlink()
    done.run("samebits", "run")
    assert listed.is_file()
    (done.root / "mlflow.db").unlink()
    done.run("samebits", "run")
    assert done.run("samebits", "track").stdout.endswith(": 0 new, 0 completed, 1 there already\n")


def test_the_version_is_told() -> None:
    told = Repository(PROJECT).run("samebits", "--version")
    assert told.stdout == f"samebits {version('samebits')}\n" and told.stderr == ""


@pytest.mark.parametrize(
    "command", [(), ("rnu",), ("predict",), ("export", "--format"), ("verify", "--run"), ("compare", "A")]
)
def test_a_usage_mistake_is_one_line(command: tuple[str, ...], tmp_path: Path) -> None:
    failed = Repository(tmp_path).run("samebits", *command, ok=False)
    assert failed.returncode == 2 and failed.stdout == ""
    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith(" --help`")


def test_help_names_every_command_and_what_it_does() -> None:
    output = Repository(PROJECT).run("samebits", "--help").stdout
    commands = dict(line.split(maxsplit=1) for line in output.partition("Commands:\n")[2].splitlines())
    assert list(commands)[:3] == ["run", "join", "verify"] and {"compare", "predict", "register"} <= set(commands)
    assert all(text.endswith(".") and not text.endswith("...") for text in commands.values())


def test_outputs_that_differ_from_the_record_are_named(done: Repository) -> None:
    lock = done.root / "dvc.lock"
    recorded = dvc_lock.read(lock.read_bytes(), "dvc.lock").hashes
    lock.write_text(lock.read_text().replace(recorded["data/evaluation/predictions.csv"], "deadbeef" * 4))
    done.commit("a result that nobody gets")
    output = make(done, "run")
    assert (
        "1 of 17 outputs differ from the recorded result (data/evaluation/predictions.csv): its accuracy is" in output
    )


def test_instruction_sets_that_come_and_go_are_named() -> None:
    recorded, here = ({"processor": {"instruction_sets": names}} for names in (["avx2", "magic"], ["avx2", "new"]))
    assert terminal.differences(recorded, here) == ["processor.instruction_sets -magic +new"]
