"""CIFAR-10 found, verified or downloaded: a tiny data set in its own format, broken in every way, from real servers."""

import contextlib
import errno
import gzip
import hashlib
import io
import json
import os
import pickle
import pty
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samebits.data import normalization
from samebits.data.raw import RawDataset
from samebits.data.sources import cifar10
from samebits.data.sources.cifar10 import ARCHIVE, FOLDER, DownloadFailed
from samebits.data.vision import CIFAR10
from samebits.errors import as_one_line
from tests.conftest import PROJECT, Repository

BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
NUM_EACH = 20
NOBODY = 65534
NEEDS_MOUNT = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="a small full disk (tmpfs) takes root to mount"
)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Tiny:
    """CIFAR-10's format in small: `folder` holds the batches and the archive, `members` what torchvision is told."""

    folder: Path
    images: np.ndarray
    labels: np.ndarray
    members: dict[str, Any]

    @property
    def archive(self) -> bytes:
        return (self.folder / ARCHIVE).read_bytes()

    def dataset(self, url: str = "http://127.0.0.1:9/nothing-listens-here.tar.gz") -> type[CIFAR10]:
        return type("Tiny", (CIFAR10,), self.members | {"url": url})

    def is_whole(self, raw: RawDataset) -> bool:
        num_train = 5 * NUM_EACH
        return (
            np.array_equal(raw.train.images, self.images[:num_train])
            and np.array_equal(raw.train.labels, self.labels[:num_train])
            and np.array_equal(raw.test.images, self.images[num_train:])
            and np.array_equal(raw.test.labels, self.labels[num_train:])
        )


