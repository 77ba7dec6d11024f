"""The store of a clone that was moved, copied or has an odd name, and a server that answers one byte at a time."""

import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from samebits.errors import UserError
from samebits.repository.git import Origin
from samebits.tracking import open_store, runs, store_errors
from samebits.tracking import store as stores
from samebits.tracking.store import Store
from tests.conftest import FOREIGN, Repository


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def template(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store") / "clone"
    root.mkdir()
    shutil.copy(empty_database, root)
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        write_run(root, "first")
    return root


def write_run(root: Path, name: str) -> str:
    """Write a run with one artifact, its name; return its id."""
    origin = Origin(None, b"", name, {"name.txt": name.encode()})
    process = runs.process_tags()
    return runs.open_run(open_store(root), runs.RunContent(origin, {}, "", {}, name), process).run_id


def names(store: Store) -> list[str]:
    """Read the artifact of each run, as the tracking page does."""
    found = store.client.search_runs([store.experiment_id])
    return sorted(Path(store.client.download_artifacts(run.info.run_id, "name.txt")).read_text() for run in found)


def files(root: Path) -> list[str]:
    return sorted(path.read_text() for path in (root / "mlartifacts").rglob("name.txt"))


def test_a_clone_that_was_moved_goes_on_where_it_is(template: Path, tmp_path: Path) -> None:
    before, now = tmp_path / "m0", tmp_path / "elsewhere" / "m #1"
    shutil.copytree(template, before)
    write_run(before, "second")
    now.parent.mkdir()
    before.rename(now)
    assert names(open_store(now)) == files(now) == ["first", "second"]
    write_run(now, "third")
    assert names(open_store(now)) == files(now) == ["first", "second", "third"]
    assert not before.exists()


def test_a_copy_is_a_store_of_its_own(template: Path, tmp_path: Path) -> None:
    copy = tmp_path / "m1"
    shutil.copytree(template, copy)
    write_run(copy, "second")
    assert names(open_store(copy)) == files(copy) == ["first", "second"]
    assert names(open_store(template)) == files(template) == ["first"]
    # The copy has its own first run too: nothing of it is needed where it came from.
    shutil.copytree(copy, tmp_path / "m2")
    shutil.rmtree(copy)
    assert names(open_store(tmp_path / "m2")) == ["first", "second"]


def test_a_database_that_was_copied_alone_leaves_the_old_runs_their_artifacts(template: Path, tmp_path: Path) -> None:
    shutil.copy(template / "mlflow.db", tmp_path)
    write_run(tmp_path, "second")
    assert names(open_store(tmp_path)) == ["first", "second"]
    assert files(tmp_path) == ["second"] and files(template) == ["first"]


def test_a_link_to_the_clone_is_no_move(template: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(template)
    address = template.as_uri()
    for root in (template, tmp_path / "link"):
        assert open_store(root).client.get_experiment_by_name(stores.EXPERIMENT).artifact_location.startswith(address)


@pytest.mark.parametrize("name", ["a b", "a#b", "ä 猫", "a&b=c;d"])
def test_an_odd_name_keeps_everything_in_the_clone(template: Path, tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    shutil.copytree(template, root)
    write_run(root, "second")
    assert names(open_store(root)) == files(root) == ["first", "second"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a?b", "a%20b"])
def test_where_mlflow_would_write_elsewhere_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=r"MLflow cannot keep a database at .*: rename the folder to one without \? and %"
    ):
        open_store(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_track_in_a_moved_clone(done: Repository) -> None:
    patches = len(list((done.root / "mlartifacts").rglob("params.yaml")))
    moved = Repository(done.root.with_name("moved"))
    done.root.rename(moved.root)
    assert moved.run("samebits", "track").stdout.endswith(": 0 new, 0 completed, 1 there already\n")
    moved.run("dvc", "exp", "run", "--temp", "--set-param", "recipes.lab.train.optimizer.momentum=0.8")
    assert len(list((moved.root / "mlartifacts").rglob("params.yaml"))) == patches + 1
    assert not done.root.exists()


class _Dripping(http.server.BaseHTTPRequestHandler):
    """Sends a byte of its answer ten times a second, for ever."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b" ")
                time.sleep(0.1)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dripping_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Dripping) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_drips_costs_its_time_and_one_line(
    tmp_path: Path, dripping_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dripping_server)
    monkeypatch.setattr(stores, "CALL_SECONDS", 1.0)
    started = time.monotonic()
    with (
        pytest.raises(UserError, match=r"cannot be used \(TimeoutError: no complete answer within 1 s\)"),
        store_errors(tmp_path),
    ):
        open_store(tmp_path)
    assert time.monotonic() - started < 30
