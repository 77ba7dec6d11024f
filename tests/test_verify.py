"""`samebits verify`: a revision run once more, from nothing, and compared with what it recorded."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image

from samebits import results
from samebits.errors import UserError
from samebits.proof.explanation import explain
from samebits.proof.outputs import Row, Verdict, compare
from samebits.proof.verify import _raw_data
from samebits.repository import dvc_lock
from tests import remotes
from tests.conftest import FOREIGN, Repository, heed_interrupts, stages_run

CHECKPOINT, HISTORY, PICTURE = "data/model/checkpoint.safetensors", "data/model/history.csv", "data/plots/samples.png"
KINDS = ["data/model/environment.json", "metrics/environment.json"]


@dataclass(frozen=True)
class Result:
    """What a verification printed."""

    code: int
    out: str
    errors: list[str]

    def verdict(self, path: str) -> str:
        """Return what the table says of an output."""
        (line,) = [line for line in self.out.splitlines() if line.split()[1:2] == [path]]
        return line.split(maxsplit=4)[4]

    def line(self, start: str) -> str:
        """Return the rest of the one line that begins with `start`."""
        (line,) = [line for line in self.out.splitlines() if line.startswith(start)]
        return line.removeprefix(start).strip()


def verify(repository: Repository, *arguments: str, **environment: str) -> Result:
    """Run it, and see that nothing of the repository changes and no clone stays behind."""
    temporary = repository.root.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    before = files(repository.root)
    done = repository.run("samebits", "verify", *arguments, ok=False, TMPDIR=str(temporary), **environment)
    assert "Traceback" not in done.stderr, done.stderr
    assert files(repository.root) == before
    assert list(temporary.iterdir()) == []
    return Result(done.returncode, done.stdout, done.stderr.splitlines())


def files(root: Path) -> dict[str, tuple[int, int]]:
    """List all that lies in a folder, the insides of git, DVC and MLflow as well."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*") if path.is_file()}


def break_training(repository: Repository) -> None:
    loop = repository.root / "src/samebits/training/loop.py"
    loop.write_text(loop.read_text() + "\nraise SystemExit('broken')\n")


def record(repository: Repository, changes: dict[str, bytes | None]) -> None:
    """Commit a dvc.lock that records other outputs: DVC's cache has their content, unless it is None."""
    path = repository.root / "dvc.lock"
    lock = yaml.safe_load(path.read_text())
    for output in (output for stage in lock["stages"].values() for output in stage["outs"]):
        if output["path"] in changes:
            content = changes[output["path"]]
            output["md5"] = hashlib.md5(b"lost" if content is None else content).hexdigest()
            if content is not None:
                cached = repository.root / ".dvc/cache/files/md5" / output["md5"][:2] / output["md5"][2:]
                cached.parent.mkdir(parents=True, exist_ok=True)
                cached.write_bytes(content)
    path.write_text(yaml.safe_dump(lock, sort_keys=False))
    repository.commit("another record")


def encoded_anew(picture: Path, change: Callable[[Image.Image], object] = lambda image: None) -> bytes:
    """Encode a picture with less compression, so that its bytes differ; `change` may change its pixels."""
    target = io.BytesIO()
    with Image.open(picture) as image:
        change(image)
        image.save(target, format="PNG", compress_level=1)
    assert target.getvalue() != picture.read_bytes()
    return target.getvalue()


def repeated(repository: Repository, edited: Collection[str] = ()) -> tuple[list[Row], list[str]]:
    """Compare the record of HEAD with what lies in the workspace, and explain it: a repetition without the run."""
    made = dvc_lock.read((repository.root / "dvc.lock.before").read_bytes(), "dvc.lock").outputs
    revision = results.find(repository.root, "HEAD")
    rows = compare(revision, made, repository.root, edited)
    return rows, list(explain(revision, rows, repository.root))