@pytest.fixture(scope="module")
def tiny() -> Iterator[Tiny]:
    # Not pytest's own folder, which an unprivileged user cannot enter.
    with tempfile.TemporaryDirectory(prefix="samebits-tests-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (6 * NUM_EACH, 32, 32, 3), dtype=np.uint8)
        labels = random.integers(0, 10, 6 * NUM_EACH)
        files = {"batches.meta": pickle.dumps({"label_names": list(cifar10.CLASS_NAMES)}, protocol=2)}
        for index, name in enumerate(BATCHES):
            part = slice(index * NUM_EACH, (index + 1) * NUM_EACH)
            rows = np.ascontiguousarray(images[part].transpose(0, 3, 1, 2)).reshape(NUM_EACH, 3072)
            files[name] = pickle.dumps({"data": rows, "labels": labels[part].tolist()}, protocol=2)
        (folder / FOLDER).mkdir()
        for name, content in files.items():
            (folder / FOLDER / name).write_bytes(content)
        with tarfile.open(folder / ARCHIVE, "w:gz") as tar:
            tar.add(folder / FOLDER, FOLDER)
        lists = [[name, md5(files[name])] for name in BATCHES]
        members = {
            "tgz_md5": md5((folder / ARCHIVE).read_bytes()),
            "train_list": lists[:5],
            "test_list": lists[5:],
            "meta": {"filename": "batches.meta", "key": "label_names", "md5": md5(files["batches.meta"])},
        }
        yield Tiny(folder, images, labels, members)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAMEBITS_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "data" / "raw"


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="samebits-tests-") as folder:
        Path(folder).chmod(0o755)
        workspace = Path(folder, "workspace")
        workspace.mkdir()
        workspace.chmod(0o777)  # prepare writes to the working folder
        with chdir(workspace):
            yield Path(folder)
        for root, _, _ in os.walk(folder):
            Path(root).chmod(0o755)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything: be someone who may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) if folder.exists() else []


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """All that writing, touching or removing something in `folder` would change."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in [folder, *folder.rglob("*")]
    }


def line_of(action: Callable[[], Any]) -> str:
    """The line that a stage would end with. Anything else than a mistake or a refusing machine comes through."""
    written = io.StringIO()
    with pytest.raises(SystemExit) as ended, contextlib.redirect_stderr(written), as_one_line():
        action()
        pytest.fail("no error")
    assert ended.value.code == 1
    (line,) = (line.removeprefix("error: ") for line in written.getvalue().splitlines() if line.startswith("error: "))
    assert not line.startswith("a file "), "it does not say which file"
    return line


# ---- found in a folder -----------------------------------------------------------------------------------------------


def test_batches_in_the_data_folder_are_read(tiny: Tiny, raw: Path) -> None:
    shutil.copytree(tiny.folder / FOLDER, raw / FOLDER)
    data = cifar10.load(raw, tiny.dataset())
    assert tiny.is_whole(data)
    assert data.class_names == ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert data.train.images.dtype == np.uint8 and data.train.labels.dtype == np.int64


@pytest.mark.parametrize("kept", [FOLDER, ARCHIVE])
@pytest.mark.parametrize("chosen", [True, False], ids=["SAMEBITS_DATA", "data.path"])
def test_a_folder_that_holds_the_data_is_only_read(
    kept: str, chosen: bool, tiny: Tiny, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = public / "mine"
    shutil.copytree(tiny.folder, folder)
    for other in {FOLDER, ARCHIVE} - {kept}:
        shutil.rmtree(folder / other) if other == FOLDER else (folder / other).unlink()
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555)
    before = snapshot(folder)
    if chosen:
        monkeypatch.setenv("SAMEBITS_DATA", str(folder))
    with as_nobody():
        data = cifar10.load(public / "unused" if chosen else folder, tiny.dataset())
    assert tiny.is_whole(data)
    assert snapshot(folder) == before
    assert listing(public / "unused") == []


def test_the_variable_may_name_the_archive_itself(tiny: Tiny, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = raw.parent / "mine"
    folder.mkdir(parents=True)
    shutil.copy(tiny.folder / ARCHIVE, folder / "renamed.tgz")
    before = snapshot(folder)
    monkeypatch.setenv("SAMEBITS_DATA", str(folder / "renamed.tgz"))
    assert tiny.is_whole(cifar10.load(raw, tiny.dataset()))
    assert snapshot(folder) == before
    assert not raw.exists()


def test_the_variable_goes_before_the_data_folder(tiny: Tiny, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (raw / FOLDER).mkdir(parents=True)  # broken, but nobody asked for it
    monkeypatch.setenv("SAMEBITS_DATA", str(tiny.folder))
    assert tiny.is_whole(cifar10.load(raw, tiny.dataset()))


def test_nothing_unpacked_is_left_in_the_temporary_folder(
    tiny: Tiny, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("SAMEBITS_DATA", str(tiny.folder / ARCHIVE))
    cifar10.load(raw, tiny.dataset())
    assert listing(tmp_path) == []


# ---- broken folders --------------------------------------------------------------------------------------------------


class Malicious:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = folder / FOLDER / name
        path.write_bytes(change(path.read_bytes()))

    return do


def instead(name: str, put: Callable[[Path], None]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        put(path)

    return do


def without_batches(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        shutil.rmtree(folder / FOLDER)
        (folder / ARCHIVE).write_bytes(change((folder / ARCHIVE).read_bytes()))

    return do


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def other_archive(_: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo(f"{FOLDER}/data_batch_1")
        tar.addfile(member)
    return buffer.getvalue()


def nothing(_: Path) -> None:
    pass


WRONG_PICKLE = pickle.dumps({"data": np.zeros((20, 3072), np.uint8), "labels": [0] * 20})
# What is done to a folder that held batches and archive, and the path in it that the line has to name.
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "training batch missing": (instead(f"{FOLDER}/data_batch_3", nothing), f"{FOLDER}/data_batch_3"),
    "test batch missing": (instead(f"{FOLDER}/test_batch", nothing), f"{FOLDER}/test_batch"),
    "class names missing": (instead(f"{FOLDER}/batches.meta", nothing), f"{FOLDER}/batches.meta"),
    "batch truncated": (spoil("data_batch_2", lambda old: old[:-1]), f"{FOLDER}/data_batch_2"),
    "batch empty": (spoil("data_batch_5", lambda old: b""), f"{FOLDER}/data_batch_5"),
    "one bit flipped": (spoil("test_batch", flip), f"{FOLDER}/test_batch"),
    "class names with a bit flipped": (spoil("batches.meta", flip), f"{FOLDER}/batches.meta"),
    "batch full of zeros": (spoil("data_batch_1", lambda old: bytes(len(old))), f"{FOLDER}/data_batch_1"),
    "batch longer": (spoil("data_batch_1", lambda old: old + b"\0"), f"{FOLDER}/data_batch_1"),
    "batch compressed": (spoil("data_batch_4", gzip.compress), f"{FOLDER}/data_batch_4"),
    "another object pickled": (spoil("data_batch_1", lambda old: WRONG_PICKLE), f"{FOLDER}/data_batch_1"),
    "a folder in place of a batch": (instead(f"{FOLDER}/data_batch_4", Path.mkdir), f"{FOLDER}/data_batch_4"),
    "a link to nothing in place of a batch": (
        instead(f"{FOLDER}/data_batch_1", lambda path: path.symlink_to("nowhere")),
        f"{FOLDER}/data_batch_1",
    ),
    "a link to itself in place of a batch": (
        instead(f"{FOLDER}/data_batch_1", lambda path: path.symlink_to(path.name)),
        f"{FOLDER}/data_batch_1",
    ),
    "no batch": (instead(FOLDER, Path.mkdir), f"{FOLDER}/data_batch_1"),
    "archive truncated": (without_batches(lambda old: old[: len(old) // 2]), ARCHIVE),
    "archive empty": (without_batches(lambda old: b""), ARCHIVE),
    "archive with a bit flipped": (without_batches(flip), ARCHIVE),
    "another archive": (without_batches(other_archive), ARCHIVE),
}
# Where nothing usable lies under either name.
NEITHER: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a file in place of the batches": (FOLDER, Path.touch),
    "a link to nothing in place of the batches": (FOLDER, lambda path: path.symlink_to("nowhere")),
    "a folder in place of the archive": (ARCHIVE, Path.mkdir),
    "a link to nothing in place of the archive": (ARCHIVE, lambda path: path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_data_folder_is_one_line_that_says_how_to_repair_it(name: str, tiny: Tiny, raw: Path) -> None:
    breaking, wrong = BROKEN[name]
    shutil.copytree(tiny.folder, raw)
    breaking(raw)
    before = listing(raw)
    line = line_of(lambda: cifar10.load(raw, tiny.dataset()))
    assert line.startswith(f"{raw / wrong} ")
    assert listing(raw) == before
    # What the line says to do has to help, and no more than is needed.
    removable = raw / wrong.split("/")[0]
    assert line.endswith(f"; remove {removable} to download it again")
    shutil.rmtree(removable) if removable.is_dir() else removable.unlink()
    with serving(tiny) as server:
        assert tiny.is_whole(cifar10.load(raw, tiny.dataset(server.url)))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_of_the_users_own_is_one_line(
    name: str, tiny: Tiny, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking, wrong = BROKEN[name]
    mine = tmp_path / "mine"
    shutil.copytree(tiny.folder, mine)
    breaking(mine)
    monkeypatch.setenv("SAMEBITS_DATA", str(mine))
    line = line_of(lambda: cifar10.load(raw, tiny.dataset()))
    assert line.startswith(f"{mine / wrong} ")
    assert line.endswith("; repair what SAMEBITS_DATA names")
    assert not raw.exists()


@pytest.mark.parametrize("name", NEITHER)
def test_something_else_under_the_datas_name_is_one_line(name: str, tiny: Tiny, raw: Path) -> None:
    raw.mkdir(parents=True)
    wrong, put = NEITHER[name]
    put(raw / wrong)
    with serving(tiny) as server:
        line = line_of(lambda: cifar10.load(raw, tiny.dataset(server.url)))
    assert str(raw) in line and FOLDER in line and ARCHIVE in line and "put " in line
    assert server.requests == []  # what lies there is not silently ignored


@pytest.mark.parametrize("wrong", [FOLDER, f"{FOLDER}/data_batch_1", f"{FOLDER}/batches.meta"])
def test_a_malicious_pickle_is_not_loaded(wrong: str, tiny: Tiny, raw: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny.folder, raw)
    marker = tmp_path / "executed"
    spoiled = [raw / wrong] if wrong != FOLDER else [raw / FOLDER / name for name in (*BATCHES, "batches.meta")]
    for path in spoiled:
        path.write_bytes(pickle.dumps(Malicious(marker)))
    line = line_of(lambda: cifar10.load(raw, tiny.dataset()))
    assert "is damaged: its MD5 is not" in line and str(spoiled[0]) in line
    assert not marker.exists()
    pickle.loads(spoiled[0].read_bytes())  # it would have
    assert marker.exists()


@pytest.mark.parametrize("where", ["nowhere", "empty", "a-file", "truncated.tar.gz", FOLDER])
def test_a_variable_that_names_no_data_is_one_line(
    where: str, tiny: Tiny, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a-file").write_text("hello")
    (tmp_path / "truncated.tar.gz").write_bytes(tiny.archive[:1000])
    shutil.copytree(tiny.folder / FOLDER, tmp_path / FOLDER)  # the folder that holds it was meant
    before = listing(tmp_path)
    monkeypatch.setenv("SAMEBITS_DATA", str(tmp_path / where))
    line = line_of(lambda: cifar10.load(raw, tiny.dataset()))
    assert str(tmp_path / where) in line and "SAMEBITS_DATA" in line
    assert ("MD5" if where in ("a-file", "truncated.tar.gz") else "put ") in line
    assert listing(tmp_path) == before


def test_a_file_as_the_data_folder_is_one_line(tiny: Tiny, raw: Path) -> None:
    raw.parent.mkdir(parents=True)
    raw.write_text("hello")
    assert str(raw) in line_of(lambda: cifar10.load(raw, tiny.dataset()))
    with serving(tiny) as server:
        line = line_of(lambda: cifar10.load(raw / "below", tiny.dataset(server.url)))
    assert str(raw) in line and "data.path" in line
    assert raw.read_text() == "hello"


@pytest.mark.parametrize("closed", [FOLDER, f"{FOLDER}/data_batch_2", f"{FOLDER}/batches.meta", ARCHIVE, "."])
def test_data_that_may_not_be_read_is_one_line(closed: str, tiny: Tiny, public: Path) -> None:
    folder = public / "mine"
    shutil.copytree(tiny.folder, folder)
    if closed == ARCHIVE:
        shutil.rmtree(folder / FOLDER)
    (folder / closed).chmod(0)
    with as_nobody():
        line = line_of(lambda: cifar10.load(folder, tiny.dataset()))
    (folder / closed).chmod(0o755)
    assert str(folder / closed) in line and "Permission denied" in line


def test_the_stage_says_it_in_one_line_and_writes_nothing(fresh: Repository) -> None:
    fresh.edit(lambda values: values["data"].update(source="cifar10"))
    (fresh.root / "data/raw" / FOLDER).mkdir(parents=True)
    before = listing(fresh.root / "data")
    done = fresh.run("python", "stages/prepare.py", ok=False)
    path = fresh.root / "data/raw" / FOLDER
    assert done.returncode == 1
    assert done.stderr == f"error: {path / 'data_batch_1'} is missing; remove {path} to download it again\n"
    assert done.stdout == ""
    assert listing(fresh.root / "data") == before


# ---- downloaded ------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Answers HEAD as told; for GET it promises the whole archive and then does as told."""

    server: "Server"

    def do_HEAD(self) -> None:
        self.server.requests.append("HEAD")
        self.promise()

    def do_GET(self) -> None:
        self.server.requests.append("GET")
        self.server.answer(self)

    def promise(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.archive)))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, archive: bytes, answer: Callable[[Handler], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.archive = archive
        self.answer = answer
        self.requests: list[str] = []
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/cifar-10-python.tar.gz"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up is what these tests are about


@contextmanager
def serving(tiny: Tiny, answer: "Callable[[Handler], None] | None" = None) -> Iterator[Server]:
    server = Server(tiny.archive, answer or whole)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def whole(handler: Handler) -> None:
    handler.promise()
    handler.wfile.write(handler.server.archive)


def half(handler: Handler) -> None:
    handler.promise()
    handler.wfile.write(handler.server.archive[: len(handler.server.archive) // 2])
    handler.wfile.flush()


def other_bytes(handler: Handler) -> None:
    handler.promise()
    handler.wfile.write(handler.server.archive[::-1])


def another_archive(handler: Handler) -> None:
    body = other_archive(b"")
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def login_page(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    handler.wfile.write(b"<html>Welcome to this hotel's network</html>")


def gone(handler: Handler) -> None:
    handler.send_error(404)


def half_a_chunk(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"100000\r\n" + handler.server.archive[:1000])


def reset(handler: Handler) -> None:
    half(handler)
    # Lingering for zero seconds makes a reset of a close.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()


def nonsense(handler: Handler) -> None:
    handler.wfile.write(b"\0\1\2 nonsense\r\n\r\n")


def in_circles(handler: Handler) -> None:
    handler.send_response(302)
    handler.send_header("Location", handler.server.url)
    handler.end_headers()


def silent(handler: Handler) -> None:
    handler.server.closing.wait(30)


def stalled(handler: Handler) -> None:
    half(handler)
    handler.server.closing.wait(30)


ANSWERS = [half, other_bytes, another_archive, login_page, gone, half_a_chunk, reset, nonsense, in_circles]


def assert_ways_to_go_on(line: str, url: str, raw: Path) -> None:
    assert url in line
    assert f"put {ARCHIVE} into {raw}" in line and "SAMEBITS_DATA" in line and "data.source to shapes" in line


def test_a_download_leaves_the_batches_and_nothing_else(
    tiny: Tiny, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(tiny) as server:
        assert tiny.is_whole(cifar10.load(raw, tiny.dataset(server.url)))
        assert listing(raw) == sorted([FOLDER, *(f"{FOLDER}/{name}" for name in (*BATCHES, "batches.meta"))])
        assert {path.name: path.read_bytes() for path in (raw / FOLDER).iterdir()} == {
            path.name: path.read_bytes() for path in (tiny.folder / FOLDER).iterdir()
        }
        server.requests.clear()
        assert tiny.is_whole(cifar10.load(raw, tiny.dataset(server.url)))
        assert server.requests == []
    assert socket.getdefaulttimeout() is None
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.__name__)
def test_a_failed_download_says_how_to_go_on_and_leaves_nothing(
    answer: Callable[[Handler], None], tiny: Tiny, raw: Path
) -> None:
    with serving(tiny, answer) as server:
        with pytest.raises(DownloadFailed) as caught:
            cifar10.load(raw, tiny.dataset(server.url))
        assert_ways_to_go_on(str(caught.value), server.url, raw)
        assert "\n" not in str(caught.value)
        assert listing(raw) == []
        assert socket.getdefaulttimeout() is None
        server.answer = whole
        assert tiny.is_whole(cifar10.load(raw, tiny.dataset(server.url)))


@pytest.mark.parametrize("answer", [silent, stalled], ids=lambda answer: answer.__name__)
def test_a_server_that_falls_silent_is_given_up(
    answer: Callable[[Handler], None], tiny: Tiny, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cifar10._TIMEOUT_SECONDS < 20  # what is promised; here in small
    monkeypatch.setattr(cifar10, "_TIMEOUT_SECONDS", 0.5)
    start = time.monotonic()
    with serving(tiny, answer) as server, pytest.raises(DownloadFailed, match="timed out"):
        cifar10.load(raw, tiny.dataset(server.url))
    assert time.monotonic() - start < 5
    assert listing(raw) == []


def test_a_server_that_never_answers_is_given_up(tiny: Tiny, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "_TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:  # the kernel accepts, nobody reads
        url = f"http://127.0.0.1:{server.getsockname()[1]}/cifar-10-python.tar.gz"
        start = time.monotonic()
        with pytest.raises(DownloadFailed) as caught:
            cifar10.load(raw, tiny.dataset(url))
        assert time.monotonic() - start < 5
    assert_ways_to_go_on(str(caught.value), url, raw)
    assert not raw.exists()


def test_a_refused_connection_says_how_to_go_on(tiny: Tiny, raw: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/cifar-10-python.tar.gz"
    with pytest.raises(DownloadFailed, match="refused") as caught:
        cifar10.load(raw, tiny.dataset(url))
    assert_ways_to_go_on(str(caught.value), url, raw)
    assert not raw.exists()


def test_a_data_folder_that_may_not_be_written_is_one_line(tiny: Tiny, public: Path) -> None:
    raw = public / "raw"
    raw.mkdir(mode=0o555)
    with serving(tiny) as server, as_nobody():
        line = line_of(lambda: cifar10.load(raw, tiny.dataset(server.url)))
    assert str(raw) in line and "Permission denied" in line and "data.path" in line
    assert listing(raw) == []


@NEEDS_MOUNT
@pytest.mark.parametrize("size", ["200k", "600k"], ids=["downloading", "unpacking"])
def test_a_full_disk_while_downloading_is_one_line(size: str, tiny: Tiny, tmp_path: Path) -> None:
    assert 200 * 1024 < len(tiny.archive) < 600 * 1024 < 2 * len(tiny.archive)
    with small_disk(tmp_path / "disk", size) as disk, serving(tiny) as server:
        line = line_of(lambda: cifar10.load(disk / "raw", tiny.dataset(server.url)))
        assert str(disk / "raw") in line and os.strerror(errno.ENOSPC) in line and "data.path" in line
        assert listing(disk / "raw") == []


@NEEDS_MOUNT
def test_a_full_disk_while_unpacking_an_archive_is_one_line(
    tiny: Tiny, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMEBITS_DATA", str(tiny.folder / ARCHIVE))
    with small_disk(tmp_path / "disk", "200k") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        line = line_of(lambda: cifar10.load(raw, tiny.dataset()))
        assert str(tiny.folder / ARCHIVE) in line and str(disk) in line and os.strerror(errno.ENOSPC) in line
        assert "TMPDIR" in line
        assert listing(disk) == []


# ---- several processes -----------------------------------------------------------------------------------------------

# Reads a tiny data set like a stage: the images' hash on standard output.
PROGRAM = """
import hashlib, json, sys
from pathlib import Path
from samebits.data.sources import cifar10
from samebits.data.vision import CIFAR10
data = cifar10.load(Path(sys.argv[1]), type("Tiny", (CIFAR10,), json.loads(sys.argv[2])))
print(hashlib.sha256(data.train.images.tobytes() + data.test.images.tobytes()).hexdigest())
"""


def start_reading(raw: Path, members: dict[str, Any], stderr: int) -> "subprocess.Popen[str]":
    command = ("python", "-c", PROGRAM, str(raw), json.dumps(members))
    environment = Repository(raw).environment_of(command) | {"PYTHONPATH": str(PROJECT / "src")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)


def text_of(terminal: int) -> str:
    """All that was written to a terminal whose other end is closed."""
    parts = []
    with suppress(OSError):  # how Linux says that there is no more
        while part := os.read(terminal, 10_000):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_a_killed_download_leaves_nothing_that_looks_whole(tiny: Tiny, raw: Path) -> None:
    def has_begun() -> bool:
        return any(path.is_file() and path.stat().st_size > 0 for path in raw.rglob("*"))

    with serving(tiny, stalled) as server:
        process = start_reading(raw, tiny.members | {"url": server.url}, subprocess.DEVNULL)
        try:
            wait_for(has_begun)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert has_begun()
    assert not cifar10.is_available(raw)
    with serving(tiny) as server:
        assert tiny.is_whole(cifar10.load(raw, tiny.dataset(server.url)))
        assert "GET" in server.requests
    # What was left may belong to a download on another machine, until it is so old that it cannot.
    (leftover,) = raw.glob(".download-*")
    shutil.rmtree(raw / FOLDER)
    os.utime(leftover, (time.time() - 2 * 24 * 3600,) * 2)
    with serving(tiny) as server:
        cifar10.load(raw, tiny.dataset(server.url))
    assert [path.name for path in raw.iterdir()] == [FOLDER]


def test_two_downloads_at_once_both_succeed_and_only_a_terminal_sees_a_bar(tiny: Tiny, raw: Path) -> None:
    def together(handler: Handler) -> None:
        handler.promise()
        # torchvision asks twice, for redirections and for the bytes: neither gets them before both have asked.
        wait_for(lambda: handler.server.requests.count("GET") == 4)
        handler.wfile.write(handler.server.archive)

    terminal, its_end = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    expected = hashlib.sha256(tiny.images.tobytes()).hexdigest()
    with serving(tiny, together) as server:
        members = tiny.members | {"url": server.url}
        seen = start_reading(raw, members, its_end)
        unseen = start_reading(raw, members, subprocess.PIPE)
        os.close(its_end)
        outputs = [process.communicate(timeout=120) for process in (seen, unseen)]
    assert [process.returncode for process in (seen, unseen)] == [0, 0]
    assert [out.strip() for out, _ in outputs] == [expected, expected]
    assert outputs[1][1] == ""
    assert "100%" in text_of(terminal)
    assert [path.name for path in raw.iterdir()] == [FOLDER]


# ---- the real one ----------------------------------------------------------------------------------------------------


def test_the_published_data_has_its_known_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.environ.get("SAMEBITS_TEST_DATA")
    if not folder:
        pytest.skip("SAMEBITS_TEST_DATA does not name a folder that holds CIFAR-10")
    monkeypatch.setenv("SAMEBITS_DATA", folder)
    data = cifar10.load(tmp_path / "unused")
    assert data.train.images.shape == (50_000, 32, 32, 3) and data.test.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.train.labels).tolist() == [5000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    # The first training image is a frog, the first test image a cat.
    assert data.class_names[data.train.labels[0]] == "frog" and data.class_names[data.test.labels[0]] == "cat"
    moments = normalization.of_images("per_channel", data.train.images)
    assert [round(value, 4) for value in moments.mean] == [0.4914, 0.4822, 0.4465]
    assert [round(value, 4) for value in moments.std] == [0.2470, 0.2435, 0.2616]
