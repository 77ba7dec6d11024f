"""Where MLflow keeps the runs, opened so that many processes can start at once and only ours is printed."""

import hashlib
import os
import queue
import re
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from samebits.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

EXPERIMENT = "samebits"
LOCK_SECONDS = 60
CALL_SECONDS = 60.0
_SQLITE = "sqlite:///"

# Defaults only: whoever sets one of these keeps it (MLFLOW_LOGGING_LEVEL=DEBUG shows what MLflow does).
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that never answers costs two requests of 5 s, not MLflow's eight of 120 s.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
# Where MLflow's database holds absolute addresses of artifacts.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


@dataclass(frozen=True)
class Store:
    """An open tracking store. Hold `lock` around "look, then write": it keeps out all other processes of this machine."""

    client: "MlflowClient"
    experiment_id: str
    lock: AbstractContextManager[Any]


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or mlflow.db in `root`, the DVC root; relative SQLite paths begin at `root`."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if uri.startswith(_SQLITE):
        # MLflow takes it from the working folder, which DVC deletes after a --temp or --queue experiment.
        return _SQLITE + str(root.absolute() / uri.removeprefix(_SQLITE))
    return uri


def without_password(text: str) -> str:
    """Leave out of `text` who logs in at an address, and with which password."""
    return re.sub(r"//[^/@\s]+@", "//", text)


def quiet_mlflow() -> None:
    """Set what MLflow reads from the environment: before its import, and on the main thread (setenv)."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def open_store(root: Path) -> Store:
    """Open the store of `tracking_uri(root)`; create database and experiment where they are not there yet.

    The artifacts of a SQLite store lie beside it, in mlartifacts/, also after both were moved or copied; a server decides
    for itself, and has CALL_SECONDS for each call. Raises whatever MLflow, SQLite or the lock raise, TimeoutError when a
    server takes longer, and UserError if MLflow could not keep its database at this path.
    """
    quiet_mlflow()
    from filelock import FileLock
    from mlflow import MlflowClient

    uri = tracking_uri(root)
    if not uri.startswith(_SQLITE):
        client = cast("MlflowClient", _InTime(MlflowClient(tracking_uri=uri)))
        name = f"samebits-{os.getuid()}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
        lock = FileLock(Path(tempfile.gettempdir()) / name, timeout=LOCK_SECONDS)
        return Store(client, _experiment(client, None).experiment_id, lock)

    database = Path(uri.removeprefix(_SQLITE))
    if {"?", "%"} & set(uri):
        # MLflow would take the path for an address: one database elsewhere, or a folder beside this one.
        raise UserError(
            f"MLflow keeps no database at {database}: rename the folder to one without ? and %, or set MLFLOW_TRACKING_URI"
        )
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{database}.lock", timeout=LOCK_SECONDS)
    # MLflow's schema migrations crash when two processes run them at once.
    with lock:
        _check_writable(database)
        client = MlflowClient(tracking_uri=uri)
        artifacts = database.parent / "mlartifacts"
        experiment = _experiment(client, artifacts.as_uri())
        _follow(database, experiment.artifact_location, artifacts)
        return Store(client, experiment.experiment_id, lock)


def _check_writable(database: Path) -> None:
    # MLflow tries for 100 s to open a database that it may not open, and does not say which file it is.
    try:
        with closing(sqlite3.connect(database, timeout=20)) as connection:
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise sqlite3.DatabaseError(f"{database}: {error}") from error


def _follow(database: Path, before: str, artifacts: Path) -> None:
    """Write into the database that its artifacts, at the address `before` so far, are in `artifacts` now."""
    if not (before.startswith("file:///") and before.endswith(f"/{artifacts.name}")):
        return
    folder = Path(url2pathname(urlsplit(before).path))
    if folder.resolve() == artifacts.resolve():
        return
    # If only the database came along, its runs keep what they have where it is.
    came_along = artifacts.is_dir() or not folder.is_dir()
    now = artifacts.as_uri()
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        for table, column in _ADDRESSES if came_along else _ADDRESSES[:1]:
            statement = (
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column} || '/', 1, ?) = ?"
            )
            connection.execute(statement, (now, len(before) + 1, len(before) + 1, f"{before}/"))


class _InTime:
    """A client of a server, each call of which ends in time: the time-out of requests begins anew with each byte."""

    def __init__(self, client: "MlflowClient") -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

            def ask() -> None:
                try:
                    answers.put((method(*arguments, **options), None))
                except BaseException as error:
                    answers.put((None, error))

            threading.Thread(target=ask, name="mlflow call", daemon=True).start()
            try:
                answer, error = answers.get(timeout=CALL_SECONDS)
            except queue.Empty:
                raise TimeoutError(f"no whole answer within {CALL_SECONDS:.0f} s") from None
            if error is not None:
                raise error
            return answer

        return call


def _experiment(client: "MlflowClient", artifact_location: str | None) -> "Experiment":
    from mlflow.exceptions import MlflowException

    if experiment := client.get_experiment_by_name(EXPERIMENT):
        return experiment
    try:
        return client.get_experiment(client.create_experiment(EXPERIMENT, artifact_location=artifact_location))
    except MlflowException:
        # On a server, where no lock of ours reaches, another process may have been faster.
        if experiment := client.get_experiment_by_name(EXPERIMENT):
            return experiment
        raise