def test_an_older_revision_runs_its_own_code_and_gives_its_bits(done: Repository, tmp_path: Path) -> None:
    break_training(done)
    done.commit("broken")
    done.edit(lambda values: values.update(seed=7))
    (done.root / "mlflow.db").touch()
    foreign = {
        "DVC_ROOT": str(done.root),
        "DVC_STAGE": "elsewhere",
        "DVC_EXP_NAME": "elsewhere",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/foreign.db",
        "GIT_DIR": str(done.root / ".git"),  # as in a git hook
        "GIT_INDEX_FILE": str(done.root / ".git/index"),
    }
    result = verify(done, "HEAD~1", **foreign)
    assert result.code == 0
    assert stages_run(result.out) == ["prepare", "train", "evaluate"]
    assert result.verdict(CHECKPOINT) == result.verdict("metrics/evaluate.json") == "identical"
    assert "identical: 17 of 17 outputs of HEAD~1 (" in result.out
    assert "was made by other" not in result.out and "different" not in result.out
    assert result.line("device:") == "auto became cpu here, cpu in the record"
    assert result.errors[0].startswith("note: uncommitted changes (params.yaml) are not part of HEAD~1 (")
    assert not (tmp_path / "foreign.db").exists()


def test_a_record_of_other_code_is_said_to_be_so_before_anything_runs(done: Repository) -> None:
    break_training(done)
    metrics = done.root / "metrics/evaluate.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"accuracy": 0.99}))
    lock = yaml.safe_load((done.root / "dvc.lock").read_text())
    (weights,) = [entry for entry in lock["stages"]["evaluate"]["deps"] if entry["path"] == CHECKPOINT]
    weights["md5"] = "0" * 32
    (done.root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    done.commit("broken, and better than it was")
    result = verify(done)
    assert result.code == 2
    before, _, after = result.out.partition("Running stage 'prepare'")
    assert "was made by other code" in before and "  src/samebits/training/loop.py (train)\n" in before
    assert f"  {CHECKPOINT}, not the recorded output (evaluate)\n" in before
    assert re.search(
        r"^metrics/evaluate.json of HEAD \(\w+\) was edited after dvc.lock recorded it$", before, re.MULTILINE
    )
    assert "Running stage 'train'" in after
    assert result.errors[-1].startswith("error: HEAD (") and "could not be run" in result.errors[-1]


@pytest.mark.usefixtures("untracked")
def test_parameters_committed_without_their_result_are_named_with_what_they_change(done: Repository) -> None:
    recorded = (done.root / HISTORY).read_text().splitlines()[1].split(",")[2]
    done.edit(lambda values: values.update(seed=1))
    done.edit(lambda values: values["recipes"]["lab"].update(determinism="exact"))
    done.edit(lambda values: values["recipes"]["lab"]["train"].update(num_threads=2))
    done.commit("not run")
    result = verify(
        done, "--stage", "train", OMP_WAIT_POLICY="passive"
    )  # two threads beside other tests would wait for each other busily
    assert result.code == 1
    before = result.out.partition("Running stage")[0]
    assert "  seed in params.yaml (train)\n" in before
    assert "  recipes.lab.train in params.yaml (train)\n" in before
    assert "  recipes.lab.determinism in params.yaml (train)\n" in before
    assert result.verdict("data/prepared/train") == "identical"
    assert result.verdict(CHECKPOINT) == result.verdict(HISTORY) == "different"
    assert result.line("first difference:") == f"{CHECKPOINT} of train"
    assert f"step 50: train_loss {recorded} → " in result.line(f"{HISTORY}:")
    machine = result.line("machine:")
    assert machine.startswith("num_threads 1 → 2; processor portable → ") and "python None → " in machine
    assert result.line("different:").startswith("2 of 8 outputs of HEAD (")


@pytest.mark.usefixtures("untracked")
def test_a_record_that_does_not_come_out_is_named_from_its_first_output(done: Repository) -> None:
    rows = (done.root / HISTORY).read_text()
    other = rows.splitlines()[2].split(",")[2]
    environment = json.loads((done.root / KINDS[0]).read_text())
    environment["processor"] = "Imaginary 9000"
    record(
        done,
        {
            PICTURE: encoded_anew(done.root / PICTURE),
            CHECKPOINT: b"other weights",
            HISTORY: rows.replace(other, str(float(other) - 0.5)).encode(),
            KINDS[0]: json.dumps(environment).encode(),
        },
    )
    result = verify(done, "--stage", "train")
    assert result.code == 1
    assert stages_run(result.out) == ["prepare", "train"]
    assert result.verdict(PICTURE) == "same pixels, does not count"
    assert result.verdict(KINDS[0]) == "other machine, does not count"
    assert result.line("first difference:") == f"{CHECKPOINT} of train"
    assert "step 100: train_loss" in result.line(f"{HISTORY}:") and "(+0.5)" in result.line(f"{HISTORY}:")
    assert "processor Imaginary 9000 → portable" in result.line("machine:")
    assert "metrics/evaluate.json" not in result.out  # evaluate was not run
    assert result.line("different:").startswith("2 of 8 outputs of HEAD (")


@pytest.fixture
def before(done: Repository) -> Repository:
    """A finished repository that keeps its true record in dvc.lock.before."""
    (done.root / "dvc.lock.before").write_bytes((done.root / "dvc.lock").read_bytes())
    return done


def test_pictures_count_by_their_pixels(before: Repository) -> None:
    mistakes = "data/plots/mistakes.png"
    lost = "data/plots/test_images.png"
    dotted = encoded_anew(before.root / mistakes, lambda image: image.putpixel((5, 5), (1, 2, 3)))
    record(before, {PICTURE: encoded_anew(before.root / PICTURE), mistakes: dotted, lost: None})
    rows, _ = repeated(before)
    verdicts = {row.path: row.verdict for row in rows if row.verdict is not Verdict.IDENTICAL}
    assert verdicts == {
        PICTURE: Verdict.SAME_PIXELS,
        mistakes: Verdict.DIFFERENT,
        lost: Verdict.PIXELS_UNKNOWN,
    }
    assert [row.path for row in rows if row.counts] == [mistakes, lost]


def test_another_machine_alone_leaves_the_result_identical_and_is_named(before: Repository) -> None:
    here = (before.root / KINDS[1]).read_text()
    environment = json.dumps(json.loads(here) | {"onednn_isa": "magic"})
    (before.root / KINDS[1]).write_text(environment)
    record(before, {KINDS[0]: None, KINDS[1]: environment.encode()})
    (before.root / KINDS[1]).write_text(here)  # what comes out
    rows, lines = repeated(before)
    assert [row.path for row in rows if row.verdict is Verdict.OTHER_MACHINE] == KINDS
    assert not any(row.counts for row in rows)
    assert lines[1].startswith("machine: onednn_isa magic → ")  # as git has it, for the cache has lost the other


def test_a_record_of_this_machine_under_another_hash_counts(before: Repository) -> None:
    record(before, {KINDS[0]: None})
    rows, lines = repeated(before)
    assert [(row.path, row.verdict) for row in rows if row.counts] == [(KINDS[0], Verdict.DIFFERENT)]
    assert "machine: of the recorded kind" in lines
    record(before, {KINDS[1]: None})  # then nothing tells which machine it was
    rows, lines = repeated(before)
    assert [row.verdict for row in rows if row.path in KINDS] == [Verdict.UNKNOWN_MACHINE] * 2
    assert not any(row.counts for row in rows) and "not compared" in lines[-1]
    rows, _ = repeated(before, edited=[KINDS[1]])  # as git has it, it is not what was recorded
    assert [row.path for row in rows if row.counts] == [KINDS[1]]


def test_a_recorded_stage_that_the_pipeline_lacks_counts(before: Repository) -> None:
    lock = yaml.safe_load((before.root / "dvc.lock").read_text())
    output = {"path": "data/calibrated", "hash": "md5", "md5": "0" * 32, "size": 1}
    lock["stages"]["calibrate"] = {"cmd": "python calibrate.py", "outs": [output]}
    (before.root / "dvc.lock").write_text(yaml.safe_dump(lock))
    before.commit("a stage that is gone")
    rows, lines = repeated(before)
    assert [(row.stage, row.path, row.verdict) for row in rows if row.counts] == [
        ("calibrate", "data/calibrated", Verdict.NO_STAGE)
    ]
    assert lines[0] == "first difference: data/calibrated of calibrate"


def test_a_lost_or_damaged_history_is_said_to_be_so(before: Repository) -> None:
    for content in (None, b"step,train_loss\n50,2.5\n"):
        record(before, {HISTORY: content, CHECKPOINT: None})
        if content:
            md5 = hashlib.md5(content).hexdigest()
            (before.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).write_bytes(b"step,train_loss\n50,9.5\n")
        _, lines = repeated(before)
        assert lines[0] == f"first difference: {CHECKPOINT} of train"
        assert lines[1].startswith(f"{HISTORY}: the recorded one is neither in git nor whole in DVC's cache")


def test_outputs_without_a_record_and_records_without_an_output_count(before: Repository) -> None:
    lock = yaml.safe_load((before.root / "dvc.lock").read_text())
    lock["stages"]["train"]["outs"][0]["path"] = "data/model/renamed.safetensors"
    (before.root / "dvc.lock").write_text(yaml.safe_dump(lock))
    before.commit("renamed")
    rows, _ = repeated(before)
    assert {row.path: row.verdict for row in rows if row.counts} == {
        CHECKPOINT: Verdict.NOT_RECORDED,
        "data/model/renamed.safetensors": Verdict.NOT_MADE,
    }


def test_a_metrics_file_that_was_edited_by_hand_counts(before: Repository) -> None:
    path = before.root / "metrics/evaluate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"accuracy": 0.99}))
    before.commit("better than it was")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"accuracy": 0.25}))  # what comes out
    rows, lines = repeated(before, edited=["metrics/evaluate.json"])
    assert [(row.path, row.verdict) for row in rows if row.counts] == [("metrics/evaluate.json", Verdict.EDITED)]
    assert lines[-1].splitlines()[2].split() == ["accuracy", "0.99", "0.25"]  # recorded, got


