"""A training's run, written while it goes on."""

import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from samebits.tracking import runs
from samebits.tracking.attempt import WAIT_SECONDS, Attempt
from samebits.tracking.store import Store, open_store, quiet_mlflow

FLUSH_SECONDS = 3.0
# MLflow's import would hold up the first step, which imports much itself: on one interpreter neither gets on.
START_SECONDS = 2.0
# Whoever interrupts a training, or sees it fail, does not want to wait for its record.
WAIT_SECONDS_AFTER_FAILURE = 10.0


class TrainingRecord:
    """Records a training as an MLflow run while it goes on; all of it happens on a thread of its own.

    Leaving the block after `finish` makes the run FINISHED, an exception FAILED, Ctrl-C or an exit KILLED.
    Where the same result has a run already, that run gets this commit too, and the new one is deleted.
    """

    def __init__(
        self,
        *,
        root: Path,
        workspace: Path,
        parameters: Mapping[str, Any],
        data_md5: str,
        environment: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> None:
        self.run_id = run_id  # of the run to go on with; that of a new run as soon as it is there
        self._root = root
        self._workspace = workspace
        self._parameters = parameters
        self._data_md5 = data_md5
        self._environment = environment or {}
        self._reports: SimpleQueue[tuple[int, dict[str, Any]]] = SimpleQueue()
        self._ended = threading.Event()
        self._status = "FAILED"
        self._checkpoint_md5 = ""
        self._history: list[Mapping[str, Any]] = []
        self._attempt = Attempt("this training", self._record)

    def __enter__(self) -> Self:
        quiet_mlflow()
        self._attempt.start()
        return self

    def report(self, row: Mapping[str, Any], **system: float) -> None:
        """Take a row of the history (`step` and numbers) and facts about the machine; returns at once."""
        self._reports.put((_now(), {**row, **system}))

    def finish(self, *, checkpoint_md5: str, history: Iterable[Mapping[str, Any]]) -> None:
        """Say what came out. Rows of `history` that were not reported (those before a resume) are added."""
        self._checkpoint_md5 = checkpoint_md5
        self._history = list(history)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and self._checkpoint_md5:
            self._status = "FINISHED"
        elif kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit):
            self._status = "KILLED"
        self._ended.set()
        if self._status == "FINISHED":
            self._attempt.wait(WAIT_SECONDS, "; the result itself is complete")
        else:
            self._attempt.wait(WAIT_SECONDS_AFTER_FAILURE)

    def _record(self) -> None:
        self._ended.wait(START_SECONDS)
        origin = runs.origin_of_workspace(self._workspace)
        description = runs.describe(origin, self._parameters, self._data_md5, self._environment)
        store = open_store(self._root)
        runs.close_abandoned(store)
        logged = runs.reopen_run(store, self.run_id) if self.run_id else None
        if self.run_id is None or logged is None:
            self.run_id = runs.create_run(store, description)
            logged = set()
        run_id = self.run_id
        while not self._ended.wait(FLUSH_SECONDS):
            self._flush(store, run_id, logged)
        self._flush(store, run_id, logged)
        if self._status != "FINISHED":
            store.client.set_terminated(run_id, self._status)
            return
        runs.log_rows(store, run_id, ((_now(), row) for row in self._history), logged)
        tags = runs.result_tags(self._parameters, self._data_md5, self._checkpoint_md5)
        with store.lock:
            twin = runs.find_run(store, tags["samebits.content"])
            if twin and twin.info.run_id != run_id:
                runs.add_origin(store, twin, description)
                store.client.set_terminated(run_id, "FINISHED")
                store.client.delete_run(run_id)
            else:
                runs.complete_run(store, run_id, tags)

    def _flush(self, store: Store, run_id: str, logged: set[tuple[str, int]]) -> None:
        rows = []
        while not self._reports.empty():
            rows.append(self._reports.get())
        runs.log_rows(store, run_id, rows, logged)


def _now() -> int:
    return int(time.time() * 1000)
