"""`samebits search`: start workers, show what they do, and tell what came out."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from tqdm import tqdm

from samebits import paths
from samebits.errors import UserError, last_mistake, listed
from samebits.repository import cache as caches
from samebits.repository import git
from samebits.search import conclusion, search_file
from samebits.search.agenda import Agenda
from samebits.search.confirmation import Confirmation
from samebits.search.database import ADDRESS, Database, in_file
from samebits.search.runner import Project
from samebits.search.search_file import SearchFile
from samebits.search.trials import Trial, digest, winner
from samebits.tracking import searches

_POLL_SECONDS = 0.5
_END_SECONDS = 20.0
_MAX_DEATHS = 5  # of workers, one after the other without a trial that ended between


@dataclass(frozen=True)
class Outcome:
    """What came out of a search: all trials in their order, and the confirmation of the winner, if the file asks for one."""

    search: SearchFile
    trials: list[Trial]
    confirmation: Confirmation | None

    @property
    def winner(self) -> Trial | None:
        """The best trial; None if all failed."""
        return winner(self.trials, self.search.is_maximized)

    @property
    def digest(self) -> str:
        """The SHA-256 over all trials and the winner."""
        return digest(self.trials, self.winner)

    def lines(self) -> Iterator[str]:
        """Yield what to tell of the winner, and what fresh seeds say of it."""
        if (best := self.winner) is None:
            yield "no winner: all trials failed"
            return
        yield f"winner: {_line(self.search, best)}"
        yield f"its experiments: {', '.join(commit[:7] for commit in best.commits)}"
        if self.confirmation is not None:
            yield from conclusion.sentences(self.confirmation, len(self.trials))


def run(root: Path, path: Path, num_workers: int) -> Outcome:
    """Run the search that the file `path` describes, or what is left of it, with `num_workers` processes.

    Prints each trial in its turn. Raises UserError if the file describes no search that can run, or all workers have stopped.
    """
    search = search_file.load(path)
    url = os.environ.get(ADDRESS) or in_file(root / paths.SEARCHES)
    project = _project(root, path, is_shared=bool(os.environ.get(ADDRESS)))
    search.require(project.settings, path.name)
    search_id = project.search_sha256(search)
    database = Database(url, search_id)
    if others := database.register(search.name):
        known = "another search" if others == 1 else f"{others} other searches"
        print(
            f"note: the database knows {known} called {search.name}, with another search file, code, data or params.yaml; "
            "trainings in common are not run again",
            file=sys.stderr,
        )
    print(
        f"search {search.name}: {search.num_trials} trials by {search.sampler}, at commit {project.commit[:7]}",
        flush=True,
    )
    agenda = _watch(_Workers(search, project, url, search_id), database, search, num_workers)
    if project.is_shared:
        try:
            project.fetch(f"{search.name}-*")
        except UserError as error:  # the result is known without them
            print(f"note: experiments that other machines ran are missing here: {error}", file=sys.stderr)
    trials = [agenda.trials[number] for number in range(search.num_trials)]
    outcome = Outcome(search, trials, agenda.confirm())
    if len(agenda.machines) > 1:
        print(
            f"note: {len(agenda.machines)} kinds of machine computed trials, which gives other bits unless determinism is "
            "portable: another run may end with another digest",
            file=sys.stderr,
        )
    _record(root, search_id, outcome, agenda.commits)
    return outcome


def _record(root: Path, search_id: str, outcome: Outcome, commits: set[str]) -> None:
    """Make the runs of the trainings in MLflow children of one of the search; a failure costs a warning."""
    names = git.experiment_names(root)
    metrics = {"num_trials": float(len(outcome.trials))}
    if outcome.winner and outcome.winner.objective is not None:
        metrics[f"best_{outcome.search.objective}"] = outcome.winner.objective
    try:
        searches.group(root, search_id, outcome.search.name, {names[each] for each in commits & names.keys()}, metrics)
    except UserError as error:
        print(f"warning: MLflow does not hold the run of this search: {error}", file=sys.stderr)


def _project(root: Path, path: Path, is_shared: bool) -> Project:
    """Return the commit that trials run. Raises UserError if it is not what the user sees, or experiments are impossible."""
    if is_shared and not (git.has_remote(root, "origin") and caches.settings(root)["core"].get("remote")):
        raise UserError(
            f"{ADDRESS} is set, so trials go to git's origin and to the default DVC remote, and one of them is missing: "
            "`git remote add origin URL` and `dvc remote add --default team URL` add them"
        )
    commit = git.commit(root)
    if commit is None:
        raise UserError(f"{root} has no commit yet, which trials run: commit your files")
    mine = os.path.relpath(path.resolve(), root)
    changed = [name for name in git.changed(root, commit) if name != mine]
    if changed:
        raise UserError(f"{listed(changed)} changed since the last commit, which trials run: commit or undo that")
    if not git.has_identity(root):
        raise UserError(f"git does not know who you are, which experiments need: {git.WHO_YOU_ARE}")
    return Project(root, commit, is_shared)


class _Workers:
    """The processes that work on a search, and the files that hold what they and their stages print."""

    def __init__(self, search: SearchFile, project: Project, url: str, search_id: str) -> None:
        self._search, self._project, self._url, self._search_id = search, project, url, search_id
        self._folder = project.root / paths.SCRATCH / "search" / "logs"
        self._folder.mkdir(parents=True, exist_ok=True)
        for log in self._folder.glob("[0-9]*-*.log"):
            if not psutil.pid_exists(int(log.stem.partition("-")[0])):
                log.unlink(missing_ok=True)
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, place: int) -> None:
        """Start the worker number `place`."""
        log = self._log(place)
        arguments = [
            self._project.root,
            self._project.commit,
            self._project.is_shared,
            json.dumps(self._search.model_dump()),
            self._search_id,
            log,
            os.getpid(),
        ]
        command = [sys.executable, "-P", "-m", "samebits.search.worker", *map(str, arguments)]
        environment = os.environ | {ADDRESS: self._url}
        with log.open("wb") as output:
            self.running[place] = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def ended(self) -> Iterator[tuple[int, int]]:
        """Yield number and exit code of each worker that has ended, once."""
        for place, process in list(self.running.items()):
            if (code := process.poll()) is not None:
                del self.running[place]
                yield place, code

    def reason(self, place: int) -> str:
        """Return why a worker has stopped, as it said."""
        log = self._log(place)
        printed = log.read_text(encoding="utf-8", errors="replace")
        return last_mistake(printed) or f"it failed: see {os.path.relpath(log)}"

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Wait for all workers when the block ends. If an exception ends it, end them, and what they run."""
        try:
            yield
            self._wait()  # they find nothing left to do
        finally:
            for process in self.running.values():
                process.terminate()
            for process in self._wait():
                process.kill()

    def _wait(self) -> list[subprocess.Popen[bytes]]:
        """Wait for the workers to end, and return those that do not."""
        deadline = time.monotonic() + _END_SECONDS
        while (left := [each for each in self.running.values() if each.poll() is None]) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS / 5)
        return left

    def _log(self, place: int) -> Path:
        return self._folder / f"{os.getpid()}-{place + 1}.log"


