"""A search gives the same trials and the same winner, with any number of workers, whatever happens to them."""

import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml

from samebits import params
from samebits.errors import UserError
from samebits.search import search_file, worker
from samebits.search.agenda import Agenda
from samebits.search.database import Database
from samebits.search.proposals import Values
from samebits.search.pruning import stop_epoch
from samebits.search.runner import Project, SettingResult
from samebits.search.search_file import SearchFile
from samebits.search.trials import Trial
from tests import remotes, servers
from tests.conftest import PROJECT, Repository, built_once, copy_tree, require_program
from tests.test_folder import draw, fill, use_folder

RATE, SCHEDULE = "recipes.lab.train.optimizer.learning_rate", "recipes.lab.train.schedule"
SEARCH = {
    "name": "rates",
    "seed": 0,
    "num_trials": 2,
    "parallelism": 2,
    "sampler": "tpe",
    "objective": "validation_accuracy",
    "parameters": {RATE: {"low": 0.001, "high": 0.1, "log": True}, SCHEDULE: [None, {"name": "linear"}]},
    "fixed": {"data.num_validation": 100},
}


@pytest.fixture(scope="module")
def searchable_template(fresh_template: Path, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search file, committed, and in DVC's cache what prepare makes for it."""

    def build(root: Path) -> None:
        copy_tree(fresh_template, root)
        shutil.copy(empty_database, root)
        repository = Repository(root)
        repository.edit(lambda values: values["data"].update(num_validation=100))
        assert repository.repro("prepare") == ["prepare"]
        repository.run("git", "checkout", "--quiet", "params.yaml")
        (root / "dvc.lock").unlink()
        write(repository)
        repository.commit("a search")

    return built_once(tmp_path_factory, "searchable", build)


@pytest.fixture
def searchable(searchable_template: Path, tmp_path: Path) -> Repository:
    return copy(searchable_template, tmp_path / "samebits")


def copy(template: Path, root: Path) -> Repository:
    copy_tree(template, root)
    return Repository(root)


def write(repository: Repository, **changes: object) -> None:
    (repository.root / "search.yaml").write_text(yaml.safe_dump(SEARCH | changes, sort_keys=False))


def digest(output: str) -> str:
    found = re.search(r"^digest: ([0-9a-f]{64})$", output, re.MULTILINE)
    assert found, output
    return found[1]


def experiments(repository: Repository) -> set[str]:
    listed = repository.run("git", "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").stdout.split()
    return {name for name in listed if name.startswith("rates-")}


def trained(repository: Repository) -> int:
    """Return how many trainings the workers started and did not take from a cache."""
    logs = (repository.root / ".samebits/search/logs").glob("*")
    return sum(log.read_text().count("Running stage 'train'") for log in logs)


@pytest.mark.long
def test_one_worker_two_workers_and_none(searchable: Repository, searchable_template: Path, tmp_path: Path) -> None:
    alone = searchable.run("samebits", "search", "search.yaml")
    trials = re.findall(r"^trial +(\d+): validation_accuracy 0\.\d{4}  \((.+)\)$", alone.stdout, re.MULTILINE)
    assert [number for number, _ in trials] == ["0", "1"] and len({values for _, values in trials}) == 2
    names = experiments(searchable)
    assert len(names) == trained(searchable) == 2
    assert searchable.status() == ""
    require_experiments(searchable)

    two = copy(searchable_template, tmp_path / "two")
    assert digest(two.run("samebits", "search", "search.yaml", "--workers", "2").stdout) == digest(alone.stdout)
    assert experiments(two) == names

    # A trial that was run is not run again: with the database, and with the experiments alone.
    shutil.rmtree(searchable.root / ".samebits/search/logs")
    assert searchable.run("samebits", "search", "search.yaml").stdout == alone.stdout
    (searchable.root / "search.db").unlink()
    assert searchable.run("samebits", "search", "search.yaml").stdout == alone.stdout
    # The file was edited: another search, which has its trainings in common with the first.
    write(searchable, epoch="best")
    other = searchable.run("samebits", "search", "search.yaml")
    assert (
        other.stderr.startswith("note: the database knows another search called rates, ")
        and other.stderr.count("\n") == 1
    )
    assert trained(searchable) == 0
    write(searchable, num_trials=3)
    more = searchable.run("samebits", "search", "search.yaml")
    assert more.stdout.startswith("search rates: 3 trials") and trained(searchable) == 1
    assert experiments(searchable) > names


def require_experiments(repository: Repository) -> None:
    """Fail unless the two trials are experiments that DVC, the other commands and MLflow know."""
    first, second = sorted(experiments(repository))
    shown = repository.run("dvc", "exp", "show", "--csv").stdout
    assert first in shown and second in shown
    repository.run("samebits", "compare", first, second)
    tracked = repository.run("samebits", "track", first, second)
    assert ": 0 new, 0 completed, 2 there already" in tracked.stdout
    measured = yaml.safe_load(
        repository.run("git", "show", f"{commit(repository, first)}:metrics/evaluate.json").stdout
    )
    assert set(measured["validation"]) == {"accuracy", "loss"}
    with sqlite3.connect(repository.root / "mlflow.db") as connection:
        children = connection.execute(
            "SELECT runs.name FROM tags JOIN runs ON tags.value = runs.run_uuid WHERE key = 'mlflow.parentRunId'"
        ).fetchall()
    assert children == [("rates",), ("rates",)]


def commit(repository: Repository, name: str) -> str:
    listed = repository.run("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/??/*/{name}").stdout.split()
    assert len(listed) == 1
    return listed[0]


def test_a_trial_that_diverges_or_that_the_training_refuses_has_failed(searchable: Repository) -> None:
    optimizers = [{"name": "sgd", "learning_rate": rate, "momentum": 0.9} for rate in (0.01, 1e9)]
    settings = yaml.safe_load((PROJECT / "params.yaml").read_text())
    optimizers.append(settings["recipes"]["speed"]["train"]["optimizer"])  # which lab has no groups of parameters for
    write(searchable, sampler="grid", num_trials=3, parameters={"recipes.lab.train.optimizer": optimizers})
    done = searchable.run("samebits", "search", "search.yaml")
    for words in (
        r"1000000000\.0.*\): training stopped: the loss is",
        r"muon.*\): optimizer\.name is 'muon': it needs",
    ):
        assert re.search(rf"^trial +\d: failed  \(optimizer .*{words}", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^winner: .*'learning_rate': 0\.01", done.stdout, re.MULTILINE)
    assert searchable.run("samebits", "search", "search.yaml").stdout == done.stdout


class Drawn:
    """Runs settings without a training: better with a higher seed and with the learning rate 0.1, best before the end."""

    def __init__(self) -> None:
        self.asked: list[tuple[float | None, int]] = []

    def run_setting(self, values: Values, fixed: Values, seed: int, is_poor: object = None) -> SettingResult:
        self.asked.append((values.get(RATE), seed))
        last = 0.5 + 0.01 * seed + 0.1 * (values.get(RATE) == 0.1)
        history = tuple({"validation_accuracy": each, "validation_loss": 1 - each} for each in (last + 0.05, last))
        return SettingResult(f"{len(self.asked):040x}", history, "0" * 64, "machine", last - 0.02)


@pytest.mark.parametrize("epoch", ["last", "best"])
def test_a_worker_trains_each_seed_and_confirms_the_winner(epoch: str, tmp_path: Path) -> None:
    changes = {"sampler": "grid", "parameters": {RATE: [0.1, 0.01]}, "num_seeds": 2, "epoch": epoch}
    search = SearchFile.model_validate(SEARCH | changes | {"confirm": {"num_seeds": 3}})
    database, runner = Database(f"sqlite:///{tmp_path}/search.db", "a"), Drawn()
    worker.work(search, database, runner)
    agenda = Agenda(search, database.results())
    confirmed = agenda.confirm()
    assert sorted(runner.asked[:4]) == [(0.01, 0), (0.01, 1), (0.1, 0), (0.1, 1)]
    assert runner.asked[4:] == [(rate, seed) for seed in (2, 3, 4) for rate in (None, 0.1)]
    assert confirmed is not None and confirmed.winner.values == {RATE: 0.1} and len(agenda.commits) == 10
    assert confirmed.searched == pytest.approx(0.605 + 0.05 * (epoch == "best"))


def test_code_that_fails_stops_the_worker_and_leaves_its_trial_to_others(tmp_path: Path) -> None:
    class Broken(Drawn):
        def run_setting(self, values: Values, fixed: Values, seed: int, is_poor: object = None) -> SettingResult:
            if self.asked:
                raise UserError("the disk is full")
            return super().run_setting(values, fixed, seed)

    search = SearchFile.model_validate(SEARCH | {"sampler": "grid", "parameters": {RATE: [0.1, 0.01]}})
    database = Database(f"sqlite:///{tmp_path}/search.db", "a")
    with pytest.raises(UserError, match="the disk is full"):
        worker.work(search, database, Broken())
    (ended,) = database.results()
    (left,) = {"trial 000000", "trial 000001"} - {ended}
    assert Database(f"sqlite:///{tmp_path}/search.db", "a").take([left]) == left


def test_own_images_are_searched_and_others_are_another_search(
    fresh: Repository, empty_database: Path, tmp_path: Path
) -> None:
    shutil.copy(empty_database, fresh.root)
    fill(fresh.root / "data/images")
    use_folder(fresh, "data/images/")  # as a shell completes it
    write(fresh, sampler="grid", num_trials=1, parameters={RATE: [0.01]}, fixed={"data.folder.validation_percent": 20})

    def search_id() -> str:
        fresh.run("dvc", "add", "--quiet", "data/images")
        fresh.commit("images")
        search = search_file.load(fresh.root / "search.yaml")
        return Project(fresh.root, fresh.run("git", "rev-parse", "HEAD").stdout.strip()).search_sha256(search)

    before = search_id()
    assert "winner: trial   0: validation_accuracy " in fresh.run("samebits", "search", "search.yaml").stdout
    assert search_id() == before
    draw(fresh.root / "data/images/train/ant/new.png", 99)
    assert search_id() != before

    fill(tmp_path / "images")
    settings = params.load(fresh.root / "params.yaml").data.model_copy(update={"path": str(tmp_path / "images")})
    elsewhere = Project(fresh.root, "HEAD").images(settings)
    draw(tmp_path / "images/train/ant/new.png", 99)
    assert Project(fresh.root, "HEAD").images(settings) != elsewhere


@pytest.mark.parametrize("path", sorted((PROJECT / "searches").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_searches_of_the_project_fit_its_parameters(path: Path) -> None:
    search_file.load(path).require(yaml.safe_load((PROJECT / "params.yaml").read_text()), path.name)


def test_a_parameter_within_a_fixed_section_leaves_the_section_as_the_file_has_it(searchable_template: Path) -> None:
    settings = yaml.safe_load((searchable_template / "params.yaml").read_text())
    section = {"name": "sgd", "learning_rate": 0.001, "momentum": 0.9}
    fixed = {"recipes.lab.train.optimizer": section, **SEARCH["fixed"]}
    search = SearchFile.model_validate(SEARCH | {"fixed": fixed, "parameters": {RATE: {"low": 0.01, "high": 0.1}}})
    search.require(settings, "search.yaml")
    assert search.fixed["recipes.lab.train.optimizer"] == section  # which the baseline of a confirmation has


MISTAKES = {
    "no validation images": ({"fixed": {}}, "needs validation images, and data.num_validation is 0"),
    "the test set": ({"objective": "accuracy"}, "objective is 'accuracy': must be .* the test set chooses nothing"),
    "an unknown parameter": ({"parameters": {"recipes.lab.train.rate": [1, 2]}}, "rate is not a known key"),
    "an empty range": ({"parameters": {RATE: {"low": 2, "high": 1}}}, "low is 2 and high is 1: .* the range is empty"),
    "a value that is not allowed": (
        {"parameters": {RATE: {"low": -1.0, "high": 1.0}}},
        "is -1.0: must be greater than 0",
    ),
    "another recipe": (
        {"parameters": {"recipes.speed.train.batch_size": [100, 200]}},
        "is of recipe speed, but recipe is lab",
    ),
    "evaluation": ({"parameters": {"recipes.lab.evaluate.batch_size": [10, 20]}}, "changes no training"),
    "the seed": ({"parameters": {"seed": [1, 2]}}, "cannot be chosen by a search"),
    "an endless grid": ({"sampler": "grid"}, "must be a list of choices or have a step"),
    "too small a grid": (
        {"sampler": "grid", "num_trials": 3, "parameters": {SCHEDULE: [None, {"name": "linear"}]}},
        "must be at most 2, the size of the grid",
    ),
    "an unknown sampler": ({"sampler": "cmaes"}, "sampler is 'cmaes': must be 'tpe', 'random', 'grid' or 'gp'"),
    "a name that is none": ({"name": "a b"}, "name is 'a b': must be at most 60 letters"),
    "a value within the range": (
        {"parameters": {"recipes.resnet.model.width": {"low": 8, "high": 64}}, "fixed": {"recipe": "resnet"}},
        "resnet.model.width is 9: must be a multiple of 8",
    ),
    "twice": ({"fixed": {RATE: 0.1, "data.num_validation": 100}}, "is in parameters and in fixed"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, searchable_template: Path, tmp_path: Path) -> None:
    changes, words = MISTAKES[mistake]
    settings = yaml.safe_load((searchable_template / "params.yaml").read_text())
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(SEARCH | changes))
    with pytest.raises(UserError, match=words) as caught:
        search_file.load(tmp_path / "search.yaml").require(settings, "search.yaml")
    assert str(caught.value).startswith("search.yaml: ") and "\n" not in str(caught.value)


def test_what_was_edited_or_is_missing_is_refused(searchable: Repository) -> None:
    searchable.edit(lambda values: values.update(seed=1))
    refused = searchable.run("samebits", "search", "search.yaml", ok=False)
    assert refused.returncode == 1 and refused.stdout == ""
    assert refused.stderr == "error: params.yaml changed since the last commit, which trials run: commit or undo that\n"
    for missing in ("nothing.yaml", "data"):
        assert searchable.run("samebits", "search", missing, ok=False).stderr.count("\n") == 1


@pytest.mark.long
@pytest.mark.usefixtures("cold")
def test_interrupted_all_workers_end_and_the_search_goes_on(searchable: Repository) -> None:
    process = searchable.start("samebits", "search", "search.yaml", "--workers", "2")
    wait_for(lambda: len(stages(searchable)) == 2, process)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "Traceback" not in output
    assert not stages(searchable) and not workers(searchable)
    assert [path.name for path in (searchable.root / ".samebits/search").iterdir()] == ["logs"]
    assert digest(searchable.run("samebits", "search", "search.yaml", "--workers", "2").stdout)


def stages(repository: Repository) -> list[psutil.Process]:
    return _processes(repository, "stages/train.py")


def workers(repository: Repository) -> list[psutil.Process]:
    return _processes(repository, "samebits.search.worker")


def _processes(repository: Repository, word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        here = str(repository.root) in f"{process.info['cwd']} {' '.join(command)}"
        if here and word in command and command[0].endswith("python"):
            found.append(process)
    return found


def wait_for(condition, process: "subprocess.Popen[str]", seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_poor_trial_is_stopped_by_the_median_of_those_it_may_know() -> None:
    def stops(history: list[float], *known: list[float], objective: str = "validation_accuracy") -> int | None:
        file = SearchFile.model_validate(SEARCH | {"prune": True, "objective": objective})
        return stop_epoch(file, history, [Trial(n, {}, "complete", 0.0, tuple(each)) for n, each in enumerate(known)])

    known = [[each, 2.0 * each, 3.0 * each] for each in range(1, 6)]  # the median is that of 3
    assert stops([3.1, 5.9], *known) == 2
    assert stops([3.1, 6.0, 9.0], *known) is None
    assert stops([2.9], *known) == 1
    assert stops([3.1], *known, objective="validation_loss") == 1
    assert stops([0.0, 0.0], *known[:4]) is None, "too few"
    assert stops([3.1, 0.0], *known[:4], [5.0]) is None, "too few have come as far"


@pytest.mark.long
def test_pruned_at_once_or_when_all_is_known(searchable: Repository, searchable_template: Path, tmp_path: Path) -> None:
    """A trial that is stopped is the one that a search of whole trainings would say."""
    changes: dict[str, object] = {
        "sampler": "grid",
        "num_trials": 7,
        "parameters": {RATE: [0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2]},
        "fixed": {"data.num_validation": 100, "recipes.lab.train.num_epochs": 40, "recipes.lab.train.batch_size": 20},
        "objective": "validation_loss",
    }
    write(searchable, **changes, prune=True)
    at_once = searchable.run("samebits", "search", "search.yaml", "--workers", "2")
    stopped = re.findall(r"^trial +(\d+): validation_loss .* pruned", at_once.stdout, re.MULTILINE)
    assert stopped and len(experiments(searchable)) < 7

    whole = copy(searchable_template, tmp_path / "whole")
    write(whole, **changes)
    whole.run("samebits", "search", "search.yaml", "--workers", "2")
    assert len(experiments(whole)) == 7
    write(whole, **changes, prune=True)
    known = whole.run("samebits", "search", "search.yaml")
    # Another repository gives its experiments other commits.
    told = [
        [line for line in each.splitlines() if "experiments: " not in line] for each in (known.stdout, at_once.stdout)
    ]
    assert told[0] == told[1]


@pytest.mark.long
def test_two_clones_take_part_in_one_search(searchable: Repository, tmp_path: Path) -> None:
    if not servers.program("postgres"):
        require_program("postgres", "postgresql")
    write(searchable, num_trials=4)
    remotes.folder(tmp_path / "team").add_to(searchable)
    clones = [remotes.clone(searchable, name) for name in ("first", "second")]
    with servers.postgresql() as address:
        variables = {"SAMEBITS_SEARCH_DATABASE": address}
        command = ("samebits", "search", "search.yaml")
        processes = [
            subprocess.Popen(
                command, cwd=each.root, env=each.environment_of(command) | variables, stdout=subprocess.PIPE
            )
            for each in clones
        ]
        outputs = [process.communicate()[0].decode() for process in processes]
        assert [process.returncode for process in processes] == [0, 0], outputs
        assert digest(outputs[0]) == digest(outputs[1])
        counts = [trained(each) for each in clones]
        assert sum(counts) == 4 and min(counts) > 0, counts
        for each in clones:
            assert experiments(each) == experiments(searchable) and len(experiments(each)) == 4
            # What the other one made is compared by its predictions, which the remote holds.
            first, second = sorted(experiments(each))[:2]
            each.run("samebits", "compare", first, second)
    # Alone, without the database: all trials are found by git's origin and the remote.
    third = remotes.clone(searchable, "third")
    third.run("git", "fetch", "--quiet", "origin", "refs/exps/*:refs/exps/*")
    alone = third.run("samebits", "search", "search.yaml")
    assert digest(alone.stdout) == digest(outputs[0]) and trained(third) == 0


@pytest.mark.long
@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("num_runs", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment(num_runs: int, searchable_template: Path, tmp_path: Path) -> None:
    """Workers, trainings and the command itself are killed; sometimes the database is lost."""
    expected: set[str] = set()
    for run in range(num_runs):
        repository = copy(searchable_template, tmp_path / f"run-{run}")
        write(repository, num_trials=5, parallelism=3)
        draw, num_workers = random.Random(run), (1, 2, 8)[run % 3]
        output, num_kills = search_killed(repository, num_workers, draw, 3)
        print(
            f"run {run}: {num_workers} workers, {num_kills} kills, {trained(repository)} starts of a training in the last logs"
        )
        expected.add(digest(output))
        assert len(experiments(repository)) == 5
        with sqlite3.connect(repository.root / "search.db") as connection:
            rows = connection.execute("SELECT name FROM samebits_tasks WHERE result IS NOT NULL").fetchall()
        assert sorted(rows) == [(f"trial {number:06d}",) for number in range(5)]
        assert len(runs(repository)) == len(set(runs(repository))) == 5
        shutil.rmtree(repository.root)
    assert len(expected) == 1


def search_killed(repository: Repository, num_workers: int, draw: random.Random, num_kills: int) -> tuple[str, int]:
    """Run the search to its end, and kill something of it now and then; return what it printed, and how often."""
    killed = 0
    while True:
        process = repository.start("samebits", "search", "search.yaml", "--workers", str(num_workers))
        while killed < num_kills and process.poll() is None:
            time.sleep(draw.uniform(1, 15))
            victims = [*workers(repository), *stages(repository), psutil.Process(process.pid)]
            victim = draw.choice(victims)
            if draw.random() < 0.2:
                (repository.root / "search.db").unlink(missing_ok=True)
            if victim.is_running():
                victim.kill()
                killed += 1
        output = process.communicate(timeout=600)[0]
        if process.returncode == 0:
            return output, killed
        assert "Traceback" not in output


def runs(repository: Repository) -> list[str]:
    """Return the contents of the finished runs in MLflow."""
    with sqlite3.connect(repository.root / "mlflow.db") as connection:
        query = (
            "SELECT tags.value FROM runs JOIN tags USING (run_uuid) "
            "WHERE tags.key = 'samebits.content' AND status = 'FINISHED' AND lifecycle_stage = 'active'"
        )
        return [value for (value,) in connection.execute(query)]
