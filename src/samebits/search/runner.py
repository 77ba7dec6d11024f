"""One setting with one seed, run as a DVC experiment.

A setting is found again by the name of its experiment, which holds a hash of all that decides the result. What nobody has
run is run in a clone of the worker's own, by DVC in this process: starting DVC anew for each training takes seconds.
"""

import csv
import hashlib
import json
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from samebits import params, paths, recipe_links, results
from samebits.errors import UserError, last_mistake
from samebits.repository import digests, dvc_command, dvc_lock, git, sharing
from samebits.search.search_file import ParamValue, SearchFile, checked
from samebits.search.workplace import clone, end_stages, run_git

# What, besides parameters and images, decides a result: code, and how DVC runs it.
_CODE = ("src", "stages", "recipes", paths.PINS, paths.PIPELINE)
# How a stage begins its refusal of a setting, which it will repeat each time: it diverges, or its values do not fit together.
_REFUSALS = (
    "training stopped: the loss is",
    "the network",
    "optimizer.",
    "train.augmentation",
    "BatchNorm cannot normalize",
)
# What it says after each epoch.
_EPOCH = re.compile(
    r"^epoch \d+: validation_loss (?P<validation_loss>\S+), validation_accuracy (?P<validation_accuracy>\S+)\n",
    re.MULTILINE,
)
_WATCH_SECONDS = 0.5

History = tuple[dict[str, float], ...]


@dataclass(frozen=True)
class SettingResult:
    """What a training of a setting with one seed came to.

    `history` has one row for each epoch: `validation_loss` and `validation_accuracy`. `failure` is why there is no result,
    told as the stage did. A training that failed or was stopped early has nothing else but its history until then.
    """

    commit: str = ""
    history: History = ()
    history_sha256: str = ""
    machine: str = ""  # hash of the description of the kind of machine that computed it
    test_accuracy: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class Project:
    """A commit of the repository in `root`, whose code and params.yaml a search runs."""

    root: Path
    commit: str
    is_shared: bool = False  # experiments go to git's origin and to the DVC remote, for other machines

    def reference(self, experiment: str) -> str:
        """Return git's name of an experiment of this commit, as DVC gives it."""
        return f"refs/exps/{self.commit[:2]}/{self.commit[2:]}/{experiment}"

    def push(self, experiment: str) -> None:
        """Send an experiment to git's origin, whose own stays if it has one. Raises UserError if that fails."""
        reference = self.reference(experiment)
        if not run_git(self.root, "ls-remote", "origin", reference):
            run_git(self.root, "push", "--quiet", "origin", f"{reference}:{reference}")

    def fetch(self, experiments: str) -> None:
        """Get from git's origin the experiments that a pattern matches. Raises UserError if that fails."""
        reference = self.reference(experiments)
        run_git(self.root, "fetch", "--quiet", "origin", f"+{reference}:{reference}")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The content of params.yaml."""
        return params.read(git.read(self.root, self.commit, paths.PARAMETERS), paths.PARAMETERS)

    def images(self, data: params.Data) -> list[object]:
        """Return the hashes of the user's own images, whose path alone says nothing; none for CIFAR-10 and shapes."""
        if not data.is_own:
            return []
        tracked = {}
        if not Path(data.path).is_absolute():
            tracked = git.trees(self.root, self.commit, data.path, f"{Path(data.path)}.dvc")
        return [tracked or digests.md5_if_readable(self.root / data.path)]

    @cached_property
    def code(self) -> dict[str, str]:
        """The hashes of the code by path."""
        return git.trees(self.root, self.commit, *_CODE)

    def search_sha256(self, search: SearchFile) -> str:
        """Return the SHA-256 of all that decides trials: not the name, the number of trials or the confirmation."""
        asked = search.model_dump(exclude={"name", "num_trials", "confirm"}, exclude_unset=False)
        data = checked(self.settings, search.fixed, "fixed").data
        return _sha256([asked, self.settings, self.code, *self.images(data)])


