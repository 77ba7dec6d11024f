"""The database of a search: a task goes to one worker, is taken over from a dead one, and nothing depends on the rest."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from samebits.errors import UserError
from samebits.search import database as module
from samebits.search.database import Database


def opened(path: Path, search: str = "a") -> Database:
    return Database(f"sqlite:///{path}", search)


def test_each_task_goes_to_one_worker(tmp_path: Path) -> None:
    names, taken = [f"trial {number}" for number in range(30)], []

    def work() -> None:
        database = opened(tmp_path / "search.db")
        while name := database.take(names):
            taken.append(name)
            database.finish(name, {"y": name})

    threads = [threading.Thread(target=work) for _ in range(6)]  # which also create the tables at once
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(names)
    assert opened(tmp_path / "search.db").results() == {name: {"y": name} for name in names}
    assert opened(tmp_path / "search.db", "another").results() == {}


def test_a_task_is_taken_over_from_a_dead_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        f"from tests.test_search_database import *; print(opened(Path({str(tmp_path / 'search.db')!r})).take(['one']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "one\n"
    first, second = opened(tmp_path / "search.db"), opened(tmp_path / "search.db")
    assert first.take(["one"]) == "one"
    assert second.take(["one"]) is None, "its worker lives"
    second.release("one")
    assert second.take(["one"]) is None, "nobody else can leave it"
    # As of another machine, of which only the lease tells.
    monkeypatch.setattr(module, "numbered_in", lambda: "elsewhere")
    assert second.take(["one"]) is None
    monkeypatch.setattr(module, "LEASE_SECONDS", -1)
    first.renew("one")
    assert second.take(["one"]) == "one"


def test_a_lost_database_loses_nothing_that_ends_later(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    database = opened(path)
    assert database.register("rates") == 0 and opened(path, "b").register("rates") == 1
    assert database.take(["one", "two"]) == "one"
    path.unlink()
    database.renew("one")
    database.finish("one", {"y": 2})
    database.finish("one", {"y": 2})
    opened(path).finish("one", {"y": 3})  # of one that was slow, and whose task another took over
    assert database.results() == {"one": {"y": 2}}
    assert database.take(["one", "two"]) == "two"


@pytest.mark.parametrize("name", ["a%20b", "a?b", "ä #&;"])
def test_a_database_lies_in_the_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    Database(module.in_file(tmp_path / name / "search.db"), "a").register("rates")
    assert (tmp_path / name / "search.db").is_file() and len(list(tmp_path.iterdir())) == 1


def test_a_database_that_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.5)
    (tmp_path / "search.db").write_bytes(b"no database" * 1000)
    for url, words in (
        (f"sqlite:///{tmp_path}/search.db", "file is not a database.*remove it and start again"),
        ("postgresql+psycopg2://me:sec/secret@127.0.0.1:1/x", "the database .*127.0.0.1:1/x does not answer"),
        ("nothing", "nothing is no address of a database"),
        ("postgresql+psycopg2://me@host:PORT/x", "is no address of a database"),
        ("sqlite:////proc/nowhere/search.db", "cannot be used .*unable to open"),
    ):
        with pytest.raises(UserError) as caught:
            Database(url, "a").results()
        assert (
            re.search(words, str(caught.value)) and "\n" not in str(caught.value) and "secret" not in str(caught.value)
        )
    assert capsys.readouterr().err.count("note: waiting for the database") == 1