def _watch(workers: _Workers, database: Database, search: SearchFile, num_workers: int) -> Agenda:
    """Let workers work until nothing is left, and show trials in the order of their numbers."""
    num_shown, num_deaths, is_confirming = 0, 0, False
    reasons: list[str] = []
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with workers.ending(), tqdm(total=search.num_trials, unit="trial", leave=False, disable=None) as bar:
        while True:
            agenda = Agenda(search, database.results())
            while num_shown in agenda.trials:
                bar.write(_line(search, agenda.trials[num_shown]))
                num_shown, num_deaths = num_shown + 1, 0
                bar.update()
            if agenda.is_over:
                return agenda
            if agenda.open_confirmations and not is_confirming:
                is_confirming = True
                bar.write(f"confirming the winner: {len(agenda.confirmations)} trainings with fresh seeds")
            if not (workers.running or reasons):
                for place in range(num_workers):
                    workers.start(place)
            for place, code in workers.ended():
                if code < 0 and (num_deaths := num_deaths + 1) <= _MAX_DEATHS * num_workers:
                    tqdm.write(
                        f"note: worker {place + 1} was killed (signal {-code}): another takes its work over", sys.stderr
                    )
                    workers.start(place)
                elif code:
                    reasons.append(workers.reason(place))
                    tqdm.write(f"note: worker {place + 1} has stopped: {reasons[-1]}", sys.stderr)
            if not workers.running and reasons:
                raise UserError(f"all workers have stopped: {reasons[0]}")
            time.sleep(_POLL_SECONDS)


def _line(search: SearchFile, trial: Trial) -> str:
    values = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in trial.values.items())
    what = trial.state if trial.objective is None else f"{search.objective} {trial.objective:.4f}"
    if trial.state == "pruned":
        what += f", pruned after epoch {len(trial.history)}"
    why = f": {trial.failure}" if trial.failure else ""
    return f"trial {trial.number:3d}: {what}  ({values}){why}"