def test_raw_data_is_taken_from_the_workspace(done: Repository) -> None:
    done.edit(lambda values: values["data"].update(source="cifar10"))
    done.commit("on the real data")
    (done.root / "data/raw/cifar-10-batches-py").mkdir(parents=True)
    result = verify(done, "--stage", "prepare")
    assert result.code == 2
    expected = f"error: {done.root}/data/raw/cifar-10-batches-py/data_batch_1 is missing"
    assert any(line.startswith(expected) for line in result.errors), result.errors


def test_raw_data_of_the_users_own_folder_comes_first(done: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done.root.parent)
    monkeypatch.setenv("SAMEBITS_DATA", "else/where")
    assert _raw_data(results.find(done.root, "HEAD")) == {"SAMEBITS_DATA": str(done.root / "else/where")}
    monkeypatch.delenv("SAMEBITS_DATA")
    assert _raw_data(results.find(done.root, "HEAD")) == {}


def test_experiments_are_found_by_name(done: Repository) -> None:
    commit = done.run("git", "commit-tree", "HEAD^{tree}", "-m", "an experiment").stdout.strip()
    done.run("git", "update-ref", "refs/exps/ab/cdef/brave-try", commit)
    revision = results.find(done.root, "brave-try")
    assert revision.commit == commit and str(revision) == f"brave-try ({commit[:7]})"
    done.run("git", "update-ref", "refs/exps/ab/0123/brave-try", "HEAD")
    with pytest.raises(UserError, match="brave-try is the name of 2 experiments: give a commit"):
        results.find(done.root, "brave-try")


