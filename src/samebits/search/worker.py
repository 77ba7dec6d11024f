"""A worker of a search: takes what can be done now, does it, until nothing is left. `samebits search` starts some of them."""

import hashlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean

from samebits import portability
from samebits.errors import UserError, as_one_line
from samebits.processes import end_with
from samebits.search.agenda import Agenda
from samebits.search.database import ADDRESS, LEASE_SECONDS, Database
from samebits.search.proposals import Values
from samebits.search.pruning import stop_epoch
from samebits.search.runner import History, Project, SettingResult, SettingRunner
from samebits.search.search_file import SearchFile
from samebits.search.trials import Trial
from samebits.search.workplace import workplace

_POLL_SECONDS = 0.3  # while others do all that can be done now


def work(search: SearchFile, database: Database, runner: SettingRunner) -> None:
    """Do what can be done now, until nothing is left. Raises UserError if a training fails and another try need not."""
    while not (agenda := Agenda(search, database.results())).is_over:
        name = database.take([*agenda.open_trials, *agenda.open_confirmations])
        if name is None:
            time.sleep(_POLL_SECONDS)
            continue
        with _kept(database, name):
            if name in agenda.open_trials:
                number = agenda.open_trials[name]
                values, known = agenda.proposals.values(number), agenda.proposals.known(number)
                is_poor = partial(_is_poor, search, known) if search.prune else None
                results = [runner.run_setting(values, search.fixed, seed, is_poor) for seed in range(search.num_seeds)]
                trial = _trial(search, number, values, results, known)
                database.finish(name, {"trial": asdict(trial), "machine": results[0].machine})
            else:
                values, seed = agenda.confirmations[name]
                result = runner.run_setting(values, search.fixed, seed)
                measured = {"objective": _objective(search, [result]), "test_accuracy": result.test_accuracy}
                database.finish(name, {**measured, "commit": result.commit})


def _is_poor(search: SearchFile, known: Sequence[Trial], history: History) -> bool:
    return stop_epoch(search, [row[search.objective] for row in history], known) is not None


def _trial(
    search: SearchFile, number: int, values: Values, results: Sequence[SettingResult], known: Sequence[Trial]
) -> Trial:
    if search.prune:
        # The same for a training that was stopped and for one that ended by itself, before or a moment too early.
        rows = results[0].history[:-1] if results[0].commit else results[0].history
        if epoch := stop_epoch(search, [row[search.objective] for row in rows], known):
            history = tuple(row[search.objective] for row in rows[:epoch])
            digest = hashlib.sha256(json.dumps(rows[:epoch]).encode()).hexdigest()
            return Trial(number, values, "pruned", history[-1], history, digest)
    objective = _objective(search, results)
    if objective is None:
        return Trial(number, values, "failed", failure=next((each.failure for each in results if each.failure), ""))
    digest = hashlib.sha256(" ".join(each.history_sha256 for each in results).encode()).hexdigest()
    commits = tuple(each.commit for each in results)
    return Trial(number, values, "complete", objective, _history(search, results), digest, commits)


def _objective(search: SearchFile, results: Sequence[SettingResult]) -> float | None:
    """Return what a search looks for the best of: at the end of the trainings, or in their best epoch.

    None if a training has failed.
    """
    if any(each.failure for each in results):
        return None
    history = _history(search, results)
    best = max(history) if search.is_maximized else min(history)
    objective = history[-1] if search.epoch == "last" else best
    return objective if math.isfinite(objective) else None


def _history(search: SearchFile, results: Sequence[SettingResult]) -> tuple[float, ...]:
    """Return the mean over trainings after each epoch. Raises UserError without validation images."""
    if not all(each.history for each in results):
        raise UserError(
            f"{search.objective} needs validation images, and the data have none: set data.folder.validation_percent in fixed"
        )
    rows = zip(*(each.history for each in results), strict=True)
    return tuple(fmean(row[search.objective] for row in each) for each in rows)


@contextmanager
def _kept(database: Database, name: str) -> Iterator[None]:
    """Keep a task from others as long as this process lives; leave it to them if it fails."""
    is_over = threading.Event()

    def renew() -> None:
        while not is_over.wait(LEASE_SECONDS / 6):
            database.renew(name)

    threading.Thread(target=renew, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
        database.release(name)


def _end(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would interrupt what ends this process
    sys.exit(128 + number)


def main(root: str, commit: str, is_shared: str, search: str, search_id: str, log: str, parent: str) -> None:
    """Be a worker of the search, given as JSON, in the database that the environment names."""
    environment = dict(os.environ)  # of the stages, which hold themselves to what their recipe says
    portability.hold()  # before numpy is imported: the same proposals on every x86-64 processor with AVX2
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, whose Ctrl-C the parent passes on
    signal.signal(signal.SIGTERM, _end)
    end_with(int(parent))
    with as_one_line():
        file = SearchFile.model_validate_json(search)
        project = Project(Path(root), commit, is_shared == "True")
        database = Database(environment.pop(ADDRESS), search_id)
        with workplace(project.root) as folder:
            work(file, database, SettingRunner(project, file.name, folder, Path(log), environment))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
