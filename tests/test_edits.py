"""Edited at random moments while DVC runs the pipeline: no record names what did not run, and no training is lost.

Every record that is left in dvc.lock, in the run cache, in experiments and in MLflow is compared with a clean run of what it
names: parameters, code and data.
"""

import json
import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from samebits.repository import dvc_lock, git
from samebits.repository.digests import md5_of
from tests.conftest import PROJECT, Repository, built_once, copy_tree, shared_folder

CODE = "src/samebits/generators.py"
OTHER_CODE = ('f"{purpose}/{seed}"', 'f"{purpose}-{seed}"')  # draws other numbers
TRAIN = "recipes.lab.train"


@dataclass(frozen=True)
class Named:
    """What decides a result in these tests."""

    seed: int = 0
    learning_rate: float = 0.001
    num_pictures: int = 4
    is_other_code: bool = False
    num_test: int = 100
    recipe: str = "lab"


def lengthen(values: dict) -> None:
    """Make the training two seconds long, with a report every quarter of a second."""
    values["checkpoint_every_seconds"] = 0.5
    values["recipes"]["lab"]["train"].update(num_epochs=25, report_every_steps=100)


@pytest.fixture(scope="module")
def template(fresh_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository without any result, and a branch `other` with another seed and other code."""
    return built_once(tmp_path_factory, "edited", lambda root: build(fresh_template, root))


@pytest.fixture(scope="module")
def prepared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same repository with prepared data."""

    def prepare(root: Path) -> None:
        copy_tree(template, root)
        assert Repository(root).repro("prepare") == ["prepare"]

    return built_once(tmp_path_factory, "edited-prepared", prepare)


def build(fresh_template: Path, root: Path) -> None:
    copy_tree(fresh_template, root)
    repository = Repository(root)
    repository.edit(lengthen)
    repository.commit("longer")
    repository.run("git", "checkout", "--quiet", "-b", "other")
    repository.edit(lambda values: values.update(seed=7))
    change_code(repository)
    repository.commit("other code")
    repository.run("git", "checkout", "--quiet", "main")


def change_code(repository: Repository) -> None:
    path = repository.root / CODE
    path.write_text(path.read_text().replace(*OTHER_CODE))


def is_other(code: bytes) -> bool:
    return OTHER_CODE[1].encode() in code


class Clean:
    """Clean runs of whatever a record names, each run once for all processes of a test session."""

    def __init__(self, template: Path, folder: Path) -> None:
        self._template = template
        self._folder = folder

    def outputs(self, named: Named) -> dict[str, str]:
        """Return the MD5 of each output of the pipeline by path."""
        name = md5_of(repr(named).encode())
        known = self._folder / f"{name}.json"
        with FileLock(self._folder / f"{name}.lock"):
            if not known.exists():
                repository = Repository(self._folder / name)
                copy_tree(self._template, repository.root)
                repository.edit(lambda values: set_values(values, named))
                if named.is_other_code:
                    change_code(repository)
                repository.run("dvc", "repro", "--force", "--no-run-cache")
                recorded = dvc_lock.read((repository.root / "dvc.lock").read_bytes(), "dvc.lock")
                known.write_text(json.dumps(recorded.hashes))
                shutil.rmtree(repository.root)
        return json.loads(known.read_text())


def set_values(values: dict, named: Named) -> None:
    values.update(recipe=named.recipe, seed=named.seed)
    recipe = values["recipes"][named.recipe]
    recipe["train"]["optimizer"]["learning_rate"] = named.learning_rate
    recipe["evaluate"]["num_pictures"] = named.num_pictures
    values["data"]["shapes"]["num_test"] = named.num_test


@pytest.fixture(scope="session")
def clean_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shared_folder(tmp_path_factory) / "clean-runs"
    folder.mkdir(exist_ok=True)
    return folder


# What an editor, git or another program does to the files. Each gives back what undoes it.


def edit_value(change: Any) -> Any:
    def edit(repository: Repository) -> Any:
        before = (repository.root / "params.yaml").read_bytes()
        repository.edit(change)
        return lambda: (repository.root / "params.yaml").write_bytes(before)

    return edit


def edit_text(path: str, change: Any) -> Any:
    def edit(repository: Repository) -> Any:
        file = repository.root / path
        before = file.read_bytes()
        new = file.with_name(f".{file.name}.new")  # as editors do: write beside it and rename
        new.write_bytes(change(before))
        os.replace(new, file)
        return lambda: file.write_bytes(before)

    return edit


def edit_prepared(repository: Repository) -> Any:
    """Overwrite some images in place."""
    file = repository.root / "data/prepared/train/0000.part"
    if not file.exists():
        return lambda: None
    before = file.read_bytes()
    file.chmod(0o644)
    with file.open("r+b") as opened:
        opened.seek(-100_000, os.SEEK_END)
        opened.write(bytes(90_000))

    def undo() -> None:
        file.write_bytes(before)

    return undo


def git_quietly(repository: Repository, *arguments: str) -> bool:
    return repository.run("git", *arguments, ok=False).returncode == 0


def check_out_other(repository: Repository) -> Any:
    git_quietly(repository, "checkout", "--quiet", "--force", "other")
    return lambda: git_quietly(repository, "checkout", "--quiet", "--force", "main")


def stash(repository: Repository) -> Any:
    repository.edit(lambda values: values.update(seed=3))
    git_quietly(repository, "stash", "--quiet")
    return lambda: None


def commit_edit(repository: Repository) -> Any:
    before = git.commit(repository.root)
    repository.edit(lambda values: values.update(seed=7))
    git_quietly(repository, "commit", "--quiet", "--message", "an edit", "params.yaml")
    return lambda: git_quietly(repository, "reset", "--quiet", "--hard", str(before))


def commit_code(repository: Repository) -> Any:
    before = git.commit(repository.root)
    change_code(repository)
    git_quietly(repository, "commit", "--quiet", "--message", "code", CODE)
    return lambda: git_quietly(repository, "reset", "--quiet", "--hard", str(before))


EDITS = {
    "seed": edit_value(lambda values: values.update(seed=7)),
    "learning rate": edit_value(
        lambda values: values["recipes"]["lab"]["train"]["optimizer"].update(learning_rate=0.01)
    ),
    "pictures": edit_value(lambda values: values["recipes"]["lab"]["evaluate"].update(num_pictures=3)),
    "data": edit_value(lambda values: values["data"]["shapes"].update(num_test=90)),
    "recipe": edit_value(lambda values: values.update(recipe="linear")),
    "another recipe": edit_value(
        lambda values: values["recipes"]["linear"]["train"]["optimizer"].update(learning_rate=0.5)
    ),
    "comment": edit_text("params.yaml", lambda content: b"# a comment\n" + content),
    "no YAML": edit_text("params.yaml", lambda content: content[:200] + b"\n  {"),
    "code": edit_text(CODE, lambda content: content.replace(*(each.encode() for each in OTHER_CODE))),
    "comment in code": edit_text(CODE, lambda content: content + b"# a comment\n"),
    "README": edit_text("README.md", lambda content: content + b"more\n"),
    "prepared data": edit_prepared,
    "checkout": check_out_other,
    "stash": stash,
    "commit": commit_edit,
    "commit of code": commit_code,
}
LEARNING_RATE = ("--set-param", f"{TRAIN}.optimizer.learning_rate=0.01")
COMMANDS = (
    *[("dvc", "repro", "train")] * 4,
    *[("dvc", "repro")] * 3,
    ("dvc", "exp", "run", *LEARNING_RATE),
    ("dvc", "exp", "run", "--temp", *LEARNING_RATE),
    ("dvc", "exp", "run", "--queue", *LEARNING_RATE),
)
# What a stage writes last.
LAST = {
    "prepare": "data/plots/samples.png",
    "train": "data/model/environment.json",
    "evaluate": "metrics/evaluate.json",
}


class Trial:
    """One command, edits at a random moment of it, and what is left of both."""

    def __init__(self, repository: Repository, chance: random.Random) -> None:
        self.repository = repository
        self.command = chance.choice(COMMANDS)
        self.edits = chance.sample(sorted(EDITS), chance.choice((1, 1, 2)))
        self.edits.sort(key=lambda name: name == "no YAML")  # last: no other edit can read it then
        stages = ("prepare", "train") if self.command[-1] == "train" else ("prepare", "train", "train", "evaluate")
        self.stage = chance.choice(stages)
        self.is_at_the_end = chance.random() < 0.3 and "--temp" not in self.command and "--queue" not in self.command
        self.seconds = chance.uniform(0, 0.4 if self.is_at_the_end else 5)
        self.is_undone = chance.random() < 0.3
        self.output = ""

    def __str__(self) -> str:
        where = f"{self.seconds:.2f} s after {self.stage} {'wrote its last' if self.is_at_the_end else 'began'}"
        return f"{' '.join(self.command)}: {', '.join(self.edits)} {where}{', undone' if self.is_undone else ''}"

    def run(self) -> None:
        """Run the command and edit; leave the files as they were at its start, and run it to its end."""
        root = self.repository.root
        command = self.command
        if "--queue" in command:
            self.repository.run(*command)
            command = ("dvc", "queue", "start")
        process = self.repository.start(*command, is_warm=True)
        log: list[str] = []
        thread = threading.Thread(target=lambda: log.extend(process.stdout or ()), daemon=True)
        thread.start()
        wait_until(lambda: not thread.is_alive() or self._is_there(log))
        time.sleep(self.seconds)
        undo = [EDITS[name](self.repository) for name in self.edits]
        if self.is_undone:
            time.sleep(0.5)
            for each in reversed(undo):
                each()
        thread.join(600)  # a worker of the queue holds the pipe until it ends
        assert not thread.is_alive(), "it does not end"
        if "--queue" in self.command:
            wait_until(lambda: "Running" not in self.repository.run("dvc", "queue", "status").stdout, 180, pause=1)
        self.output = "".join(log)
        assert "Traceback" not in self.output, self.output
        if not self.is_undone:
            for each in reversed(undo):
                each()
        if self.command[1] != "repro" or process.returncode == 0:
            return
        again = self.repository.run("dvc", "repro", *self.command[2:])
        if "train ran, so it is not recorded" in self.output:
            going_on = re.search(r"going on after step ([\d,]+) of ([\d,]*\d)", again.stdout)
            assert going_on and going_on[1] == going_on[2], f"the training is lost: {again.stdout}{again.stderr}"
        assert (root / "dvc.lock").exists()

    def _is_there(self, log: list[str]) -> bool:
        if "--queue" in self.command:
            return True
        begun = any(f"> python stages/{self.stage}.py" in line for line in log)
        return begun and (not self.is_at_the_end or (self.repository.root / LAST[self.stage]).exists())


def wait_until(condition: Any, seconds: float = 90, pause: float = 0.01) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)