def test_an_experiment_is_not_taken_for_the_commit_that_its_name_begins(done: Repository) -> None:
    head = done.run("git", "rev-parse", "HEAD").stdout.strip()
    commit = done.run("git", "commit-tree", "HEAD^{tree}", "-m", "an experiment").stdout.strip()
    for name in (head[:4], "main"):
        done.run("git", "update-ref", f"refs/exps/ab/cdef/{name}", commit)
    assert results.find(done.root, head[:4]).commit == commit
    assert results.find(done.root, head[:5]).commit == results.find(done.root, "HEAD").commit == head
    expected = f"main is the name of a branch or tag and of an experiment: give a commit, {head} .refs/heads/main., {commit} .experiment."
    with pytest.raises(UserError, match=expected):
        results.find(done.root, "main")


def test_what_cannot_be_run_is_one_line(done: Repository, tmp_path: Path) -> None:
    lock = yaml.safe_load((done.root / "dvc.lock").read_text())
    lock["stages"]["prepare"]["outs"][0]["size"] = 10**18
    (done.root / "dvc.lock").write_text(yaml.safe_dump(lock))
    done.commit("outputs of an exabyte")
    (done.root / "dvc.lock").write_text("<<<<<<< ours\n")
    done.commit("damaged")
    outside = Repository(tmp_path / "outside")
    outside.root.mkdir()
    for repository, arguments, expected in [
        (done, ["nonsense"], "nonsense is no revision of "),
        (done, ["HEAD~9"], "HEAD~9 is no revision of "),
        (done, ["HEAD~3"], "has no dvc.lock: it is from before the first result"),
        (done, ["HEAD~2", "--stage", "trian"], "dvc.yaml has prepare, train, evaluate"),
        (done, ["HEAD~1"], "MB left: make room there, or set TMPDIR"),
        (done, ["HEAD"], "dvc.lock of HEAD ("),
        (outside, [], f"{outside.root} is in no git repository"),
    ]:
        result = verify(repository, *arguments)
        assert result.code == 2 and result.out == ""
        (line,) = result.errors
        assert line.startswith("error: ") and expected in line


