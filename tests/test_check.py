"""`samebits check`: real clones, caches, databases and locks, broken in every way that it has to find, and mended."""

import functools
import hashlib
import http.server
import json
import os
import re
import resource
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from samebits import pins
from samebits.data.sources import cifar10
from samebits.errors import UserError
from samebits.health import cached_objects, lost_experiments, stale_locks, tracking_database
from samebits.health import check as checking
from samebits.repository import git
from samebits.repository.cache import Cache
from samebits.tracking.store import quiet_mlflow
from tests.conftest import FOREIGN, IDENTITY, Repository, built_once, copy_tree, stages_run

NOBODY = 65534
COMMAND = """
import sys
from pathlib import Path
from samebits.health.check import check
sys.exit(check(Path.cwd(), repair="--repair" in sys.argv))
"""
# A pipeline that DVC runs in a second: a file, a file made from it, and a folder.
PIPELINE = {
    "first": {"cmd": "python -c \"open('first.bin', 'wb').write(bytes(50000))\"", "outs": ["first.bin"]},
    "second": {
        "cmd": "cp first.bin second.bin; echo more >> second.bin",
        "deps": ["first.bin"],
        "outs": ["second.bin"],
    },
    "third": {"cmd": "mkdir -p folder; echo a > folder/a; echo b > folder/b", "outs": ["folder"]},
}


# Each check would parse the descriptions of 180 libraries, which stay what they are.
version_looked_up_once = functools.cache(version)


@pytest.fixture(autouse=True)
def only_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pins, "version", version_looked_up_once)