class Truth:
    """Whether records say what ran, by clean runs of what they name."""

    def __init__(self, template: Path, folder: Path) -> None:
        self._clean = Clean(template, folder)
        code = (template / CODE).read_bytes()
        other = code.replace(*(each.encode() for each in OTHER_CODE))
        self._codes = {
            md5_of(text + comment): text == other for text in (code, other) for comment in (b"", b"# a comment\n")
        }

    def require(self, repository: Repository) -> int:
        """Assert that no record of the repository is false; return how many there are."""
        root = repository.root
        contents = [path.read_bytes() for path in [root / "dvc.lock"] if path.exists()]
        contents += [path.read_bytes() for path in (root / ".dvc/cache/runs").glob("??/*/*")]
        commits = git.experiment_names(root)
        contents += [git.read(root, commit, "dvc.lock") for commit in commits]
        records = [
            stage for content in contents if content for stage in dvc_lock.read(content, "a record").stages.values()
        ]
        for stage in records:
            self._require_true(stage)
        runs = finished_runs(repository)
        for run in runs:
            self._require_true_run(repository, run)
        return len(records) + len(runs)

    def _require_true(self, stage: dvc_lock.Stage) -> None:
        outputs = {output.path: output.md5 for output in stage.outputs}
        (name,) = [name for name, path in LAST.items() if path in outputs]
        (clean,) = [self._clean.outputs(named) for named in self._named(name, stage)]
        for path, md5 in outputs.items():
            assert clean[path] == md5, f"{path} is not what {name} gives with {stage.params} and {stage.dependencies}"
        data = {path: md5 for path, md5 in stage.dependencies.items() if path.startswith("data/") and path in clean}
        assert data == {path: clean[path] for path in data}, name

    def _named(self, name: str, stage: dvc_lock.Stage) -> Iterator[Named]:
        """Yield what a record names; an evaluation names its training by the checkpoint."""
        params = stage.params
        if name == "prepare":
            yield Named(num_test=params["data"]["shapes"]["num_test"])
            return
        tests = [n for n in (100, 90) if self._clean.outputs(Named(num_test=n))[DATASET] == stage.dependencies[DATASET]]
        assert tests, f"{name} ran on data that no clean run prepares"
        assert params["recipe"] == "lab"
        named = Named(params["seed"], num_test=tests[0], is_other_code=self._codes[stage.dependencies[CODE]])
        if name == "train":
            yield replace(named, learning_rate=params[TRAIN]["optimizer"]["learning_rate"])
            return
        named = replace(named, num_pictures=params["recipes.lab.evaluate"]["num_pictures"])
        for rate in (0.001, 0.01):
            if self._clean.outputs(replace(named, learning_rate=rate))[CHECKPOINT] == stage.dependencies[CHECKPOINT]:
                yield replace(named, learning_rate=rate)

    def _require_true_run(self, repository: Repository, run: dict[str, Any]) -> None:
        params, tags = run["params"], run["tags"]
        named = Named(
            int(params["seed"]),
            float(params["train.optimizer.learning_rate"]),
            int(params["evaluate.num_pictures"]),
            num_test=int(params["data.shapes.num_test"]),
            recipe=params["recipe"],  # a training that began after an edit of it
        )
        for commit, patch in origins(tags, (run["patch"] or "").encode()):
            code, values = files_of(repository, commit, patch)
            clean = self._clean.outputs(replace(named, is_other_code=is_other(code)))
            assert clean[CHECKPOINT] == tags["samebits.checkpoint_md5"], f"{named} at {commit} gives another checkpoint"
            assert clean[DATASET] == tags["samebits.data_md5"]
            assert (values["recipe"], values["seed"]) == (named.recipe, named.seed)
            assert values["recipes"][named.recipe]["train"]["optimizer"]["learning_rate"] == named.learning_rate
            if run["outputs"]:
                outputs = {output["path"]: output["md5"] for output in run["outputs"]}
                assert outputs == {path: clean[path] for path in outputs}


