"""What a stage read at its start is what is recorded, whatever is edited while it runs; false records are found."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from samebits.repository import cache, dvc_lock, git
from samebits.repository.digests import md5_of
from samebits.tracking import open_store
from tests import remotes
from tests.conftest import Repository, slow_down
from tests.remotes import clone

CODE = "src/samebits/generators.py"
CHECKPOINT = "data/model/checkpoint.safetensors"
# Lets DVC wait between the end of a stage's command and its own look at the files, while the file `gap` is there.
# Stages do not import MLflow, as in the fixture `untracked`.
SLOW_DVC = """
import os, sys, time
sys.modules["mlflow"] = None
stage = os.environ.get("SLOW_STAGE")
if stage and "DVC_STAGE" not in os.environ:
    import dvc.stage
    save = dvc.stage.Stage.save
    def slow(self, *arguments, **settings):
        if self.name == stage:
            with open("gap.new", "w") as file:
                file.write(str(os.getpid()))
            os.rename("gap.new", "gap")
            while os.path.exists("gap"):
                time.sleep(0.01)
        return save(self, *arguments, **settings)
    dvc.stage.Stage.save = slow
"""


def lengthen(values: dict) -> None:
    """Make the training of 200 steps, with twenty reports."""
    values["recipes"]["lab"]["train"].update(num_epochs=2, report_every_steps=10)


def change_code(repository: Repository) -> None:
    path = repository.root / CODE
    path.write_text(path.read_text().replace('f"{purpose}/{seed}"', 'f"{purpose}-{seed}"'))


def set_learning(values: dict) -> None:
    values["seed"] = 7
    values["recipes"]["lab"]["train"]["optimizer"]["learning_rate"] = 0.01


def while_it_trains(
    repository: Repository,
    edit: Callable[[], object],
    undo: Callable[[], object] | None = None,
) -> tuple[int, str]:
    """Run the training, edit after its first line of losses, and undo that after its warning; return exit code and output."""
    process = repository.start("dvc", "repro", "train", is_warm=True)
    assert process.stdout is not None
    output, is_edited = "", False
    for line in process.stdout:
        output += line
        if "loss:" in line and not is_edited:
            edit()
            is_edited = True
        if undo and line.startswith("warning: ") and " → " in line:
            undo()
    process.wait()
    assert is_edited, output
    return process.returncode, output


def stages_recorded(repository: Repository) -> dict[str, dvc_lock.Stage]:
    path = repository.root / "dvc.lock"
    return dvc_lock.read(path.read_bytes(), "dvc.lock").stages if path.exists() else {}


def finished_runs(repository: Repository) -> list:
    store = open_store(repository.root)
    return [run for run in store.client.search_runs([store.experiment_id]) if run.info.status == "FINISHED"]


@pytest.fixture
def longer(prepared: Repository) -> Repository:
    """A repository whose training takes some two seconds."""
    prepared.edit(lengthen)
    slow_down(prepared, 0.01)
    prepared.commit("longer")
    return prepared


def test_parameters_edited_while_a_training_runs_are_not_recorded_and_nothing_is_lost(longer: Repository) -> None:
    code, output = while_it_trains(longer, lambda: longer.edit(set_learning))
    assert code != 0 and "Traceback" not in output
    changes = r"seed 0 → 7, recipes\.lab\.train\.optimizer\.learning_rate 0\.001 → 0\.01"
    # It says so at the next report, long before the end.
    (warned,) = [
        number for number, line in enumerate(output.splitlines()) if re.match(f"warning: {changes} while", line)
    ]
    (refused,) = [number for number, line in enumerate(output.splitlines()) if line.startswith("error: ")]
    assert re.match(f"error: {changes} while train ran, so it is not recorded: ", output.splitlines()[refused])
    assert sum("loss:" in line for line in output.splitlines()[warned:refused]) >= 5
    assert "train" not in stages_recorded(longer) and finished_runs(longer) == []

    # Keep the edit, and take the training over by the command that the line names.
    edited = (longer.root / "params.yaml").read_bytes()
    (command,) = re.findall(r"keep the edit and run `(dvc exp run --temp [^`]*)`", output)
    taken = longer.run(*command.split(), "--name", "taken")
    assert "going on after step 200 of 200" in taken.stdout and "loss:" not in taken.stdout
    assert (longer.root / "params.yaml").read_bytes() == edited
    commit = git.commit(longer.root, "refs/exps/*/*/taken") or git.experiments(longer.root, "taken")[0]
    params = dvc_lock.read(git.read(longer.root, commit, "dvc.lock"), "dvc.lock").stages["train"].params
    assert params["seed"] == 0 and params["recipes.lab.train"]["optimizer"]["learning_rate"] == 0.001
    (run,) = finished_runs(longer)
    assert run.data.params["seed"] == "0" and run.data.tags["samebits.experiments"] == "taken"


def test_an_edit_that_is_undone_afterwards_costs_no_step(longer: Repository) -> None:
    code, output = while_it_trains(longer, lambda: change_code(longer))
    assert code != 0 and re.search(rf"error: {CODE} \w{{7}} → \w{{7}} while train ran", output)
    (undo,) = re.findall(r"undo the edit \(`([^`]*)`\)", output)
    longer.run(*undo.split())
    again = longer.run("dvc", "repro")
    assert "going on after step 200 of 200" in again.stdout and "loss:" not in again.stdout
    (run,) = finished_runs(longer)
    assert run.data.tags["samebits.dirty"] == "false" and "accuracy" in run.data.metrics
    # Nothing is left of it when DVC has recorded the result.
    assert not list((longer.root / ".samebits/resume").glob("*/*.point"))


@pytest.mark.usefixtures("untracked")
def test_an_edit_that_is_undone_in_time_is_none(longer: Repository) -> None:
    before = (longer.root / "params.yaml").read_bytes()
    undo = partial((longer.root / "params.yaml").write_bytes, before)
    code, output = while_it_trains(longer, lambda: longer.edit(set_learning), undo)
    assert code == 0, output
    assert output.index("warning: seed 0 → 7") < output.index("note: everything is again as it was when train started")
    assert stages_recorded(longer)["train"].params["seed"] == 0


def test_what_does_not_concern_a_training_is_edited_freely(longer: Repository) -> None:
    parameters, code = longer.root / "params.yaml", longer.root / "src/samebits/training/loop.py"

    def edit() -> None:
        longer.edit(lambda values: values["recipes"]["linear"]["train"]["optimizer"].update(learning_rate=0.5))
        parameters.write_text("# a comment\n" + parameters.read_text())
        code.write_text(code.read_text() + "# another\n")
        (longer.root / "README.md").write_text("other words\n")
        longer.run("git", "commit", "--quiet", "--all", "--message", "while it trains")

    code_before = git.commit(longer.root)
    exit_code, output = while_it_trains(longer, edit)
    assert exit_code == 0 and "warning" not in output, output
    assert longer.repro() == ["evaluate"]
    (run,) = finished_runs(longer)
    # The training's commit is the one that it began at.
    assert run.data.tags["samebits.commit"] == code_before


@pytest.mark.usefixtures("untracked")
@pytest.mark.parametrize("what", ["checkout", "prepared data"])
def test_git_and_data_are_watched_too(longer: Repository, what: str) -> None:
    longer.run("git", "checkout", "--quiet", "-b", "other")
    change_code(longer)
    longer.commit("other code")
    longer.run("git", "checkout", "--quiet", "main")
    images = longer.root / "data/prepared/train/0000.part"

    def spoil() -> None:
        content = images.read_bytes()
        images.unlink()  # what lies in the cache stays whole
        images.write_bytes(content[:-1000] + bytes(1000))

    edit = (lambda: longer.run("git", "checkout", "--quiet", "other")) if what == "checkout" else spoil
    code, output = while_it_trains(longer, edit)
    assert code != 0
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert (CODE if what == "checkout" else "data/prepared/train ") in line
    longer.run("git", "checkout", "--quiet", "main")
    if what == "prepared data":
        longer.run(*re.findall(r"undo the edit \(`([^`]*)`\)", line)[0].split(), "--force")
    again = longer.run("dvc", "repro", "train")
    assert "going on after step 200 of 200" in again.stdout and "loss:" not in again.stdout


def test_evaluate_refuses_a_network_that_was_not_asked_for(done: Repository) -> None:
    done.edit(set_learning)
    before = (done.root / "metrics/evaluate.json").read_bytes()
    refused = done.run("python", "stages/evaluate.py", ok=False)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    (line,) = refused.stderr.splitlines()
    assert line.startswith(
        f"error: {CHECKPOINT} was trained with seed 0, not 7, train.optimizer.learning_rate 0.001, not 0.01: "
    )
    assert (done.root / "metrics/evaluate.json").read_bytes() == before


def poison(repository: Repository) -> None:
    """Record the network of seed 0 as that of seed 7, in dvc.lock and in the run cache, as an edit in mid-training once did."""
    repository.edit(lambda values: values.update(seed=7))
    repository.run("dvc", "commit", "--force")
    save = "from dvc.repo import Repo\nwith Repo() as r, r.lock: r.stage_cache.save(r.stage.load_one(name='train'))"
    repository.run("python", "-c", save)


def test_the_lock_check_says_which_stage_has_no_record(done: Repository) -> None:
    recorded = done.root / "dvc.lock"
    recorded.write_text(recorded.read_text().partition("  evaluate:\n")[0])  # the last stage
    gate = done.run("python", "-m", "samebits.gate.lock_check", ok=False)
    assert "(evaluate: no record): run `dvc repro`" in gate.stderr


def test_a_false_record_from_a_colleague_is_found_by_name(
    done: Repository, empty_database: Path, tmp_path: Path
) -> None:
    remotes.folder(tmp_path / "team").add_to(done)
    done.commit("a remote")
    colleague = clone(done, "colleague")
    shutil.copy(empty_database, colleague.root)
    poison(done)
    done.run("dvc", "push", "--run-cache")

    what = "seed 7, its checkpoint says 0"
    refused = done.run("samebits", "share", ok=False)
    (line,) = refused.stderr.splitlines()
    assert refused.returncode == 1 and line.startswith("error: dvc.lock is false (") and what in line
    gate = done.run("python", "-m", "samebits.gate.lock_check", ok=False)
    assert gate.returncode == 1 and f"dvc.lock is false ({what})" in gate.stderr
    with (done.root / "stages/evaluate.py").open("a") as file:
        file.write("# stale as well\n")
    assert done.run("python", "-m", "samebits.gate.lock_check", ok=False).stderr == gate.stderr

    colleague.edit(lambda values: values.update(seed=7))
    repro = colleague.run("dvc", "repro", "--pull", ok=False)
    assert repro.returncode != 0 and "Stage 'train' is cached" in repro.stdout
    assert (
        f"error: {CHECKPOINT} was trained with seed 0, not 7: run `dvc repro --force --single-item train`"
        in repro.stderr
    )
    found = colleague.run("samebits", "check", ok=False)
    wrong = [line for line in found.stdout.splitlines() if line.startswith("wrong")]
    assert len(wrong) == 2 and all(what in line for line in wrong)
    repaired = colleague.run("samebits", "check", "--repair", ok=False).stdout
    assert re.search(r"note   \.dvc/cache/runs/\S+, a record of a stage that ran, is false: .*; removed", repaired)

    colleague.run("dvc", "repro", "--force", "--single-item", "train")
    assert colleague.repro() == ["evaluate"]
    colleague.run("samebits", "check")
    (run,) = [run for run in finished_runs(colleague) if run.data.params["seed"] == "7"]
    (recorded,) = [each.md5 for each in stages_recorded(colleague)["train"].outputs if each.path == CHECKPOINT]
    assert run.data.tags["samebits.checkpoint_md5"] == recorded


def in_the_gap(
    repository: Repository,
    folder: Path,
    stage: str,
    edit: Callable[[], object],
    after: Callable[[], object] | None = None,
) -> str:
    """Run the pipeline with a DVC that waits at the end of `stage`, and edit then; return what is said.

    `after` is called when DVC has ended.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOW_DVC)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    values = repository.environment_of(("dvc",)) | {"PYTHONPATH": path, "SLOW_STAGE": stage}
    with subprocess.Popen(
        ["dvc", "repro", stage],
        cwd=repository.root,
        env=values,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not (repository.root / "gap").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        edit()
        (repository.root / "gap").unlink()
        if after:
            process.wait(timeout=120)
            after()
        return process.communicate(timeout=120)[0]


GAPS = {
    "prepare": lambda it: it.edit(lambda values: values["data"]["shapes"].update(num_test=90)),
    "train": change_code,
    "evaluate": lambda it: it.edit(lambda values: values["recipes"]["lab"]["evaluate"].update(num_pictures=3)),
}


@pytest.mark.usefixtures("untracked")
@pytest.mark.parametrize("stage", GAPS)
def test_an_edit_between_the_end_of_a_stage_and_its_record_is_taken_back(
    stage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = {"prepare": "fresh", "train": "prepared", "evaluate": "done"}[stage]
    repository: Repository = request.getfixturevalue(before)
    if stage == "evaluate":
        repository.edit(lambda values: values["recipes"]["lab"]["evaluate"].update(num_pictures=2))
    output = in_the_gap(repository, tmp_path / "slow", stage, lambda: GAPS[stage](repository))
    assert f"just when {stage} had ended, and DVC recorded that: the record is removed" in output
    # Whoever has the record's parameters and code does not get its outputs.
    assert stage in repository.repro(stage)
    assert repository.repro(stage) == []
    recorded = (repository.root / "dvc.lock").read_bytes()
    shutil.rmtree(repository.root / ".samebits", ignore_errors=True)  # else a training would go on from its end
    repository.run("dvc", "repro", "--force", "--no-run-cache", "--single-item", stage)
    assert (repository.root / "dvc.lock").read_bytes() == recorded


@pytest.mark.usefixtures("untracked")
def test_an_output_that_is_edited_before_it_is_recorded_is_taken_back(prepared: Repository, tmp_path: Path) -> None:
    history = prepared.root / "data/model/history.csv"
    output = in_the_gap(
        prepared, tmp_path / "slow", "train", lambda: history.write_text("step,epoch,train_loss\n1,1,0\n")
    )
    assert "data/model/history.csv" in output and "the record is removed" in output
    assert "train" in prepared.repro("train")
    assert len(history.read_text().splitlines()) == 3


@pytest.mark.usefixtures("untracked")
def test_a_false_record_is_removed_though_the_stage_has_been_recorded_again(
    prepared: Repository, tmp_path: Path
) -> None:
    """On a machine so busy that the process which confirms the record comes to it late."""
    late: list[psutil.Process] = []
    path = prepared.root / "params.yaml"
    before = path.read_bytes()

    def edit() -> None:
        late.extend(left_behind(prepared))
        for process in late:
            process.suspend()
        prepared.edit(lambda values: values["recipes"]["lab"]["train"]["optimizer"].update(learning_rate=0.01))

    def record_again() -> None:
        path.write_bytes(before)
        time.sleep(1)  # else the process of this training takes the false record for one that may be its own
        assert prepared.repro("train") == ["train"]
        for process in late:
            process.resume()

    output = in_the_gap(prepared, tmp_path / "slow", "train", edit, record_again)
    assert len(late) == 1 and "just when train had ended, and DVC recorded that" in output
    assert prepared.repro("train") == []  # the true record stays
    records = [
        record.params
        for path in cache.of(prepared.root).records()
        for record in dvc_lock.read(path.read_bytes(), path.name).stages.values()
    ]
    rates = [params["recipes.lab.train"]["optimizer"]["learning_rate"] for params in records if "seed" in params]
    assert rates == [0.001]


@pytest.mark.usefixtures("untracked")
def test_a_dvc_that_dies_before_it_records_leaves_what_was_recorded_before(
    prepared: Repository, tmp_path: Path
) -> None:
    prepared.repro("train")
    before = (prepared.root / "dvc.lock").read_bytes()
    prepared.edit(lambda values: values["recipes"]["lab"]["train"]["optimizer"].update(learning_rate=0.01))

    def kill() -> None:
        os.kill(waiting_dvc(prepared), signal.SIGKILL)

    assert "is removed" not in in_the_gap(prepared, tmp_path / "slow", "train", kill)
    assert (prepared.root / "dvc.lock").read_bytes() == before


def waiting_dvc(repository: Repository) -> int:
    """Return the number of the process of DVC that waits in the gap."""
    return int((repository.root / "gap").read_text())


def left_behind(repository: Repository) -> list[psutil.Process]:
    """Return the processes that wait until DVC has recorded the stage: each leads a session of its own."""
    return [
        each
        for each in psutil.process_iter(["cwd"])
        if each.info["cwd"] == str(repository.root)
        and os.getsid(each.pid) == each.pid
        and each.pid != waiting_dvc(repository)
    ]


def test_a_git_that_fails_costs_a_warning_and_no_false_origin(prepared: Repository) -> None:
    prepared.edit(lambda values: values.update(seed=5))
    prepared.run("git", "config", "diff.algorithm", "foo")
    done = prepared.run("dvc", "repro")
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert all(
        "the run will not say which commit it comes from: " in line and "diff.algorithm" in line for line in warnings
    )
    (run,) = finished_runs(prepared)
    assert run.data.tags["samebits.dirty"] == "true" and "samebits.commit" not in run.data.tags


def test_an_edit_before_git_has_read_the_files_is_in_no_patch(prepared: Repository, tmp_path: Path) -> None:
    before = (prepared.root / "params.yaml").read_bytes()
    program = tmp_path / "git"
    program.write_text(
        f"#!/bin/sh\ncase \" $* \" in *' diff '*) echo '# edited' >> {prepared.root}/params.yaml;; esac\n"
        f'exec {shutil.which("git")} "$@"\n'
    )
    program.chmod(0o755)
    path = prepared.environment_of(("dvc",))["PATH"]
    prepared.run("dvc", "repro", "train", PATH=f"{tmp_path}{os.pathsep}{path}")
    assert (prepared.root / "params.yaml").read_bytes() != before
    store = open_store(prepared.root)
    (run,) = store.client.search_runs([store.experiment_id])
    assert run.data.tags["samebits.dirty"] == "true"
    assert "diff.patch" not in [file.path for file in store.client.list_artifacts(run.info.run_id)]


@pytest.mark.usefixtures("untracked")
def test_compiled_code_of_an_earlier_version_is_not_run(done: Repository) -> None:
    """Python takes it for the present one if both have one size and were written in the same second."""
    path = done.root / CODE
    before = path.read_text()
    done.run("python", "-c", "import samebits.generators", PYTHONPATH=str(done.root / "src"))
    compiled = next((path.parent / "__pycache__").glob("generators.*.pyc"))
    second = int(path.stat().st_mtime)
    path.write_text(before.replace('f"{purpose}/{seed}"', 'f"{purpose}-{seed}"'))
    for file in (path, compiled):
        os.utime(file, (second, second))
    checkpoint = done.root / CHECKPOINT
    known = md5_of(checkpoint.read_bytes())
    done.run("python", "stages/train.py")
    assert md5_of(checkpoint.read_bytes()) != known


def test_a_folder_of_code_is_known_by_the_hash_that_dvc_gives_it(done: Repository) -> None:
    """Else a run would not say which commit it comes from."""
    (run,) = finished_runs(done) or [None]
    script = "import sys; sys.path.insert(0, 'src'); from samebits.stage import records, inputs; import json\n"
    script += "print(json.dumps([records.origin(inputs.Inputs('stages/evaluate.py')).is_dirty]))"
    assert json.loads(done.run("python", "-c", script).stdout) == [False]
    (done.root / "src/samebits/training/history.py").write_text("# other code of the training\n")
    shutil.rmtree(done.root / "src/samebits/training/__pycache__", ignore_errors=True)
    assert json.loads(done.run("python", "-c", script).stdout) == [True]
    assert run is None or run.data.tags["samebits.dirty"] == "false"


def test_images_of_a_folder_that_change_while_they_are_prepared_are_not_recorded(
    fresh: Repository, tmp_path: Path
) -> None:
    from PIL import Image

    for number in range(60):
        for name in ("dark", "light"):
            path = fresh.root / f"pictures/train/{name}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (number + (150 if name == "light" else 0), number, 2 * number)).save(path)
    fresh.edit(lambda values: values["data"].update(source="folder", path="pictures"))
    process = fresh.start("dvc", "repro", "prepare")
    while not any(draws_pictures(each) for each in psutil.Process(process.pid).children(recursive=True)):
        assert process.poll() is None
        time.sleep(0.02)
    new = fresh.root / "pictures/train/dark/new.png"
    new.write_bytes((fresh.root / "pictures/train/dark/1.png").read_bytes())
    output, _ = process.communicate()
    assert process.returncode != 0
    assert "pictures/train/dark/new.png absent → changed while prepare ran, so it is not recorded" in output
    assert "undo the edit and run `dvc repro`" in output  # git knows no earlier version
    new.unlink()
    output = in_the_gap(fresh, tmp_path / "slow", "prepare", lambda: new.write_bytes(b"an image"))
    assert "pictures as it was read → " in output and "the record is removed" in output


def test_files_and_parameters_of_an_own_stage_are_watched_too(done: Repository) -> None:
    pipeline = yaml.safe_load((done.root / "dvc.yaml").read_text())
    pipeline["stages"]["evaluate"]["deps"] += ["notes.txt", "own data/"]
    pipeline["stages"]["evaluate"]["params"] += [{"other.yaml": ["x"]}, {"params.yaml": ["seed"]}]
    (done.root / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    (done.root / "own data").mkdir()
    (done.root / "own data/table.csv").write_text("1")
    (done.root / "notes.txt").write_text("before")
    script = """
import sys; sys.path.insert(0, "src")
from pathlib import Path
from samebits.stage import changes, inputs
read = inputs.Inputs("stages/evaluate.py")
assert not changes.since_start(read) and read.parameters("evaluate")["seed"] == 0
Path("notes.txt").write_text("after")
Path("own data/more.csv").write_text("2")
print(*changes.since_start(read), sep="\\n")
"""
    changed = done.run("python", "-c", script).stdout.splitlines()
    assert sorted(changed) == ["notes.txt there → changed", "own data/more.csv absent → changed"]


def draws_pictures(process: psutil.Process) -> bool:
    """Tell whether prepare has loaded what draws its picture, after it has listed the images."""
    with suppress(psutil.Error):
        return any("ft2font" in each.path for each in process.memory_maps())
    return False


NETWORK, LINK = "src/samebits/models/lab.py", "recipes/lab/model/lab.py"  # train depends on the folder of links


def ask(repository: Repository, expression: str) -> Any:
    """Return the value of an expression on the inputs of train, when its network is loaded."""
    script = f"""
import json, sys
sys.path.insert(0, 'src')
from samebits.stage import records
from samebits.stage.inputs import Inputs
inputs = Inputs('stages/train.py')
import samebits.models.lab
print(json.dumps({expression}))
"""
    return json.loads(repository.run("python", "-c", script).stdout)


def test_a_folder_of_links_is_a_dependency_on_the_files_that_they_lead_to(prepared: Repository) -> None:
    assert prepared.repro() == ["train", "evaluate"] and prepared.repro() == []
    folder = Path(LINK).parent.as_posix()
    recorded = stages_recorded(prepared)["train"].dependencies[folder]
    assert (
        ask(prepared, f"[inputs.recordable_md5('{folder}'), inputs.recordable_md5_now('{folder}')]") == [recorded] * 2
    )
    assert ask(prepared, f"inputs.code['{NETWORK}']") == md5_of((prepared.root / NETWORK).read_bytes())
    assert ask(prepared, f"inputs.links['{LINK}']") == NETWORK
    (run,) = finished_runs(prepared)
    assert run.data.tags["samebits.dirty"] == "false"
    # Other code behind a link is other code.
    (prepared.root / NETWORK).write_text((prepared.root / NETWORK).read_text() + "# another\n")
    assert ask(prepared, f"inputs.recordable_md5('{folder}')") != recorded
    assert "train" in prepared.repro("--dry")


def test_a_part_that_the_stage_does_not_depend_on_is_refused_with_the_command_that_links_it(
    prepared: Repository,
) -> None:
    prepared.run("dvc", "repro", "prepare")
    link = prepared.root / LINK
    link.unlink()
    refused = prepared.run("python", "stages/train.py", ok=False)
    assert refused.returncode == 1 and not (prepared.root / CHECKPOINT).exists()
    (line,) = refused.stderr.splitlines()
    command = f"ln -s ../../../{NETWORK} {Path(LINK).parent}/"
    assert line == (
        f"error: recipe lab uses {NETWORK}, but train does not depend on it: run `{command}` and `git add recipes`; "
        "`samebits link` makes the links for what params.yaml names"
    )
    prepared.run(*command.split())
    assert link.resolve() == prepared.root.resolve() / NETWORK
    assert prepared.repro("train") == ["train"]


def edit_behind_link(repository: Repository, what: str) -> None:
    """Let the link lead to another network, or change the file that it leads to."""
    if what == "link":
        (repository.root / LINK).unlink()
        (repository.root / LINK).symlink_to("../../../src/samebits/models/linear.py")
    else:
        (repository.root / NETWORK).write_text((repository.root / NETWORK).read_text() + "EDITED = 1\n")


def test_edits_behind_a_link_while_a_training_runs_are_not_recorded(longer: Repository) -> None:
    code, output = while_it_trains(longer, lambda: [edit_behind_link(longer, what) for what in ("link", "file")])
    assert code != 0 and "train" not in stages_recorded(longer)
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    changes = rf"{NETWORK} \w{{7}} → \w{{7}}, {LINK} {NETWORK} → src/samebits/models/linear\.py"
    assert re.match(f"error: {changes} while train ran, so it is not recorded", line)
    longer.run(*re.findall(r"undo the edit \(`([^`]*)`\)", line)[0].split())
    assert "going on after step 200 of 200" in longer.run("dvc", "repro", "train").stdout


@pytest.mark.parametrize("what", ["link", "file"])
def test_an_edit_behind_a_link_before_the_record_is_taken_back(prepared: Repository, tmp_path: Path, what: str) -> None:
    output = in_the_gap(prepared, tmp_path / "slow", "train", lambda: edit_behind_link(prepared, what))
    folder = Path(LINK).parent
    assert re.search(rf"error: {folder} \w{{7}} → \w{{7}} just when train had ended, .*the record is removed", output)