def test_code_behind_tracked_links_is_what_the_stage_depends_on(quick: Repository, tmp_path: Path) -> None:
    source, link = quick.root / "src/work.py", quick.root / "recipes/lab/train/work.py"
    link.parent.mkdir(parents=True)
    source.parent.mkdir()
    (quick.root / "work.py").rename(source)
    link.symlink_to("../../../src/work.py")
    pipeline = (quick.root / "dvc.yaml").read_text()
    pipeline = pipeline.replace("python work.py, deps: [work.py,", "python src/work.py, deps: [recipes/lab/train,")
    (quick.root / "dvc.yaml").write_text(pipeline)
    remotes.folder(tmp_path / "team").add_to(quick)
    quick.repro()
    quick.commit("code behind links")
    assert "identical: 3 of 3 outputs of HEAD (" in verify(quick).out
    quick.run("python", "-m", "samebits.gate.lock_check")
    quick.run("samebits", "share")
    colleague = remotes.clone(quick, "colleague")
    assert colleague.repro("--pull") == [] and (colleague.root / "recipes/lab/train/work.py").is_symlink()

    source.write_text(source.read_text() + "# changed\n")  # the link stays as it is
    quick.commit("not run")
    result = verify(quick)
    assert result.code == 0 and "  recipes/lab/train (work)\n" in result.out.partition("Running stage")[0]
    failed = quick.run("python", "-m", "samebits.gate.lock_check", ok=False)
    assert failed.returncode == 1 and "(work: recipes/lab/train)" in failed.stderr


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_verification_leaves_no_clone_and_no_process(
    done: Repository, tmp_path: Path, told: signal.Signals
) -> None:
    before = files(done.root)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    values = {name: value for name, value in os.environ.items() if name not in FOREIGN} | {"TMPDIR": str(temporary)}
    command = [Path(sys.executable).with_name("samebits"), "verify"]
    with subprocess.Popen(
        command, cwd=done.root, env=values, stdout=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    ) as process:
        assert process.stdout
        next(line for line in process.stdout if line.startswith("> python stages/prepare.py"))
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(told)
        process.stdout.read()
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[told]
    assert children and not any(child.is_running() for child in children)
    assert list(temporary.iterdir()) == []
    assert files(done.root) == before
