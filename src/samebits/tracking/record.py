"""What the stages call. Training and evaluation never depend on MLflow: a failure costs one warning line."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from samebits.tracking import results, runs
from samebits.tracking.errors import short
from samebits.tracking.store import Store, open_store, quiet_mlflow

FLUSH_SECONDS = 3.0
WAIT_SECONDS = 60.0
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
        self._attempt = _Attempt(self._record)

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
            reason = self._attempt.wait(WAIT_SECONDS)
            _warn("this training", reason, "; the result itself is complete")
        else:
            reason = self._attempt.wait(WAIT_SECONDS_AFTER_FAILURE)
            _warn("this training", reason)

    def _record(self) -> None:
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


def record_evaluation(
    *,
    root: Path,
    workspace: Path,
    parameters: Mapping[str, Any],
    data_md5: str,
    checkpoint_md5: str,
    metrics: Mapping[str, Any],
    history: Iterable[Mapping[str, Any]],
    artifacts: Iterable[Path] = (),
    environment: Mapping[str, Any] | None = None,
) -> None:
    """Write the evaluation's metrics and pictures to the run of this result; create it where there is none.

    There is none when only the evaluation changed, when DVC restored the training from its cache, and when
    the database was lost: the new run then gets the whole history. Calling this again changes nothing.
    """

    def record() -> None:
        origin = runs.origin_of_workspace(workspace)
        result = results.Result(
            parameters=parameters,
            data_md5=data_md5,
            checkpoint_md5=checkpoint_md5,
            environment=environment or {},
            metrics=metrics,
            history=list(history),
            pictures={path.name: path.read_bytes() for path in artifacts},
            outputs=results.outputs_of_workspace(workspace),
        )
        store = open_store(root)
        runs.close_abandoned(store)
        results.write(store, result, origin)

    quiet_mlflow()
    attempt = _Attempt(record)
    attempt.start()
    _warn("this evaluation", attempt.wait(WAIT_SECONDS), "; the result itself is complete")


class _Attempt:
    """Work on a thread of its own, which may fail or hang without harm to the program."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self, seconds: float) -> str | None:
        """Wait until the work is done, at most `seconds`; why it is not done, in a few words."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            return f"not done after {seconds:.0f} s"
        return None if self._error is None else short(self._error)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error


def _warn(what: str, reason: str | None, reassurance: str = "") -> None:
    if reason is not None:
        print(f"warning: MLflow did not record {what} ({reason}){reassurance}", file=sys.stderr)


def _now() -> int:
    return int(time.time() * 1000)
