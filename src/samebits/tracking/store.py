"""Where MLflow keeps the runs, opened so that many processes can start at once and only ours is printed."""

import hashlib
import os
import re
import sqlite3
import tempfile
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "samebits"
LOCK_SECONDS = 60
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

    The artifacts of a SQLite store lie beside it, in mlartifacts/; a server decides for itself. Raises
    whatever MLflow, SQLite or the lock raise.
    """
    quiet_mlflow()
    from filelock import FileLock
    from mlflow import MlflowClient

    uri = tracking_uri(root)
    if not uri.startswith(_SQLITE):
        client = MlflowClient(tracking_uri=uri)
        name = f"samebits-{os.getuid()}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
        lock = FileLock(Path(tempfile.gettempdir()) / name, timeout=LOCK_SECONDS)
        return Store(client, _experiment_id(client, None), lock)

    database = Path(uri.removeprefix(_SQLITE))
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{database}.lock", timeout=LOCK_SECONDS)
    # MLflow's schema migrations crash when two processes run them at once.
    with lock:
        _check_writable(database)
        client = MlflowClient(tracking_uri=uri)
        artifacts = database.parent / "mlartifacts"
        return Store(client, _experiment_id(client, artifacts.as_uri()), lock)


def _check_writable(database: Path) -> None:
    # MLflow tries for 100 s to open a database that it may not open, and does not say which file it is.
    try:
        with closing(sqlite3.connect(database, timeout=20)) as connection:
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise sqlite3.DatabaseError(f"{database}: {error}") from error


def _experiment_id(client: "MlflowClient", artifact_location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    if experiment := client.get_experiment_by_name(EXPERIMENT):
        return experiment.experiment_id
    try:
        return client.create_experiment(EXPERIMENT, artifact_location=artifact_location)
    except MlflowException:
        # On a server, where no lock of ours reaches, another process may have been faster.
        if experiment := client.get_experiment_by_name(EXPERIMENT):
            return experiment.experiment_id
        raise
