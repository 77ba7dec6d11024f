"""A real git and DVC repository for each test that wants one: this project's own files, with tiny embedded data."""

from samebits import portability

portability.hold()  # before torch is imported: what tests compute is the same on every x86-64 processor with AVX2

import gc

gc.disable()  # until all is imported: that makes a million objects and no garbage

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from filelock import FileLock

from tests import warm_start

PROJECT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent
# What a run of the tests inside another stage or with the user's own server must not leak into them.
FOREIGN = (
    "DVC_ROOT",
    "DVC_STAGE",
    "DVC_EXP_NAME",
    "DVC_EXP_BASELINE_REV",
    "MLFLOW_TRACKING_URI",
    "SAMEBITS_DATA",
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),  # scikit-learn sets them when a test has imported it
    "PYTHONDONTWRITEBYTECODE",  # each of hundreds of processes would compile the code that it imports
    *portability.SETTINGS,
)
WARM = "SAMEBITS_WARM_PROGRAMS"
# Networks of few channels: a large one takes long, and Muon's bfloat16 on processors that lack it.
NARROW = {"resnet": {"width": 8}, "speed": {"widths": [8, 16, 16]}}
IDENTITY = {f"GIT_{who}_{what}": "tests@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


# A pipeline of the same form that DVC runs in a second, for what does not depend on what the stages compute.
QUICK = {
    "dvc.yaml": """\
stages:
  data: {cmd: python data.py, deps: [data.py], outs: [data.bin]}
  work: {cmd: python work.py, deps: [work.py, data.bin], params: [seed], outs: [out.bin]}
  measure: {cmd: python measure.py, deps: [measure.py, out.bin], metrics: [metrics.json: {cache: false}]}
""",
    "params.yaml": "seed: 0\n",
    "data.py": "open('data.bin', 'wb').write(bytes(300_000))\n",
    "work.py": """\
import random, yaml
seed = yaml.safe_load(open("params.yaml"))["seed"]
open("out.bin", "wb").write(random.Random(seed).randbytes(len(open("data.bin", "rb").read())))
""",
    "measure.py": """\
import json
json.dump({"score": sum(open("out.bin", "rb").read(100))}, open("metrics.json", "w"))
""",
}


def pytest_configure(config: pytest.Config) -> None:
    # Once for all processes of the tests, and for tests that a test runs; by Linux's means.
    if sys.platform == "linux" and not hasattr(config, "workerinput") and WARM not in os.environ:
        stack = ExitStack()
        config.add_cleanup(stack.close)
        folder = stack.enter_context(TemporaryDirectory(prefix="samebits-tests-"))
        os.environ[WARM] = str(stack.enter_context(warm_start.server(Path(folder))))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what is skipped where all tests have to run, but for what needs a GPU or CIFAR-10."""
    report = yield
    must_run = os.environ.get("SAMEBITS_REQUIRE_ALL_TESTS") and not re.search("GPU|CIFAR-10", str(report.longrepr))
    if report.skipped and must_run:
        report.outcome, report.longrepr = "failed", f"skipped where all tests have to run: {report.longrepr}"
    return report


@dataclass(frozen=True)
class Repository:
    """A clone of the project in a temporary folder."""

    root: Path

    def run(self, *command: str, ok: bool = True, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in it; by default it has to succeed."""
        values = self.environment_of(command) | environment
        done = subprocess.run(command, cwd=self.root, env=values, capture_output=True, text=True)
        assert not ok or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *command: str, is_warm: bool = False, **environment: str) -> "subprocess.Popen[str]":
        """Start a command in a process group of its own; its output is text on one pipe."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=(self.environment_of(command) if is_warm else self.environment()) | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )

    def environment(self) -> dict[str, str]:
        """Return the environment of a user: nothing of the process that runs the tests, its Python first."""
        values = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        return values | IDENTITY | {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}

    def environment_of(self, command: tuple[str, ...]) -> dict[str, str]:
        """Return the environment in which a command starts warm, if it can: see warm_start."""
        values = self.environment()
        if command[0] not in (*warm_start.PROGRAMS, "bash", "make") or command[:3] == ("dvc", "queue", "start"):
            return values  # it starts with other rights, say, or leaves a worker behind
        return values | {"PATH": os.pathsep.join(filter(None, (os.environ.get(WARM), values["PATH"])))}

    def work_off_queue(self, *arguments: str) -> None:
        """Run `dvc queue start` and wait for the workers that it leaves behind. It starts cold; what they start is warm."""
        self.run(str(PROGRAMS / "dvc"), "queue", "start", *arguments, PATH=self.environment_of(("dvc",))["PATH"])

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro`; give the names of the stages that really ran."""
        return stages_run(self.run("dvc", "repro", *arguments).stdout)

    def edit(self, change: Callable[[dict], None]) -> None:
        """Change params.yaml."""
        path = self.root / "params.yaml"
        values = yaml.safe_load(path.read_text())
        change(values)
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def commit(self, message: str = "change") -> None:
        """Commit all that git does not ignore."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", message)

    def status(self) -> str:
        """Return what git sees changed."""
        return self.run("git", "status", "--porcelain").stdout


def heed_interrupts() -> None:
    """Let Ctrl-C reach a child, also where the tests run in the background of a shell that ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def require_program(program: str, package: str) -> None:
    """Skip the test where a program of a Debian package is missing."""
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}: apt-get install {package}")


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder as it is, links and times too: sooner than Python does, with the hundreds of files of a repository."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def stages_run(output: str) -> list[str]:
    """Return the names of the stages that DVC says it ran."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage ")]


def make_tiny(values: dict) -> None:
    """Make every recipe a matter of seconds: 400 drawn images, one epoch, no special processor."""
    values["data"] |= {"source": "shapes", "shapes": {"num_train": 400, "num_test": 100}}
    for recipe in values["recipes"].values():
        batch_size = min(recipe["train"]["batch_size"], 100)
        recipe["train"] |= {"num_epochs": 1, "report_every_steps": 50, "batch_size": batch_size, "precision": "float32"}
        recipe["evaluate"] |= {"num_pictures": 4, "precision": "float32"}
        recipe["model"] |= NARROW.get(recipe["model"]["name"], {})


def slow_down(repository: Repository, seconds: float) -> None:
    """Let each step of its trainings take so many seconds more, in which they leave the processor to others."""
    loop = repository.root / "src/samebits/training/loop.py"
    before, after = "self.step += 1\n", f"self.step += 1\n        time.sleep({seconds})\n"
    text = loop.read_text()
    assert before in text
    loop.write_text(text.replace(before, after))


def project_files() -> list[str]:
    """Return the files that a clone of the project would hold, without the tests, the recorded result and large pictures."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    without = ("docs/images/", "dvc.lock", "metrics/", "tests/")
    return [name for name in listed if name and (PROJECT / name).is_file() and not name.startswith(without)]


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the temporary folder that all processes of this run of the tests have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