class SettingRunner:
    """Runs settings of a search as DVC experiments of a commit, in a clone in the folder `folder`.

    What the stages print goes to `log`, to which standard output and error of this process already lead. They run with
    `environment`.
    """

    def __init__(self, project: Project, name: str, folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        self._project, self._name, self._folder, self._log = project, name, folder, log
        self._environment = dict(environment)

    def run_setting(
        self,
        values: Mapping[str, ParamValue],
        fixed: Mapping[str, ParamValue],
        seed: int,
        is_poor: Callable[[History], bool] | None = None,
    ) -> SettingResult:
        """Return what came out of a setting with one seed; train only if nobody has yet.

        The training is stopped if `is_poor` says so of its history so far, before its last epoch.
        Raises UserError, with the stage's reason, if it failed for a reason that another run need not have.
        """
        changes = {**fixed, **values, "seed": seed}
        try:
            settings = checked(self._project.settings, changes, "parameters")
        except UserError as error:  # two values that do not go together
            return SettingResult(failure=str(error))
        decides = settings.resolved()
        del decides["seed"]
        sha256 = _sha256([decides, self._project.code, *self._project.images(settings.data)])
        experiment = f"{self._name}-{sha256[:8]}-{seed}"
        result = self.find(experiment) or self._run(settings, changes, experiment, is_poor)
        if self._project.is_shared and result.commit:
            self._share(experiment, result.commit)
        return result

    def find(self, experiment: str) -> SettingResult | None:
        """Return the result of an experiment of this repository; None if there is none, or its history is nowhere."""
        for commit in git.experiments(self._project.root, experiment):
            with suppress(UserError):
                result = results.of_commit(self._project.root, experiment, commit, experiment)
                result.require_complete()
                content = result.require(paths.HISTORY)
                rows = csv.DictReader(content.decode().splitlines())
                names = ("validation_loss", "validation_accuracy")
                return SettingResult(
                    commit,
                    tuple({name: float(row[name] or "nan") for name in names} for row in rows if row[names[1]]),
                    hashlib.sha256(content).hexdigest(),
                    result.md5(paths.MODEL_ENVIRONMENT) or "",
                    json.loads(result.require(paths.METRICS))["accuracy"],
                )
        return None

    def _run(
        self,
        settings: params.Params,
        changes: Mapping[str, ParamValue],
        experiment: str,
        is_poor: Callable[[History], bool] | None,
    ) -> SettingResult:
        if not self._folder.exists():
            clone(self._project.root, self._project.commit, self._folder)
        start = self._log.stat().st_size
        print(f"\n{experiment}", flush=True)
        shutil.rmtree(self._folder / paths.RECIPES)  # with the links of the setting before
        run_git(self._folder, "checkout", "--force", self._project.commit, "--", paths.PARAMETERS, paths.RECIPES)
        dvc_command.edit_yaml(self._folder / paths.PARAMETERS, lambda content: dvc_lock.put(content, changes))
        recipe_links.create(self._folder, {settings.recipe: settings.chosen})
        dvc_command.fetch_tracked(self._project.root, self._project.commit, settings.data.path, self._folder)
        run_git(self._folder, "add", "--all")  # so that MLflow's patch holds new links too
        # Runs in MLflow and resume points lie in the user's repository.
        variables = {"DVC_ROOT": str(self._project.root), "DVC_EXP_NAME": experiment}
        variables["DVC_EXP_BASELINE_REV"] = self._project.commit
        so_far = partial(self._history, start, settings.chosen.train.num_epochs)
        with self._watched(so_far, is_poor) as stopped:
            is_done = dvc_command.reproduce_here(self._folder, self._environment, variables)
        if not is_done:
            if stopped.is_set():
                return SettingResult(history=so_far())
            reason = last_mistake(self._said(start)) or f"DVC could not run it: see {self._log}"
            if reason.startswith(_REFUSALS):
                return SettingResult(history=so_far(), failure=reason)
            raise UserError(f"{experiment}: {reason}")
        if (found := self.find(experiment)) is None:  # else another worker was faster with the same setting
            self._commit(experiment)
            found = self.find(experiment)
        assert found is not None
        return found

    def _share(self, experiment: str, commit: str) -> None:
        """Send an experiment to the DVC remote and to git's origin, unless they have it."""
        try:
            record = results.of_commit(self._project.root, experiment, commit, experiment).record
            sharing.share_outputs(self._project.root, record.outputs)
            self._project.push(experiment)
        except UserError as error:  # the search needs the result alone
            print(f"note: {experiment} is not shared: {error}", file=sys.stderr)

    def _said(self, start: int) -> str:
        """Return what the stages have printed from the byte `start` of the log on."""
        with self._log.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")

    def _history(self, start: int, num_epochs: int) -> History:
        """Return the history, without the last epoch, that the training has printed from the byte `start` of the log on."""
        rows = [each.groupdict() for each in _EPOCH.finditer(self._said(start))][: num_epochs - 1]
        return tuple({name: float(value) for name, value in row.items()} for row in rows)

    @contextmanager
    def _watched(
        self, so_far: Callable[[], History], is_poor: Callable[[History], bool] | None
    ) -> Iterator[threading.Event]:
        """End the stage as soon as its history so far is poor; the event then is set."""
        stopped, is_over = threading.Event(), threading.Event()

        def watch() -> None:
            while is_poor and not is_over.wait(_WATCH_SECONDS):
                if is_poor(so_far()):
                    stopped.set()
                    end_stages(self._folder)
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield stopped
        finally:
            is_over.set()
            watcher.join()

    def _commit(self, experiment: str) -> None:
        """Make what lies in the clone an experiment of the repository, as `dvc exp run` does."""
        base = self._project.commit
        run_git(self._folder, "add", "--all")
        tree = run_git(self._folder, "write-tree")
        commit = run_git(self._folder, "commit-tree", tree, "-p", base, "-m", f"dvc: commit experiment {experiment}")
        reference = self._project.reference(experiment)
        run_git(self._folder, "push", "--quiet", "--force", str(self._project.root), f"{commit}:{reference}")


def _sha256(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
