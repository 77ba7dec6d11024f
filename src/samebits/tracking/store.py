"""The place where MLflow keeps runs: a database in the repository, or a server. MLflow itself prints nothing."""

import os
import re
import shlex
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from samebits.errors import UserError
from samebits.paths import ARTIFACTS, DATABASE
from samebits.processes import in_time
from samebits.repository.digests import md5_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

EXPERIMENT = "samebits"
LOCK_SECONDS = 60
CALL_SECONDS = 60.0
_SQLITE = "sqlite:///"
# Defaults only: a user's own setting wins (MLFLOW_LOGGING_LEVEL=DEBUG shows what MLflow does).
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
# The columns of MLflow's database that hold absolute addresses of artifacts.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


@dataclass(frozen=True)
class Store:
    """An open tracking store. Hold `lock` to read and then write: it keeps out all other processes of this machine."""

    client: "MlflowClient"
    experiment_id: str
    lock: AbstractContextManager[Any]


def tracking_uri(root: Path) -> str:
    """Return MLFLOW_TRACKING_URI, by default mlflow.db in `root`, the DVC root; a relative SQLite path starts at `root`."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{DATABASE}"
    if uri.startswith(_SQLITE):
        # MLflow would start at the working folder, which DVC deletes after a --temp or --queue experiment.
        return _SQLITE + str(root.absolute() / uri.removeprefix(_SQLITE))
    return uri


def without_password(text: str) -> str:
    """Return `text` without the user names and passwords of addresses in it."""
    return re.sub(r"//[^/@\s]*(:[^@\s]*)?@", "//", text)  # a password may hold slashes


def quiet_mlflow() -> None:
    """Set what MLflow reads from the environment; call it before MLflow is imported, on the main thread."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def store_errors(root: Path) -> Iterator[None]:
    """Turn whatever MLflow, its database or its server raises into a UserError."""
    quiet_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:  # requests raises OSError
        uri, reason = without_password(tracking_uri(root)), f"cannot be used ({short(error)})"
        if "out-of-date database schema" in str(error):
            reason = f"has the schema of an older MLflow: copy it, then run `mlflow db upgrade {shlex.quote(uri)}`"
        raise UserError(f"the tracking store {uri} {reason}") from None


def short(error: BaseException) -> str:
    """Return type and text of an error on one line, without passwords."""
    text = without_password(" ".join(str(error).split()).partition(" [SQL: ")[0])
    if len(text) > 180:  # a chain of causes: it begins with what was tried and ends with why it failed
        text = f"{text[:85]} ... {text[-85:]}"
    return f"{type(error).__name__}: {text}"


def open_store(root: Path) -> Store:
    """Open the store of `tracking_uri(root)`; create the database and the experiment if they are missing.

    The artifacts of a SQLite store lie beside it, even after both were moved or copied. A server chooses its own place and
    has CALL_SECONDS for each call. Raises what MLflow, SQLite or the lock raise, TimeoutError if a server takes longer, and
    UserError if MLflow could not keep its database at this path.
    """
    quiet_mlflow()
    from filelock import FileLock
    from mlflow import MlflowClient

    uri = tracking_uri(root)
    if not uri.startswith(_SQLITE):
        client = cast("MlflowClient", _TimeLimited(MlflowClient(tracking_uri=uri)))
        name = f"samebits-{os.getuid()}-{md5_of(uri.encode())}.lock"
        lock = FileLock(Path(tempfile.gettempdir()) / name, timeout=LOCK_SECONDS)
        return Store(client, _experiment(client, None).experiment_id, lock)

    database = Path(uri.removeprefix(_SQLITE))
    if {"?", "%"} & set(uri):  # MLflow would read the path as an address and create files elsewhere
        raise UserError(
            f"MLflow cannot keep a database at {database}: rename the folder to one without ? and %, or set MLFLOW_TRACKING_URI"
        )
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{database}.lock", timeout=LOCK_SECONDS)
    with lock:  # two processes that run MLflow's schema migrations at once crash
        _require_writable(database)
        client = MlflowClient(tracking_uri=uri)
        artifacts = database.parent / ARTIFACTS
        experiment = _experiment(client, artifacts.as_uri())
        _follow(database, experiment.artifact_location, artifacts)
        return Store(client, experiment.experiment_id, lock)


def _require_writable(database: Path) -> None:
    # MLflow retries for 100 s if it may not open a database, and does not name the file.
    try:
        with closing(sqlite3.connect(database, timeout=20)) as connection:
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise sqlite3.DatabaseError(f"{database}: {error}") from error


def _follow(database: Path, before: str, artifacts: Path) -> None:
    """Change the artifacts' address in the database from `before` to `artifacts`, for a clone that was moved or copied."""
    folder = Path(url2pathname(urlsplit(before).path))
    is_ours = before.startswith("file:///") and before.endswith(f"/{artifacts.name}")
    if not is_ours or folder.resolve() == artifacts.resolve():
        return
    # If only the database was copied, its runs keep the artifacts that they have elsewhere.
    came_along = artifacts.is_dir() or not folder.is_dir()
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        for table, column in _ADDRESSES if came_along else _ADDRESSES[:1]:
            statement = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE instr({column} || '/', ?) = 1"
            connection.execute(statement, (artifacts.as_uri(), len(before) + 1, f"{before}/"))


class _TimeLimited:
    """A client of a server whose calls all end in time."""

    def __init__(self, client: "MlflowClient") -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._client, name)
        return lambda *arguments, **options: in_time(CALL_SECONDS, partial(call, *arguments, **options))


def _experiment(client: "MlflowClient", artifact_location: str | None) -> "Experiment":
    from mlflow.exceptions import MlflowException

    if experiment := client.get_experiment_by_name(EXPERIMENT):
        return experiment
    try:
        return client.get_experiment(client.create_experiment(EXPERIMENT, artifact_location=artifact_location))
    except MlflowException:
        # On a server, which our lock does not cover, another process may have been faster.
        if experiment := client.get_experiment_by_name(EXPERIMENT):
            return experiment
        raise