@pytest.fixture(scope="session")
def small_template(fresh_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(root: Path) -> None:
        copy_tree(fresh_template, root)
        repository = Repository(root)
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": PIPELINE}))
        # No check looks at them.
        for folder in ("benchmarks", "docs", "hashes", "recipes", "searches", "src", "stages"):
            shutil.rmtree(root / folder)
        repository.run("dvc", "remote", "add", "--default", "store", str(root.parent / "remote"))
        assert repository.repro() == ["first", "second", "third"]
        repository.run("dvc", "push")
        repository.commit("a small pipeline")

    return built_once(tmp_path_factory, "small", build)


@pytest.fixture
def small(small_template: Path, tmp_path: Path) -> Repository:
    """A clone of the project with a small pipeline in place of its own, run, committed and pushed."""
    root = tmp_path / "samebits"
    copy_tree(small_template, root)
    return Repository(root)


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Any:
    """Check a clone; give the exit code and the lines."""

    def run(repository: Repository, repair: bool = False) -> tuple[int, list[str]]:
        code = checking.check(repository.root, repair)
        out, err = capsys.readouterr()
        assert err == ""
        *lines, verdict = out.splitlines()
        wrong = [line for line in lines if line.startswith("wrong ")]
        assert all(re.match("(ok   |wrong|note )  [^ ]", line) for line in lines)
        assert code == bool(wrong)
        assert verdict == {0: "healthy", 1: "1 thing is wrong"}.get(len(wrong), f"{len(wrong)} things are wrong")
        return code, lines

    return run


def marked(mark: str, lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(mark)]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def cached(repository: Repository, output: str) -> Path:
    """The object of an output, in the clone's own cache."""
    stages = yaml.safe_load((repository.root / "dvc.lock").read_text())["stages"].values()
    name = next(each["md5"] for stage in stages for each in stage["outs"] if each["path"] == output)
    return repository.root / ".dvc/cache/files/md5" / name[:2] / name[2:]


def damage(path: Path, how: str = "flipped") -> None:
    """Break an object as a disk does: nothing but its bytes (or its length) changes."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    with open(path, "r+b") as file:
        if how == "flipped":
            file.write(content)
        else:
            file.truncate({"truncated": len(content) // 2, "emptied": 0}[how])
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def everything(root: Path) -> dict[str, Any]:
    """Every file below `root`, with its bytes and all that a write would change."""
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[str(path)] = (status.st_ino, status.st_mode, status.st_nlink, status.st_mtime_ns, content)
    return found


def up_to_date(repository: Repository) -> bool:
    return "Data and pipelines are up to date." in repository.run("dvc", "status").stdout


def test_a_healthy_clone_says_so_and_is_not_changed(done: Repository) -> None:
    before = everything(done.root)
    checked = done.run("python", "-c", COMMAND)
    assert checked.stderr == ""
    *lines, verdict = checked.stdout.splitlines()
    assert verdict == "healthy"
    assert marked("wrong", lines) == []
    (cache,) = [line for line in lines if "DVC's cache" in line]
    assert re.fullmatch(r"ok     DVC's cache \.dvc/cache: \d+ objects, \d+\.\d MB, all whole", cache)
    assert "mlflow.db is whole and has the schema of MLflow" in checked.stdout
    assert "torchvision" in checked.stdout and "no lock of DVC's is held" in checked.stdout
    assert everything(done.root) == before


def test_in_a_fresh_clone_what_is_not_there_yet_is_not_wrong(fresh: Repository, check: Any) -> None:
    assert "CIFAR-10" not in "".join(check(fresh)[1])  # its data source is shapes
    fresh.edit(lambda values: values["data"].update(source="cifar10"))
    before = everything(fresh.root)
    code, lines = check(fresh)
    assert code == 0
    notes = marked("note", lines)
    assert ["cache" in line or "mlflow.db" in line or "CIFAR-10" in line for line in notes] == [True, True, True]
    assert everything(fresh.root) == before


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied"])
def test_a_damaged_object_is_named_and_only_named(small: Repository, check: Any, how: str) -> None:
    broken = cached(small, "first.bin")
    damage(broken, how)
    assert how != "flipped" or up_to_date(small)  # DVC does not see it
    before = everything(small.root)
    code, lines = check(small)
    assert code == 1
    (line,) = marked("wrong", lines)
    assert f"{broken.relative_to(small.root)} (first.bin) is damaged" in line and md5(broken) in line
    assert "the copy" not in line and line.endswith("run `samebits check --repair`, which removes it")
    assert everything(small.root) == before


@pytest.mark.parametrize("remedy", ["repro", "commit"])
def test_repair_removes_it_and_dvc_brings_its_bytes_back(small: Repository, check: Any, remedy: str) -> None:
    broken, output = cached(small, "second.bin"), small.root / "second.bin"
    whole = broken.read_bytes()
    damage(broken)
    assert check(small)[0] == 1
    code, lines = check(small, repair=True)
    assert code == 0 and not broken.exists() and output.read_bytes() == whole
    (line,) = [line for line in marked("note", lines) if "damaged" in line]
    ways = "`dvc commit` puts it back from the workspace, where it is whole, or `dvc pull` fetches it, or `dvc repro`"
    assert f"(second.bin) was damaged; removed: {ways} rebuilds it" in line
    assert stages_run(small.run("dvc", remedy).stdout) == (["second"] if remedy == "repro" else [])
    assert broken.read_bytes() == output.read_bytes() == whole
    assert small.status() == "" and check(small)[0] == 0


@pytest.mark.parametrize(("link", "remedy"), [("hardlink", "pull"), ("symlink", "repro"), ("copy", "pull")])
def test_repair_removes_a_copy_that_dvc_takes_for_whole(small: Repository, check: Any, link: str, remedy: str) -> None:
    broken, output = cached(small, "first.bin"), small.root / "first.bin"
    whole = broken.read_bytes()
    if link == "copy":
        damage(broken)
        output.unlink()
        small.run("dvc", "checkout", "first.bin")
    else:
        small.run("dvc", "config", "cache.type", link)
        small.run("dvc", "checkout", "--relink")
        small.commit("links")
        assert output.is_symlink() if link == "symlink" else output.samefile(broken)
        damage(broken)
    assert up_to_date(small) and output.read_bytes() != whole
    (line,) = marked("wrong", check(small)[1])
    assert "is damaged" in line and "and so is the copy of it in the workspace" in line

    code, lines = check(small, repair=True)
    assert code == 0
    (line,) = [line for line in marked("note", lines) if "damaged" in line]
    assert line.endswith("removed: `dvc pull` fetches it, or `dvc repro` rebuilds it")
    assert not broken.exists() and not os.path.lexists(output)
    small.run("dvc", remedy)
    assert broken.read_bytes() == output.read_bytes() == whole
    assert small.status() == "" and check(small)[0] == 0


def test_an_output_that_was_changed_on_purpose_is_left_alone(small: Repository, check: Any) -> None:
    damage(cached(small, "first.bin"))
    (small.root / "first.bin").write_text("mine")
    code, _ = check(small, repair=True)
    assert code == 0 and (small.root / "first.bin").read_text() == "mine"


@pytest.mark.parametrize("which", ["a file of it", "its list of files"])
def test_an_object_of_a_folder(small: Repository, check: Any, which: str) -> None:
    listing = cached(small, "folder")
    entries = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_bytes())}
    if which == "its list of files":
        broken, name = listing, "folder"
    else:
        broken, name = listing.parents[1] / entries["b"][:2] / entries["b"][2:], "folder/b"
    whole = broken.read_bytes()
    damage(broken)
    (line,) = marked("wrong", check(small)[1])
    assert f"({name}) is damaged" in line
    assert check(small, repair=True)[0] == 0 and not broken.exists()
    assert small.repro() == ["third"]
    assert broken.read_bytes() == whole and check(small)[0] == 0 and small.status() == ""


def test_a_shared_cache_outside_and_what_is_no_object_in_it(small: Repository, check: Any, tmp_path: Path) -> None:
    cache = tmp_path / "shared"
    (small.root / ".dvc/cache").rename(cache)
    small.run("dvc", "cache", "dir", "--local", str(cache))
    for name in ("files/md5/00/1234.tmp", f"files/md5/00/{'0' * 30}.Xy_1.tmp", "files/md5/notes", "runs/00/11"):
        (cache / name).parent.mkdir(exist_ok=True, parents=True)
        (cache / name).write_text("no object")
    code, lines = check(small)
    assert code == 0 and any(f"DVC's cache {cache}: 5 objects" in line for line in lines)

    unknown = cache / "files/md5/00" / ("0" * 30)
    unknown.write_text("what another revision made")
    (line,) = marked("wrong", check(small)[1])
    assert f"{unknown} (no output of this dvc.lock) is damaged" in line
    code, lines = check(small, repair=True)
    assert code == 0 and not unknown.exists()
    assert "removed: `dvc fetch --all-commits` fetches it" in "\n".join(lines)
    assert len([path for path in cache.rglob("*") if path.is_file()]) >= 9


def test_repair_never_follows_a_link_out_of_the_cache(small: Repository, check: Any, tmp_path: Path) -> None:
    first, second = cached(small, "first.bin"), cached(small, "second.bin")
    shutil.move(first, tmp_path / "precious")
    first.symlink_to(tmp_path / "precious")
    shutil.move(second.parent, tmp_path / "folder")
    second.parent.symlink_to(tmp_path / "folder")
    assert check(small)[0] == 0  # DVC reads through links, and what it reads is whole
    damage(first.resolve())
    damage(second.resolve())
    before = everything(tmp_path)
    code, lines = check(small, repair=True)
    assert code == 1 and len(marked("wrong", lines)) == 2
    assert all("is damaged, but leads out of the cache, to " in line for line in marked("wrong", lines))
    assert everything(tmp_path) == before


def test_an_object_that_cannot_be_read_is_wrong_and_stays(small: Repository, check: Any) -> None:
    first, second = cached(small, "first.bin"), cached(small, "second.bin")
    first.unlink()
    first.mkdir()
    second.unlink()
    second.symlink_to("nothing")
    code, lines = check(small, repair=True)
    assert code == 1
    reasons = sorted(line.split("cannot be read (")[1] for line in marked("wrong", lines))
    assert reasons == [f"{why}): make it readable, or remove it" for why in ("a link to nothing", "not a file")]
    assert first.is_dir() and second.is_symlink()


def test_an_object_without_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        broken = Path(folder).resolve() / "files/md5/00" / ("0" * 30)
        broken.parent.mkdir(parents=True)
        broken.write_text("secret")
        broken.chmod(0)
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
        try:
            _, (fault,) = cached_objects.hash_all(Cache(Path(folder)))
        finally:
            os.seteuid(os.getuid())
        assert fault == cached_objects.Fault(broken, reason="Permission denied")


def test_an_object_that_was_mended_meanwhile_is_not_removed(tmp_path: Path) -> None:
    path = (
        tmp_path.resolve() / "files/md5" / hashlib.md5(b"whole").hexdigest()[:2] / hashlib.md5(b"whole").hexdigest()[2:]
    )
    path.parent.mkdir(parents=True)
    path.write_bytes(b"broken")
    _, (fault,) = cached_objects.hash_all(Cache(tmp_path.resolve()))
    path.write_bytes(b"whole")
    with pytest.raises(UserError, match="has changed"):
        cached_objects.remove(fault, [])
    assert path.read_bytes() == b"whole"


def test_what_a_killed_repair_leaves_is_found_again(
    small: Repository, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.run("dvc", "config", "cache.type", "hardlink")
    small.run("dvc", "checkout", "--relink")
    broken, output = cached(small, "first.bin"), small.root / "first.bin"
    damage(broken)
    unlink = Path.unlink

    def fail_at_the_object(path: Path, missing_ok: bool = False) -> None:
        if path == broken:
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fail_at_the_object)
        (line,) = marked("wrong", check(small, repair=True)[1])
    assert "is damaged, but cannot be removed (Permission denied): fix its permissions" in line
    assert broken.exists() and not output.exists()
    assert check(small)[0] == 1 and check(small, repair=True)[0] == 0 and not broken.exists()


def lose(repository: Repository, *outputs: str) -> None:
    for output in outputs:
        cached(repository, output).unlink()
        (repository.root / output).unlink()


def test_a_lost_output_is_a_note_where_it_can_be_fetched(small: Repository, check: Any) -> None:
    lose(small, "second.bin")
    code, lines = check(small)
    (line,) = [line for line in lines if "second.bin" in line]
    assert code == 0 and line == (
        "note   neither in DVC's cache nor in the workspace: 1 of 3 outputs: second.bin: "
        "`dvc pull` fetches them, or `dvc repro` makes them"
    )
    small.run("dvc", "pull")
    assert not any("second.bin" in line for line in check(small)[1])


def test_a_lost_output_is_wrong_where_the_others_of_its_stage_are(small: Repository, check: Any) -> None:
    small.run("dvc", "remote", "remove", "store")
    pipeline = {"both": {"cmd": "echo a > a.bin; echo b > b.bin", "outs": ["a.bin", "b.bin"]}}
    (small.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": pipeline}))
    (small.root / "dvc.lock").unlink()
    small.repro()
    lose(small, "a.bin")
    code, lines = check(small)
    (line,) = marked("wrong", lines)
    assert code == 1 and line.endswith("1 of 2 outputs: a.bin: `dvc repro` makes them")
    lose(small, "b.bin")  # as in a fresh clone
    code, lines = check(small)
    assert code == 0 and any("2 of 2 outputs: a.bin, b.bin: `dvc repro`" in line for line in marked("note", lines))
    assert small.repro() == ["both"] and not any(".bin" in line for line in check(small)[1])


def test_an_output_that_only_the_workspace_has(small: Repository, check: Any) -> None:
    object_of_it = cached(small, "second.bin")
    object_of_it.unlink()
    code, lines = check(small)
    (line,) = [line for line in lines if "second.bin" in line]
    assert code == 0 and line == (
        "note   in the workspace and not in DVC's cache: second.bin: `dvc commit` puts them there"
    )
    small.run("dvc", "commit")
    assert object_of_it.exists() and not any("second.bin" in line for line in check(small)[1])
    cached(small, "folder").unlink()
    assert "note   in the workspace and not in DVC's cache: folder: `dvc commit` puts them there" in check(small)[1]
    (small.root / "folder/a").write_text("mine")  # not what was recorded
    (line,) = [line for line in check(small)[1] if ": folder: " in line]
    assert line.startswith("note   neither in DVC's cache nor in the workspace: 1 of 3 outputs: folder: `dvc pull`")


def test_a_damaged_record_of_the_run_cache(small: Repository, check: Any) -> None:
    (record,) = (small.root / ".dvc/cache/runs").glob("*/*/*")  # of `second`, the only stage with dependencies
    whole, name = record.read_bytes(), record.relative_to(small.root)
    for content in (b"garbage", b"", b"\xff\xfe", b"cmd: echo\n", b"- 1\n"):
        record.write_bytes(content)
        (line,) = marked("wrong", check(small)[1])
        assert line.startswith(
            f"wrong  {name}, a record of a stage that ran, is damaged: run `samebits check --repair`"
        )
    code, lines = check(small, repair=True)
    assert code == 0 and not record.exists()
    assert any(f"{name}, a record of a stage that ran, is damaged; removed" in line for line in marked("note", lines))
    assert small.repro("--force", "--single-item", "second") == ["second"] and record.read_bytes() == whole


def test_an_experiment_that_lost_its_name_is_found_again(quick: Repository) -> None:
    quick.run("dvc", "exp", "run", "--queue", "--name", "alpha", "--set-param", "seed=3")
    quick.work_off_queue()
    deadline = time.monotonic() + 120
    while "Success" not in quick.run("dvc", "queue", "status").stdout:
        assert time.monotonic() < deadline
        time.sleep(1)
    (ref,) = [ref for ref in git.references(quick.root, "refs/exps") if ref.endswith("/alpha")]
    commit = git.references(quick.root, "refs/exps")[ref]
    assert list(lost_experiments.check(quick.root)) == []
    quick.run("git", "update-ref", "-d", ref)  # what is left when two workers end in the same moment
    (result,) = lost_experiments.check(quick.root)
    assert result.mark == "note" and "experiment alpha has finished" in result.what
    quick.run(*result.remedy.split("`")[1].split())
    assert git.references(quick.root, "refs/exps")[ref] == commit and list(lost_experiments.check(quick.root)) == []
    quick.run("git", "update-ref", "-d", ref)
    quick.run(*result.remedy.split("`")[3].split())  # for whoever removed it
    assert list(lost_experiments.check(quick.root)) == []


def test_a_broken_lock_file_of_the_pipeline(small: Repository, check: Any) -> None:
    (small.root / "dvc.lock").write_text("<<<<<<< HEAD\n")
    (line,) = marked("wrong", check(small)[1])
    assert "dvc.lock is damaged: " in line and line.endswith("; restore it with `git checkout dvc.lock`")


def test_the_bar_is_for_terminals(small: Repository) -> None:
    terminal, its_end = os.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    program = "from samebits.health import cached_objects as it; it.hash_all(it.Cache(it.Path('.dvc/cache')))"
    subprocess.run([sys.executable, "-c", program], cwd=small.root, stderr=its_end, check=True)
    shown = os.read(terminal, 10_000)
    for end in (terminal, its_end):
        os.close(end)
    assert b"DVC cache: " in shown and re.search(rb"/1\d\dk \[", shown)


def test_a_library_that_decides_numbers_is_another(fresh: Repository, check: Any) -> None:
    lock = fresh.root / "compute.lock"
    lock.write_text(re.sub("numpy==.*", "numpy==1.0.0", lock.read_text()) + "nosuchlibrary==1.0\n")
    code, lines = check(fresh)
    assert code == 1
    (line,) = marked("wrong", lines)
    assert re.search(r"compute\.lock.*: nosuchlibrary is not installed, numpy is 2\S+, not 1\.0\.0: run `pip", line)


def test_another_library_is_worth_a_note_and_a_missing_one_is_wrong(fresh: Repository, check: Any) -> None:
    lock = fresh.root / "requirements.lock"
    changed = re.sub(r"==\S+", "==0.0.1", lock.read_text())
    lock.write_text(changed)
    code, lines = check(fresh)
    (line,) = [line for line in lines if "requirements.lock" in line]
    assert code == 0
    assert re.match(
        r"note   requirements\.lock.*: (\d+) of \1 libraries differ: (\S+ is \S+, not 0\.0\.1,? ){3}and \d+ more: ",
        line,
    )
    lock.write_text(changed + "nosuchlibrary==1.0\n")
    (line,) = marked("wrong", check(fresh)[1])
    assert "nosuchlibrary is not installed, " in line and line.count(" is ") == 3


def test_a_torchvision_that_does_not_fit(fresh: Repository, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "samebits.data.vision", None)
    (line,) = marked("wrong", check(fresh)[1])
    assert line.startswith("wrong  torchvision cannot be imported beside PyTorch (") and "pip install" in line


def test_damaged_raw_data_is_named(
    fresh: Repository, check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.edit(lambda values: values["data"].update(source="cifar10"))
    folder = tmp_path / "raw" / cifar10.FOLDER
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_text("no images")
    monkeypatch.setenv("SAMEBITS_DATA", str(tmp_path / "raw"))
    before = everything(tmp_path / "raw")
    (line,) = marked("wrong", check(fresh)[1])
    assert f"{folder / 'data_batch_1'} is damaged: its MD5 is not " in line
    assert everything(tmp_path / "raw") == before
    monkeypatch.delenv("SAMEBITS_DATA")
    (fresh.root / "data").mkdir(exist_ok=True)
    shutil.copytree(tmp_path / "raw", fresh.root / "data/raw", dirs_exist_ok=True)
    (line,) = marked("wrong", check(fresh)[1])
    assert f"; remove {fresh.root / 'data/raw' / cifar10.FOLDER} to download it again" in line


@contextmanager
def no_large_file() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif("SAMEBITS_TEST_DATA" not in os.environ, reason="needs CIFAR-10: SAMEBITS_TEST_DATA")
def test_whole_raw_data(fresh: Repository, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh.edit(lambda values: values["data"].update(source="cifar10"))
    monkeypatch.setenv("SAMEBITS_DATA", os.environ["SAMEBITS_TEST_DATA"])
    with no_large_file():  # a check takes no disk, even if it is full
        code, lines = check(fresh)
    assert code == 0 and "ok     CIFAR-10's raw files have their published MD5s" in lines


def look(root: Path) -> str:
    """What is said of the tracking database, which stays as it is and is alone."""
    before = everything(root)
    (result,) = tracking_database.check(root)
    assert everything(root) == before
    return str(result)


@pytest.mark.parametrize("at", [0, 2500])
def test_a_damaged_database(done: Repository, tmp_path: Path, at: int) -> None:
    path = Path(shutil.copy(done.root / "mlflow.db", tmp_path))
    with closing(sqlite3.connect(path)) as connection:
        page, root_page = (
            connection.execute(query).fetchone()[0]
            for query in ("PRAGMA page_size", "SELECT rootpage FROM sqlite_schema WHERE name = 'metrics'")
        )
    assert look(tmp_path).startswith("ok ")
    with open(path, "r+b") as file:
        file.seek(0 if at == 0 else page * (root_page - 1))
        file.write(b"\xa5" * 500)
    assert re.match(r"wrong  mlflow\.db (cannot be read|is damaged) \(.+\): move it away", look(tmp_path))


def test_a_database_of_an_older_mlflow_is_mended_by_what_is_said(tmp_path: Path) -> None:
    quiet_mlflow()
    from alembic import command
    from mlflow.store.db import utils
    from sqlalchemy import create_engine

    path = tmp_path / "mlflow.db"
    uri = f"sqlite:///{path}"
    utils.InitialBase.metadata.create_all(create_engine(uri))
    command.upgrade(utils._get_alembic_config(uri), utils._get_latest_schema_revision() + "-1")
    line = look(tmp_path)
    assert re.match(r"wrong  mlflow\.db has the schema of an older MLflow \(\w+\) than MLflow \d", line)
    remedy = re.search("`(.+)`$", line)
    assert remedy
    Repository(tmp_path).run(*shlex.split(remedy[1]))
    assert re.fullmatch(r"ok     mlflow\.db is whole and has the schema of MLflow \S+", look(tmp_path))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'fromthefuture'")
    assert "does not know (fromthefuture): run `pip install -e .`" in look(tmp_path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE alembic_version")
    assert look(tmp_path).startswith("wrong  mlflow.db has no schema of MLflow's: move it away")


def test_a_database_in_the_middle_of_a_write(tmp_path: Path) -> None:
    program = """
import os, sqlite3
connection = sqlite3.connect("mlflow.db")
connection.execute("CREATE TABLE runs (name)")
connection.executemany("INSERT INTO runs VALUES (?)", [("a" * 1000,)] * 1000)
connection.commit()
connection.execute("PRAGMA cache_size = 5")
connection.execute("UPDATE runs SET name = name || 'b'")
os.kill(os.getpid(), 9)
"""
    assert Repository(tmp_path).run("python", "-c", program, ok=False).returncode == -signal.SIGKILL
    assert look(tmp_path) == "note   mlflow.db was left in the middle of a write; the next run undoes that"


def test_a_database_that_is_in_use(done: Repository, check: Any) -> None:
    with FileLock(done.root / "mlflow.db.lock"):
        code, lines = check(done)
    (line,) = [line for line in lines if "mlflow.db.lock" in line]
    assert code == 0 and f"note   mlflow.db.lock is held by process {os.getpid()} (" in line
    assert not any("mlflow.db.lock" in line for line in check(done)[1])


class _Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" and "Authorization" not in self.headers else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_a_tracking_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_database, "_ANSWER_SECONDS", 0.5)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{address}/")
        assert look(tmp_path) == f"ok     the tracking server http://{address} answers"
        server.shutdown()
        server.server_close()
        assert re.match(rf"note   the tracking server http://{address} cannot be reached \(.*refused", look(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@10.255.255.1/")
    started = time.monotonic()
    line = look(tmp_path)
    assert line.startswith("note   the tracking server http://10.255.255.1 cannot be reached") and "secret" not in line
    assert time.monotonic() - started < 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/runs")
    assert look(tmp_path) == "note   MLFLOW_TRACKING_URI names a postgresql store, which is not checked"


def test_a_full_disk(fresh: Repository, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(fresh.root)._replace(free=999_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (line,) = marked("wrong", check(fresh)[1])
    assert f"999.0 MB are free where {fresh.root} lies: a run needs 1.0 GB, make room" in line


def put_a_slow_stage(repository: Repository) -> None:
    pipeline = PIPELINE | {"second": PIPELINE["second"] | {"cmd": "sleep 600; cp first.bin second.bin"}}
    (repository.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": pipeline}))


@contextmanager
def started(repository: Repository, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command in a session of its own; kill all of it at the end."""
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    process = subprocess.Popen(
        command, cwd=repository.root, env=environment, start_new_session=True, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(text: str, path: Path) -> None:
    deadline = time.monotonic() + 30
    while text not in (path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline, f"{path} never held {text}"
        time.sleep(0.05)


def test_a_dvc_that_works_is_a_note_and_a_killed_one_is_wrong(small: Repository, check: Any) -> None:
    put_a_slow_stage(small)
    held = small.root / ".dvc/tmp/rwlock"
    with started(small, "dvc", "repro") as dvc:
        wait_for("second.bin", held)
        code, lines = check(small)
        assert code == 0
        (line,) = [line for line in lines if "at work" in line]
        assert re.match(
            rf"note   DVC is at work here: \.dvc/tmp/rwlock is held by process {dvc.pid} \(.*dvc repro\)", line
        )
        damage(cached(small, "first.bin"))
        with pytest.raises(UserError, match=f"process {dvc.pid} .*: repair when it has ended"):
            checking.check(small.root, repair=True)
        assert cached(small, "first.bin").exists()
        dvc.kill()
        zombie = marked("wrong", check(small)[1])
        assert any("has exited" in line for line in zombie)  # dead, though nobody has waited for it yet
    code, lines = check(small, repair=True)
    (line,) = [line for line in marked("note", lines) if "rwlock" in line]
    assert code == 0 and line.startswith("note   .dvc/tmp/rwlock names 1 killed process: DVC runs all the same")


def lock_paths(repository: Repository, pid: int, **kinds: list[str]) -> Path:
    """Let a process of long ago hold these paths."""
    locked: dict[str, dict[str, Any]] = {"write": {}, "read": {}}
    for kind, names in kinds.items():
        for name in names:
            entry = {"pid": pid, "cmd": "dvc repro"}
            locked[kind][str(repository.root / name)] = entry if kind == "write" else [entry]
    held = repository.root / ".dvc/tmp/rwlock"
    held.write_text(json.dumps(locked))
    os.utime(held, (0, 1_000_000_000))
    return held


def number_of_nobody() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_killed_processes_locked_is_one_note_and_dvc_runs(small: Repository, check: Any) -> None:
    lock_paths(small, number_of_nobody(), write=["first.bin"], read=["second.bin", "params.yaml", "first.bin"])
    code, lines = check(small)
    (line,) = [line for line in lines if "rwlock" in line]
    assert code == 0 and line.startswith("note   .dvc/tmp/rwlock names 1 killed process: DVC runs all the same")
    assert small.repro("--force", "first") == ["first"]


def test_a_process_that_only_has_the_number_of_a_dead_one(small: Repository, check: Any) -> None:
    for kinds in ({"read": ["folder/a"]}, {"read": ["first.bin"]}, {"write": ["first.bin"]}):
        os.utime(lock_paths(small, os.getpid(), **kinds))
        assert any("at work" in line for line in marked("note", check(small)[1]))
        held = lock_paths(small, os.getpid(), **kinds)
        code, lines = check(small)
        (line,) = [line for line in lines if "rwlock" in line]
        assert code == 1 and line.startswith("wrong")
        assert f"process {os.getpid()} (dvc repro), which has exited: remove .dvc/tmp/rwlock" in line
        done = small.run("dvc", "repro", "--force", ok=False)
        assert done.returncode != 0 and "is busy" in done.stderr
    held.unlink()
    small.run("dvc", "repro", "--force")


def test_path_locks_that_dvc_cannot_read(small: Repository, check: Any) -> None:
    for content in ("", "[]", '{"write": {"/x": {"pid": 1}}}', '{"write": 3}'):
        (small.root / ".dvc/tmp/rwlock").write_text(content)
        (line,) = marked("wrong", check(small)[1])
        assert line.endswith("remove .dvc/tmp/rwlock")
        assert small.run("dvc", "repro", "--force", ok=False).returncode != 0


LOCK = "from dvc.repo import Repo; Repo('.').lock.lock(); print('held', flush=True); import time; time.sleep(60)"


def test_the_lock_on_the_whole_repository(small: Repository, check: Any) -> None:
    with started(small, "python", "-c", LOCK) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        code, lines = check(small)
        (line,) = [line for line in lines if "at work" in line]
        assert code == 0 and f"note   DVC is at work here: .dvc/tmp/lock is held by process {process.pid} (" in line
    assert check(small)[0] == 0  # the kernel frees the lock with its process
    small.run("dvc", "status")


def test_a_lock_whose_holder_cannot_be_seen(small: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stale_locks, "whoever_opened", lambda path: None)
    with started(small, "python", "-c", LOCK) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        (result,) = stale_locks.check(small.root)
    assert result.mark == "wrong" and result.what == ".dvc/tmp/lock is held, by no process that runs here"


def test_what_is_no_clone_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no \.dvc: run this in the root of a clone of samebits$"):
        checking.check(tmp_path, repair=False)
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(UserError, match="is in no git repository"):
        checking.check(tmp_path, repair=False)


def test_what_a_killed_prepare_leaves_is_a_note(fresh: Repository, check: Any) -> None:
    fresh.edit(lambda values: values["data"]["shapes"].update(num_train=4000))
    process = fresh.start("python", "stages/prepare.py")
    folder, deadline = fresh.root / "data/prepared", time.monotonic() + 60
    while not list(folder.glob(".train.*/train/0000.part")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGSTOP)  # it lives on, and what it writes is no leftover
    assert not any("killed processes" in line for line in check(fresh)[1])
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (left,) = folder.glob(".*")
    code, lines = check(fresh)
    (line,) = [line for line in marked("note", lines) if "killed processes" in line]
    assert code == 0 and re.search(rf"left data/prepared/{re.escape(left.name)}, \d+\.\d MB: the stage removes", line)
    fresh.run("python", "stages/prepare.py")
    assert list(folder.glob(".*")) == []


def test_a_git_that_fails_is_wrong_and_the_others_are_looked_at_all_the_same(small: Repository, check: Any) -> None:
    (small.root / ".git/index").write_bytes(b"garbage")
    _, lines = check(small)
    (line,) = marked("wrong", lines)
    assert "index file smaller than expected" in line and line.endswith("run `git reset`, which changes no file")
    assert any("all whole" in line for line in lines)
    (small.root / ".git/index").unlink()
    small.run("git", "reset", "--quiet")
    assert check(small)[0] == 0 and small.status() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a clone to another user")
@pytest.mark.parametrize("command", ["check", "track", "share", "compare", "verify"])
def test_a_clone_of_another_user_is_said_to_be_one(small: Repository, command: str) -> None:
    for path in (small.root, small.root / ".git"):
        os.chown(path, NOBODY, NOBODY)
    arguments = {"compare": ["HEAD", "workspace"]}.get(command, [])
    failed = small.run("samebits", command, *arguments, ok=False, GIT_CONFIG_GLOBAL=os.devnull)
    assert failed.returncode == (2 if command in ("compare", "verify") else 1)
    (line,) = [line for line in (failed.stdout + failed.stderr).splitlines() if "dubious ownership" in line]
    assert line.endswith(f"if you trust its owner, run `git config --global --add safe.directory {small.root}`")
    assert "no git repository" not in failed.stdout + failed.stderr and "Traceback" not in failed.stderr


def test_a_configuration_that_dvc_cannot_read(fresh: Repository) -> None:
    (fresh.root / ".dvc/config").write_text("[core\n")
    with pytest.raises(UserError, match="DVC cannot read its configuration"):
        checking.check(fresh.root, repair=False)
