"""The health of the tracking database, which is only read: never created, written or migrated."""

import shlex
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import distribution
from pathlib import Path

from samebits.health import stale_locks
from samebits.health.check_result import CheckResult, note, ok, shown, wrong
from samebits.processes import in_time
from samebits.tracking.store import quiet_mlflow, tracking_uri, without_password

_ANSWER_SECONDS = 4.0
_MOVE_AWAY = "move it away; no result is in it, and the next run makes a new one"


def check(root: Path) -> Iterator[CheckResult]:
    """Check where MLflow keeps the runs of `root`: a SQLite file, or a server."""
    uri = tracking_uri(root)
    scheme = uri.partition(":")[0]
    if scheme == "sqlite":
        database = Path(uri.removeprefix("sqlite:///"))
        yield _database(shown(root, database), database)
        lock = Path(f"{database}.lock")
        if stale_locks.is_held(lock):
            yield note(f"{shown(root, lock)} is held by {stale_locks.whoever_opened(lock) or 'another user'}")
    elif scheme in ("http", "https"):
        yield _server(without_password(uri).rstrip("/"))
    else:
        yield note(f"MLFLOW_TRACKING_URI names a {scheme} store, which is not checked")


def _database(name: str, path: Path) -> CheckResult:
    if not path.exists() or path.stat().st_size == 0:
        return note(f"there is no {name} yet; the first run makes it")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            has_schema = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'alembic_version'").fetchone()
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if has_schema else None
    except sqlite3.Error as error:
        if error.sqlite_errorname == "SQLITE_BUSY":
            return note(f"{name} is being written to, and not checked")
        if error.sqlite_errorname == "SQLITE_READONLY_ROLLBACK":
            return note(f"{name} was left in the middle of a write; the next run undoes that")
        return wrong(f"{name} cannot be read ({error})", _MOVE_AWAY)
    if verdict != "ok":
        return wrong(f"{name} is damaged ({' '.join(verdict.split())})", _MOVE_AWAY)
    if row is None:
        return wrong(f"{name} has no schema of MLflow's", _MOVE_AWAY)
    return _schema(name, path, row[0])


def _schema(name: str, path: Path, revision: str) -> CheckResult:
    quiet_mlflow()
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    package = distribution("mlflow")  # importing it would take seconds
    migrations = ScriptDirectory(str(package.locate_file("mlflow/store/db_migrations")))
    installed = f"MLflow {package.version}"
    if revision == migrations.get_current_head():
        return ok(f"{name} is whole and has the schema of {installed}")
    try:
        migrations.get_revision(revision)
    except CommandError:
        what = f"{name} has a schema that {installed} does not know ({revision})"
        return wrong(what, "run `pip install -e .` for the MLflow of this commit, or move it away")
    what = f"{name} has the schema of an older MLflow ({revision}) than {installed}"
    return wrong(what, f"copy it, then run `mlflow db upgrade {shlex.quote(f'sqlite:///{path}')}`")


def _server(address: str) -> CheckResult:
    try:
        in_time(_ANSWER_SECONDS, lambda: urllib.request.urlopen(f"{address}/health", timeout=_ANSWER_SECONDS).close())
    except Exception as error:  # whatever it is, the answer is no
        return note(f"the tracking server {address} cannot be reached ({error}); runs go on without it")
    return ok(f"the tracking server {address} answers")