CHECKPOINT, DATASET = "data/model/checkpoint.safetensors", "data/prepared/dataset.json"


def origins(tags: dict[str, str], patch: bytes) -> list[tuple[str, bytes]]:
    """Return the commits, with their changes, of which a run says that they give its result."""
    clean = [(commit, b"") for commit in tags.get("samebits.commits", "").split() if not commit.endswith("-dirty")]
    return clean + ([(tags["samebits.commit"], patch)] if patch else [])


def files_of(repository: Repository, commit: str, patch: bytes) -> tuple[bytes, dict]:
    """Return the code and the parameters of a commit with changes."""
    folder = repository.root.parent / f"at-{commit}-{md5_of(patch)}"
    if not folder.exists():
        repository.run("git", "clone", "--quiet", "--shared", "--no-checkout", ".", str(folder))
        subprocess.run(["git", "checkout", "--quiet", commit], cwd=folder, check=True)
        if patch:
            subprocess.run(["git", "apply", "-"], cwd=folder, input=patch, check=True)
    return (folder / CODE).read_bytes(), yaml.safe_load((folder / "params.yaml").read_text())


FINISHED_RUNS = """
import json
from pathlib import Path
from samebits.tracking import open_store

store, found = open_store(Path.cwd()), []
for run in store.client.search_runs([store.experiment_id]):
    if "samebits.content" in run.data.tags:
        there = {file.path for file in store.client.list_artifacts(run.info.run_id)}
        texts = {
            name: Path(store.client.download_artifacts(run.info.run_id, name)).read_text()
            for name in ("diff.patch", "outputs.json")
            if name in there
        }
        outputs = json.loads(texts.get("outputs.json", "[]"))
        found.append({"params": run.data.params, "tags": run.data.tags, "patch": texts.get("diff.patch"), "outputs": outputs})
print(json.dumps(found))
"""