def built_once(tmp_path_factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return the repository that `build` makes in a folder; the first process of the tests that needs it builds it."""
    folder = shared_folder(tmp_path_factory) / f"template-{name}"
    root, is_built = folder / "samebits", folder / "built"
    with FileLock(f"{folder}.lock"):
        if not is_built.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(root)
            is_built.touch()
    return root


@pytest.fixture(scope="session")
def fresh_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(tmp_path_factory, "fresh", _build_fresh)


def _build_fresh(root: Path) -> None:
    for name in project_files():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, root / name, follow_symlinks=False)
    repository = Repository(root)
    repository.edit(make_tiny)
    repository.run("git", "init", "--quiet", "--initial-branch=main")
    repository.commit("the project, tiny")
    repository.run("git", "repack", "-a", "-d", "--quiet")  # hundreds of files less in each copy
    repository.run("python", "-m", "compileall", "-q", "src")  # for all copies


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database before its first experiment: MLflow makes one in seconds, by all migrations that it ever had."""

    def build(root: Path) -> None:
        root.mkdir()
        create = "from samebits.tracking.store import quiet_mlflow; quiet_mlflow(); from mlflow import MlflowClient; "
        Repository(root).run("python", "-c", create + "MlflowClient(tracking_uri='sqlite:///mlflow.db')")

    return built_once(tmp_path_factory, "empty-database", build) / "mlflow.db"


@pytest.fixture(scope="session")
def prepared_template(fresh_template: Path, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(root: Path) -> None:
        copy_tree(fresh_template, root)
        shutil.copy(empty_database, root)
        repository = Repository(root)
        assert repository.repro("prepare") == ["prepare"]
        (root / "dvc.lock").unlink()
        repository.run("git", "clean", "--quiet", "--force", "-d", "-x", "data")
        create = "from pathlib import Path; from samebits.tracking import open_store; open_store(Path.cwd())"
        repository.run("python", "-c", create, PYTHONPATH="src")
        assert repository.status() == ""

    return built_once(tmp_path_factory, "prepared", build)


@pytest.fixture(scope="session")
def done_template(fresh_template: Path, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(root: Path) -> None:
        copy_tree(fresh_template, root)
        shutil.copy(empty_database, root)
        repository = Repository(root)
        assert repository.repro() == ["prepare", "train", "evaluate"]
        repository.commit("its result")

    return built_once(tmp_path_factory, "done", build)


@pytest.fixture(scope="session")
def known_template(done_template: Path, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three results: one committed (momentum 0.9), one an experiment called slower (0.8), one only run (0.7)."""

    def build(root: Path) -> None:
        copy_tree(done_template, root)
        for name in ("mlflow.db", "mlartifacts"):  # whose paths lead back to the template
            subprocess.run(["rm", "-rf", str(root / name)], check=True)
        shutil.copy(empty_database, root)
        repository = Repository(root)
        momentum = "recipes.lab.train.optimizer.momentum=0.8"
        repository.run("dvc", "exp", "run", "--name", "slower", "--set-param", momentum)
        repository.edit(lambda values: values["recipes"]["lab"]["train"]["optimizer"].update(momentum=0.7))
        assert repository.repro() == ["train", "evaluate"]
        repository.run("git", "checkout", "--quiet", "--force", ".")
        repository.run("dvc", "checkout")

    return built_once(tmp_path_factory, "known", build)


@pytest.fixture(scope="session")
def quick_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three results of the quick pipeline: one committed (seed 0), one an experiment called other (1), one only run (2)."""
    return built_once(tmp_path_factory, "quick", _build_quick)


def _build_quick(root: Path) -> None:
    root.mkdir()
    repository = Repository(root)
    for name, content in QUICK.items():
        (root / name).write_text(content)
    repository.run("git", "init", "--quiet", "--initial-branch=main")
    repository.run("dvc", "init", "--quiet", DVC_NO_ANALYTICS="true")
    repository.run("dvc", "config", "core.analytics", "false")
    repository.repro()
    repository.commit("a result")
    repository.run("dvc", "exp", "run", "--name", "other", "--set-param", "seed=1")
    repository.edit(lambda values: values.update(seed=2))
    assert repository.repro() == ["work", "measure"]
    repository.run("git", "checkout", "--quiet", "--force", ".")
    repository.run("dvc", "checkout")


@pytest.fixture
def fresh(fresh_template: Path, tmp_path: Path) -> Repository:
    """The project with tiny embedded data, committed, nothing run yet."""
    return _copy(fresh_template, tmp_path)


@pytest.fixture
def prepared(prepared_template: Path, tmp_path: Path) -> Repository:
    """The project with tiny embedded data, committed; DVC's cache holds what prepare makes, MLflow's database no run."""
    return _copy(prepared_template, tmp_path)


@pytest.fixture
def done(done_template: Path, tmp_path: Path) -> Repository:
    """The project with tiny embedded data, run and committed."""
    return _copy(done_template, tmp_path)


@pytest.fixture
def known(known_template: Path, tmp_path: Path) -> Repository:
    """The project with a result that is committed, one that is an experiment, and one that was only run."""
    return _copy(known_template, tmp_path)


@pytest.fixture
def quick(quick_template: Path, tmp_path: Path) -> Repository:
    """The quick pipeline with a result that is committed, one that is an experiment, and one that was only run."""
    return _copy(quick_template, tmp_path)


@pytest.fixture(scope="session")
def without_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH in which stages find no MLflow, which is half of their work; each says so in a warning."""
    folder = tmp_path_factory.mktemp("without-mlflow")
    # Not a module of this name: for that programs would start cold.
    (folder / "sitecustomize.py").write_text('import sys\n\nsys.modules["mlflow"] = None\n')
    return folder


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch, without_mlflow: Path) -> None:
    """Let the stages of a test that is not about runs find no MLflow."""
    monkeypatch.setenv("PYTHONPATH", str(without_mlflow))


@pytest.fixture
def warm_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes that a test's own process starts by sys.executable start warm too."""
    if folder := os.environ.get(WARM):
        monkeypatch.setattr(sys, "executable", str(Path(folder) / "python"))


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each program of a test load its libraries itself: for tests about processes and imports."""
    monkeypatch.delenv(WARM, raising=False)


def _copy(template: Path, folder: Path) -> Repository:
    root = folder / "samebits"
    copy_tree(template, root)
    return Repository(root)
