"""Who works on what, and what came out: a database that all workers of a search share, on one machine or on many.

It decides nothing. If it is lost, the same trials are proposed again, and found again as DVC experiments.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import NullPool

from samebits.errors import UserError
from samebits.processes import is_alive, numbered_in
from samebits.tracking.store import without_password

ADDRESS = "SAMEBITS_SEARCH_DATABASE"  # variable that names a database for several machines
LEASE_SECONDS = 60.0  # after which others take over the work of a worker that has not renewed its lease
WAIT_SECONDS = 300.0  # for a database that does not answer
_POLL_SECONDS = 1.0
_HOPELESS = ("unable to open database", "attempt to write a readonly")  # what SQLite says if waiting does not help
_DRIVER = "psycopg2-binary==2.9.13"

_TABLES = sql.MetaData()
_SEARCHES = sql.Table(
    "samebits_searches", _TABLES, sql.Column("id", sql.String(64), primary_key=True), sql.Column("name", sql.String(64))
)
_TASKS = sql.Table(
    "samebits_tasks",
    _TABLES,
    sql.Column("search", sql.String(64), primary_key=True),
    sql.Column("name", sql.String(64), primary_key=True),
    sql.Column("owner", sql.Text),
    sql.Column("leased_until", sql.Float),  # seconds since 1970
    sql.Column("result", sql.Text),  # as JSON, since the task has ended
)

Answer = TypeVar("Answer")


def in_file(path: Path) -> str:
    """Return the address of a SQLite database in the file `path`, whatever characters its name has."""
    return str(sql.URL.create("sqlite", database=str(path)))


class Database:
    """The tasks of one search in the database at `url`.

    A call waits for a database that does not answer, and says so; it raises UserError after WAIT_SECONDS.
    """

    def __init__(self, url: str, search_id: str) -> None:
        self._shown, self._search = without_password(url), search_id
        try:
            self._engine = sql.create_engine(url, poolclass=NullPool)
        except ModuleNotFoundError as error:
            raise UserError(f"{self._shown} needs {error.name}: run `pip install {_DRIVER}` for PostgreSQL") from None
        except (ArgumentError, NoSuchModuleError, ValueError):  # the last from a port that is no number
            example = "postgresql+psycopg2://USER:PASSWORD@HOST/NAME"
            raise UserError(f"{self._shown} is no address of a database: write it as {example}") from None
        # Process and time tell whether it still runs; the rest tells it from all others.
        self.owner = " ".join([numbered_in(), str(os.getpid()), str(time.time()), uuid.uuid4().hex])

    def register(self, name: str) -> int:
        """Note that the search is called `name`; return how many other searches bear that name."""

        def ask(connection: sql.Connection) -> int:
            with suppress(IntegrityError), connection.begin_nested():  # it is there already
                connection.execute(sql.insert(_SEARCHES).values(id=self._search, name=name))
            others = sql.select(sql.func.count()).where(_SEARCHES.c.name == name, _SEARCHES.c.id != self._search)
            return connection.scalar(others) or 0

        return self._ask(ask)

    def results(self) -> dict[str, dict[str, Any]]:
        """Return what came out of each task that has ended, by its name."""
        query = sql.select(_TASKS.c.name, _TASKS.c.result).where(_TASKS.c.search == self._search)
        rows = self._ask(lambda connection: connection.execute(query).all())
        return {name: json.loads(result) for name, result in rows if result}

    def take(self, names: Sequence[str]) -> str | None:
        """Take the first of the tasks `names` that has not ended and that nobody works on; None if there is none."""

        def ask(connection: sql.Connection) -> str | None:
            now = self._now(connection)
            rows = connection.execute(sql.select(_TASKS).where(_TASKS.c.search == self._search))
            known = {row.name: row for row in rows}
            lease = {"owner": self.owner, "leased_until": now + LEASE_SECONDS}
            for name in names:
                if name not in known:
                    try:
                        with connection.begin_nested():
                            connection.execute(sql.insert(_TASKS).values(search=self._search, name=name, **lease))
                        return name
                    except IntegrityError:  # somebody else was faster
                        continue
                row = known[name]
                if row.result is None and (row.leased_until < now or not _may_be_alive(row.owner)):
                    as_seen = (_TASKS.c.owner == row.owner, _TASKS.c.leased_until == row.leased_until)
                    if connection.execute(sql.update(_TASKS).where(*self._open(name), *as_seen).values(lease)).rowcount:
                        return name
            return None

        return self._ask(ask)

    def renew(self, name: str) -> None:
        """Keep a task that this worker has taken."""
        self._lease(name, LEASE_SECONDS)

    def release(self, name: str) -> None:
        """Leave a task that this worker has taken to others."""
        self._lease(name, -1)

    def finish(self, name: str, result: dict[str, Any]) -> None:
        """Note what came out of a task, unless somebody has: others may have built on that."""
        content = json.dumps(result)

        def ask(connection: sql.Connection) -> None:
            if not connection.execute(sql.update(_TASKS).where(*self._open(name)).values(result=content)).rowcount:
                with suppress(IntegrityError), connection.begin_nested():  # the database may have been lost meanwhile
                    connection.execute(sql.insert(_TASKS).values(search=self._search, name=name, result=content))

        self._ask(ask)

    def _lease(self, name: str, seconds: float) -> None:
        def ask(connection: sql.Connection) -> None:
            mine = sql.update(_TASKS).where(*self._open(name), _TASKS.c.owner == self.owner)
            connection.execute(mine.values(leased_until=self._now(connection) + seconds))

        self._ask(ask)

    def _open(self, name: str) -> tuple[sql.ColumnElement[bool], ...]:
        """Return what finds a task that has not ended."""
        return _TASKS.c.search == self._search, _TASKS.c.name == name, _TASKS.c.result.is_(None)

    def _now(self, connection: sql.Connection) -> float:
        """Return the time in seconds since 1970, by the clock that all workers share."""
        if self._engine.dialect.name == "sqlite":
            return time.time()
        return float(connection.scalar(sql.select(sql.extract("epoch", sql.func.clock_timestamp()))) or 0)

    def _ask(self, question: Callable[[sql.Connection], Answer]) -> Answer:
        deadline, is_told = time.monotonic() + WAIT_SECONDS, False
        while True:
            try:
                with self._engine.begin() as connection:
                    return question(connection)
            except DBAPIError as error:
                if self._engine.dialect.name == "sqlite" and not isinstance(error, OperationalError):
                    remedy = "remove it and start again: trials that have ended are found again"
                    raise UserError(f"{self._shown} cannot be used ({_reason(error)}): {remedy}") from None
                if self._create_tables():
                    continue
                if _reason(error).startswith(_HOPELESS):
                    raise UserError(f"{self._shown} cannot be used ({_reason(error)}): may you write there?") from None
                if time.monotonic() > deadline:
                    raise UserError(f"the database {self._shown} does not answer: {_reason(error)}") from None
                if not is_told:
                    print(
                        f"note: waiting for the database {self._shown} ({_reason(error)})", file=sys.stderr, flush=True
                    )
                    is_told = True
                time.sleep(_POLL_SECONDS)

    def _create_tables(self) -> bool:
        """Create the tables if they are missing; tell whether they were."""
        try:
            if set(_TABLES.tables) <= set(sql.inspect(self._engine).get_table_names()):
                return False
            _TABLES.create_all(self._engine)
        except DBAPIError:
            return False  # it does not answer, or another worker creates them at this moment
        return True


def _reason(error: DBAPIError) -> str:
    """Return what the driver of the database says, on one line."""
    return without_password((str(error.orig).splitlines() or [type(error).__name__])[0])


def _may_be_alive(owner: str) -> bool:
    """Tell whether a worker still runs, if it is one of this machine; of others only their leases tell."""
    place, pid, since, _ = owner.rsplit(" ", 3)
    return place != numbered_in() or is_alive(int(pid), float(since))
