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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from samebits.errors import UserError
from samebits.processes import is_alive, numbered_in
from samebits.tracking.store import without_password

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection
    from sqlalchemy.exc import DBAPIError

ADDRESS = "SAMEBITS_SEARCH_DATABASE"  # variable that names a database for several machines
LEASE_SECONDS = 60.0  # after which others take over the work of a worker that has not renewed its lease
WAIT_SECONDS = 300.0  # for a database that does not answer
_POLL_SECONDS = 1.0
_DRIVER = "psycopg2-binary==2.9.13"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Task:
    """What is known of a piece of work: `plan` since somebody took it, `result` since it ended."""

    plan: dict[str, Any] | None
    result: dict[str, Any] | None


class Database:
    """The tasks of one search in the database at `url`.

    A call waits for a database that does not answer, and says so; it raises UserError after WAIT_SECONDS.
    """

    def __init__(self, url: str, search_id: str) -> None:
        from sqlalchemy import Column, Float, MetaData, String, Table, Text, create_engine
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError
        from sqlalchemy.pool import NullPool

        self._shown, self._search = without_password(url), search_id
        try:
            self._engine = create_engine(url, poolclass=NullPool)
        except ModuleNotFoundError as error:
            raise UserError(f"{self._shown} needs {error.name}: run `pip install {_DRIVER}` for PostgreSQL") from None
        except (ArgumentError, NoSuchModuleError):
            example = "postgresql+psycopg2://USER:PASSWORD@HOST/NAME"
            raise UserError(f"{self._shown} is no address of a database: write it as {example}") from None
        self._tables = MetaData()
        self._searches = Table(
            "samebits_searches", self._tables, Column("id", String(64), primary_key=True), Column("name", String(64))
        )
        self._tasks = Table(
            "samebits_tasks",
            self._tables,
            Column("search", String(64), primary_key=True),
            Column("name", String(64), primary_key=True),
            Column("owner", Text),
            Column("leased_until", Float),  # seconds since 1970
            Column("plan", Text),
            Column("result", Text),
        )
        # Process and time tell whether it still runs; the rest tells it from all others.
        self.owner = " ".join([numbered_in(), str(os.getpid()), str(time.time()), uuid.uuid4().hex])

    def register(self, name: str) -> int:
        """Note that the search is called `name`; return how many other searches bear that name."""
        from sqlalchemy import func, insert, select
        from sqlalchemy.exc import IntegrityError

        def ask(connection: "Connection") -> int:
            mine = self._searches.c.id == self._search
            if not connection.scalar(select(func.count()).where(mine)):
                with suppress(IntegrityError), connection.begin_nested():  # somebody else was faster
                    connection.execute(insert(self._searches).values(id=self._search, name=name))
            return int(connection.scalar(select(func.count()).where(self._searches.c.name == name, ~mine)) or 0)

        return self._ask(ask)

    def tasks(self) -> dict[str, Task]:
        """Return all tasks that somebody has taken or that have ended, by name."""
        from sqlalchemy import select

        table = self._tasks.c
        query = select(table.name, table.plan, table.result).where(table.search == self._search)
        rows = self._ask(lambda connection: connection.execute(query).all())
        return {name: Task(*(each and json.loads(each) for each in rest)) for name, *rest in rows}

    def take(self, names: Sequence[str]) -> str | None:
        """Take the first of the tasks `names` that has not ended and that nobody works on; None if there is none."""
        from sqlalchemy import insert, select, update
        from sqlalchemy.exc import IntegrityError

        table = self._tasks.c

        def ask(connection: "Connection") -> str | None:
            now = self._now(connection)
            rows = connection.execute(
                select(table.name, table.owner, table.leased_until, table.result).where(table.search == self._search)
            )
            known = {name: (owner, until, result) for name, owner, until, result in rows}
            lease = {"owner": self.owner, "leased_until": now + LEASE_SECONDS}
            for name in names:
                if name not in known:
                    try:
                        with connection.begin_nested():
                            connection.execute(insert(self._tasks).values(search=self._search, name=name, **lease))
                        return name
                    except IntegrityError:  # somebody else was faster
                        continue
                owner, until, result = known[name]
                if result is None and (until < now or not _may_be_alive(owner)):
                    as_seen = (
                        *self._is(name),
                        table.owner == owner,
                        table.leased_until == until,
                        table.result.is_(None),
                    )
                    if connection.execute(update(self._tasks).where(*as_seen).values(lease)).rowcount:
                        return name
            return None

        return self._ask(ask)

    def plan(self, name: str, plan: dict[str, Any]) -> None:
        """Note what a task that this worker has taken consists of."""
        self._update(name, lambda _: {"plan": json.dumps(plan)})

    def renew(self, name: str) -> None:
        """Keep a task that this worker has taken."""
        self._update(name, lambda connection: {"leased_until": self._now(connection) + LEASE_SECONDS})

    def release(self, name: str) -> None:
        """Leave a task that this worker has taken to others."""
        self._update(name, lambda _: {"leased_until": 0.0})

    def finish(self, name: str, plan: dict[str, Any], result: dict[str, Any]) -> None:
        """Note what came out of a task, unless somebody has: others may have built on that."""
        from sqlalchemy import insert, update
        from sqlalchemy.exc import IntegrityError

        values = {"plan": json.dumps(plan), "result": json.dumps(result)}

        def ask(connection: "Connection") -> None:
            is_open = (*self._is(name), self._tasks.c.result.is_(None))
            if not connection.execute(update(self._tasks).where(*is_open).values(values)).rowcount:
                row = {"search": self._search, "name": name, "owner": self.owner, "leased_until": 0.0, **values}
                with suppress(IntegrityError), connection.begin_nested():  # the database may have been lost meanwhile
                    connection.execute(insert(self._tasks).values(row))

        self._ask(ask)

    def _update(self, name: str, values: "Callable[[Connection], dict[str, Any]]") -> None:
        from sqlalchemy import update

        mine = (*self._is(name), self._tasks.c.owner == self.owner, self._tasks.c.result.is_(None))
        self._ask(lambda connection: connection.execute(update(self._tasks).where(*mine).values(values(connection))))

    def _is(self, name: str) -> "tuple[ColumnElement[bool], ...]":
        return self._tasks.c.search == self._search, self._tasks.c.name == name

    def _now(self, connection: "Connection") -> float:
        """Return the time in seconds since 1970, by the clock that all workers share."""
        from sqlalchemy import extract, func, select

        if self._engine.dialect.name == "sqlite":
            return time.time()
        return float(connection.scalar(select(extract("epoch", func.clock_timestamp()))) or 0)

    def _ask(self, question: "Callable[[Connection], Answer]") -> Answer:
        from sqlalchemy.exc import DBAPIError, OperationalError

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
        from sqlalchemy import inspect
        from sqlalchemy.exc import DBAPIError

        try:
            if set(self._tables.tables) <= set(inspect(self._engine).get_table_names()):
                return False
            self._tables.create_all(self._engine)
        except DBAPIError:
            return False  # it does not answer, or another worker creates them at this moment
        return True


def _reason(error: "DBAPIError") -> str:
    """Return what the driver of the database says, on one line."""
    return without_password((str(error.orig).splitlines() or [type(error).__name__])[0])


def _may_be_alive(owner: str) -> bool:
    """Tell whether a worker still runs, if it is one of this machine; of others only their leases tell."""
    place, pid, since, _ = owner.rsplit(" ", 3)
    return place != numbered_in() or is_alive(int(pid), float(since))