def finished_runs(repository: Repository) -> list[dict[str, Any]]:
    is_there = (repository.root / "mlflow.db").exists()
    # The code of the repository itself may be edited.
    environment = {"PYTHONPATH": str(PROJECT / "src")}
    return json.loads(repository.run("python", "-P", "-c", FINISHED_RUNS, **environment).stdout) if is_there else []


def edit_often(template: Path, prepared: Path, clean_folder: Path, folder: Path, number: int, seed: int) -> None:
    """Run `number` trials, each from a repository without a result, or with prepared data alone."""
    chance, truth = random.Random(seed), Truth(template, clean_folder)
    num_records = 0
    for each in range(number):
        repository = Repository(folder / str(each))
        trial = Trial(repository, chance)
        copy_tree(template if trial.stage == "prepare" else prepared, repository.root)
        repository.run("git", "status")  # else a checkout would write every file of the copy anew
        print(f"{seed}/{each}: {trial}", flush=True)
        try:
            trial.run()
            num_records += truth.require(repository)
        except BaseException:
            print(trial.output)
            raise
        shutil.rmtree(folder, ignore_errors=True)  # a worker of DVC's queue may be tidying up
    print(f"{number} trials, {num_records} records, none false")
    assert num_records > number


# Ten in each test, so that they run side by side.
@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.long if seed < 4 else pytest.mark.slow) for seed in range(20)]
)
def test_edits_at_random_moments_leave_no_false_record(
    template: Path, prepared: Path, clean_folder: Path, tmp_path: Path, seed: int
) -> None:
    edit_often(template, prepared, clean_folder, tmp_path / "trials", 10, seed)
