"""`samebits share`, and what a colleague gets from it by plain DVC: judged by what ran."""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests import remotes
from tests.conftest import Repository, copy_tree
from tests.remotes import Remote, clone

CHECKPOINT = "data/model/checkpoint.safetensors"
OUTPUT = "out.bin"  # of the quick pipeline


@pytest.fixture(params=["folder", "ssh", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remote]:
    match request.param:
        case "folder":
            yield remotes.folder(tmp_path / "team")
        case "ssh":
            with remotes.ssh(tmp_path / "sshd") as made:
                yield made
        case "s3":
            with remotes.s3() as made:
                yield made


def momentum(repository: Repository, value: float) -> None:
    repository.edit(lambda values: values["recipes"]["lab"]["train"]["optimizer"].update(momentum=value))


def checkpoint_of_run(repository: Repository, value: float) -> str:
    """Return the MD5 of the checkpoint of a training that no commit records, from DVC's record of it."""
    for path in (repository.root / ".dvc/cache/runs").glob("*/*/*"):
        record = yaml.safe_load(path.read_text())
        if f"momentum: {value}" in path.read_text():
            return next(out["md5"] for out in record["outs"] if out["path"] == CHECKPOINT)
    raise AssertionError(f"no training with momentum {value} was recorded")


def seed(repository: Repository, value: int) -> None:
    repository.edit(lambda values: values.update(seed=value))


def output_of(repository: Repository, seed: int) -> str:
    """Return the MD5 of what the quick pipeline makes of a seed."""
    size = (repository.root / "data.bin").stat().st_size
    return hashlib.md5(random.Random(seed).randbytes(size)).hexdigest()


def share(
    repository: Repository, *arguments: str, ok: bool = True, **environment: str
) -> "subprocess.CompletedProcess[str]":
    done = repository.run("samebits", "share", *arguments, ok=ok, **environment)
    assert "Traceback" not in done.stderr
    return done


def the_line(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the one line of a user's mistake."""
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.usefixtures("untracked")
def test_nobody_who_pulls_trains_again(known: Repository, tmp_path: Path) -> None:
    remote = remotes.folder(tmp_path / "team")
    remote.add_to(known)
    output = share(known).stdout.splitlines()
    assert output[0].startswith(f"team ({remote.url}): 0 objects there, {len(remote.objects())} to send, ")
    assert output[1] == "shared; 4 run records, 4 of them new there"
    again = share(known).stdout.splitlines()
    assert again[0].endswith(f": {len(remote.objects())} objects there, 0 to send, 0.0 MB")
    assert again[1] == "shared; 4 run records, 0 of them new there"

    second = clone(known, "second")
    second.run("dvc", "pull")
    assert second.repro() == []
    third = clone(known, "third")
    momentum(third, 0.7)  # only run, never committed
    assert set(third.repro("--pull")) <= {"evaluate"}
    assert checkpoint_of_run(known, 0.7) in (third.root / "dvc.lock").read_text()
    # What DVC itself sends is less: this is what `share` is for.
    plain = remotes.folder(tmp_path / "plain")
    known.run("dvc", "remote", "add", "plain", plain.url)
    known.run("dvc", "push", "--run-cache", "--all-commits", "--remote", "plain")
    assert checkpoint_of_run(known, 0.7) in set(remote.objects()) - set(plain.objects())


def test_without_one_shared_object_a_colleague_works(quick: Repository, tmp_path: Path) -> None:
    remote = remotes.folder(tmp_path / "team")
    remote.add_to(quick)
    share(quick)
    md5 = output_of(quick, 2)
    (tmp_path / "team/files/md5" / md5[:2] / md5[2:]).unlink()
    third = clone(quick, "third")
    seed(third, 2)
    assert "work" in third.repro("--pull")


def test_a_transfer_that_breaks_off_costs_one_part(prepared: Repository, without_mlflow: Path, tmp_path: Path) -> None:
    code = prepared.root / "src/samebits/data/prepared.py"
    code.write_text(code.read_text().replace("PART_BYTES = 64_000_000", "PART_BYTES = 1_000_000"))
    prepared.edit(lambda values: values.update(recipe="linear"))
    prepared.run("dvc", "repro", PYTHONPATH=str(without_mlflow))
    prepared.commit("its result")
    remote = remotes.folder(tmp_path / "team")
    remote.add_to(prepared)
    share(prepared)
    gate = ("python", "-m", "samebits.gate.remote_check")
    prepared.run(*gate)
    md5 = hashlib.md5((prepared.root / "data/prepared/train/0001.part").read_bytes()).hexdigest()
    there, aside = tmp_path / "team/files/md5" / md5[:2] / md5[2:], tmp_path / "aside"
    there.rename(aside)
    there.write_bytes(aside.read_bytes()[:1000])
    assert "holds only a part of data/prepared/train: " in the_line(prepared.run(*gate, ok=False))
    there.unlink()
    assert "lacks data/prepared/train/0001.part: " in the_line(prepared.run(*gate, ok=False))
    second = clone(prepared, "second")
    assert second.run("dvc", "pull", ok=False).returncode != 0
    cached = set((second.root / ".dvc/cache/files/md5").glob("??/*"))
    aside.rename(there)
    second.run("dvc", "pull")
    fetched = set((second.root / ".dvc/cache/files/md5").glob("??/*")) - cached
    assert [path.parent.name + path.name for path in fetched if not path.name.endswith(".dir")] == [md5]
    assert second.repro() == []
    # Other commands find the parts in the cache, whatever lies in the workspace, or on the remote.
    shutil.rmtree(second.root / "data/prepared")
    second.run("samebits", "report", "HEAD")
    shutil.rmtree(second.root / ".dvc/cache")
    second.run("samebits", "report", "HEAD")
    there.unlink()
    shutil.rmtree(second.root / ".dvc/cache", ignore_errors=True)
    second.run("samebits", "report", "HEAD")  # its test images have one part


def test_every_kind_of_remote_restores_what_was_shared(quick: Repository, remote: Remote) -> None:
    remote.add_to(quick)
    # Killed as soon as something has arrived, and repeated.
    process = quick.start("samebits", "share", is_warm=True)
    deadline = time.monotonic() + 300
    while not remote.names() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()  # until nobody holds its output any more
    there, to_send = re.findall(r"(\d+) (?:objects? there|to send)", share(quick).stdout)
    assert len(remote.objects()) == int(there) + int(to_send)

    third = clone(quick, "third", remote)
    seed(third, 2)
    assert set(third.repro("--pull")) <= {"measure"}
    assert output_of(quick, 2) in (third.root / "dvc.lock").read_text()

    # A damaged object is noticed, named, and put right.
    md5 = output_of(quick, 0)
    remote.damage(md5)
    fourth = clone(quick, "fourth", remote)
    failed = fourth.run("dvc", "pull", ok=False)
    assert failed.returncode != 0 and OUTPUT in failed.stderr
    assert not (fourth.root / OUTPUT).exists()
    assert ", 1 to send, " in share(quick).stdout
    fourth.run("dvc", "pull")
    assert (fourth.root / OUTPUT).read_bytes() == (quick.root / OUTPUT).read_bytes()


def test_two_people_share_at_once_and_nothing_is_lost(quick: Repository, tmp_path: Path) -> None:
    remote = remotes.folder(tmp_path / "team")
    remote.add_to(quick)
    second = Repository(tmp_path / "second")
    copy_tree(quick.root, second.root)
    both = [repository.start("samebits", "share", is_warm=True) for repository in (quick, second, quick)]
    for process in both:
        assert process.wait(timeout=120) == 0
    assert " 0 to send" in share(quick).stdout
    third = clone(quick, "third")
    third.run("dvc", "pull")
    assert third.repro() == []


def test_results_that_are_lost_here_are_said_to_be(quick: Repository, tmp_path: Path) -> None:
    remote = remotes.folder(tmp_path / "team")
    remote.add_to(quick)
    md5 = output_of(quick, 2)
    (quick.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    done = share(quick)
    assert f"note: neither here nor in team: 1 object of known results ({OUTPUT});" in done.stderr
    # The record of what wrote it would make a colleague's `dvc repro --pull` stop, so it stays here.
    records = [(tmp_path / "team" / name).read_text() for name in remote.names() if name.startswith("runs/")]
    assert records and not [record for record in records if md5 in record.partition("outs:")[2]]


def test_the_history_that_a_clone_begins_with_is_not_missed(quick: Repository, tmp_path: Path) -> None:
    remotes.folder(tmp_path / "team").add_to(quick)
    quick.commit("a remote")
    second = clone(quick, "second")
    seed(second, 5)
    assert second.repro() == ["data", "work", "measure"]
    second.commit("another seed")
    assert share(second).stderr.count("neither here nor in team") == 0  # of seed 0, whose commit git's remote has
    second.run("git", "push", "--quiet", "origin", "HEAD:refs/heads/second")
    md5 = output_of(second, 5)
    for lost in (second.root / ".dvc/cache", tmp_path / "team"):
        (lost / "files/md5" / md5[:2] / md5[2:]).unlink()
    assert f"note: neither here nor in team: 1 object of known results ({OUTPUT});" in share(second).stderr


def test_a_damaged_object_is_not_shared(quick: Repository, tmp_path: Path) -> None:
    remote = remotes.folder(tmp_path / "team")
    remote.add_to(quick)
    md5 = output_of(quick, 2)
    path = quick.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    path.chmod(0o644)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    line = the_line(share(quick, ok=False))
    assert f"{path.relative_to(quick.root)} is damaged" in line and "samebits check --repair" in line
    assert remote.names() == []


def test_files_that_were_added_one_by_one_are_shared_too(quick: Repository, tmp_path: Path) -> None:
    remote = remotes.folder(tmp_path / "team")
    remote.add_to(quick)
    (quick.root / "notes").mkdir()
    for name in ("a", "b"):
        (quick.root / "notes" / name).write_text(name)
    quick.run("dvc", "add", "notes")
    quick.commit("some notes")
    share(quick)
    second = clone(quick, "second")
    second.run("dvc", "pull", "notes")
    assert (second.root / "notes/b").read_text() == "b"


@pytest.mark.parametrize(
    ("arguments", "prepare", "what"),
    [
        ([], [], "no default remote is set: `dvc remote add --default team URL` adds one"),
        (["--to", "teem"], [["team", "/tmp/team"]], "teem is no remote of this repository: it has team"),
        (["--to", "web"], [["web", "https://127.0.0.1:9/x"]], "web is reached by https"),
        (["--to", "cloud"], [["cloud", "gs://bucket/x"]], "needs DVC's plug-in for gs: `pip install dvc-gs`"),
        (
            ["--to", "far"],
            [["far", "ssh://127.0.0.1:9/x"]],
            "the remote far (ssh://127.0.0.1:9/x) cannot be used: Connection",
        ),
    ],
)
def test_a_remote_that_is_none_costs_one_line(
    quick: Repository, arguments: list[str], prepare: list[list[str]], what: str
) -> None:
    for name, url in prepare:
        quick.run("dvc", "remote", "add", name, url)
    assert what in the_line(share(quick, *arguments, ok=False))


def test_without_credentials_or_with_a_wrong_key_it_costs_one_line(quick: Repository, tmp_path: Path) -> None:
    nobody = {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    with remotes.s3() as remote:
        remote.add_to(quick)
        for name in remote.secrets:
            quick.run("dvc", "remote", "modify", "--local", "team", "--unset", name)
        line = the_line(share(quick, ok=False, **nobody))
        assert f"the remote team ({remote.url}) cannot be used: NoCredentialsError" in line
    with remotes.ssh(tmp_path / "sshd") as remote:
        quick.run("dvc", "remote", "add", "--force", "team", remote.url)
        for name, value in (remote.settings | {"keyfile": str(tmp_path / "sshd/stranger")}).items():
            quick.run("dvc", "remote", "modify", "team", name, value)
        line = the_line(share(quick, ok=False, **nobody))
        assert f"the remote team ({remote.url}) cannot be used: PermissionError: Permission denied" in line
        assert "check the key" in line
        assert remote.names() == []


def test_a_read_only_remote_costs_one_line(quick: Repository, tmp_path: Path) -> None:
    remote = remotes.folder(tmp_path / "team")
    remote.add_to(quick)
    with as_nobody(quick, tmp_path / "team") as run:
        line = the_line(run("samebits", "share"))
        assert f"the remote team ({remote.url}) cannot be used: PermissionError" in line
        assert "ask for permission" in line
    assert remote.names() == []
    share(quick)


def test_a_full_disk_costs_one_line_and_loses_nothing(quick: Repository, tmp_path: Path) -> None:
    remote = remotes.folder(tmp_path / "team")
    remote.add_to(quick)
    with small_disk(tmp_path / "team", "700k"):
        line = the_line(share(quick, ok=False))
        assert "No space left on device" in line and "make room there" in line
        sent = remote.objects()
        assert sent
        for md5 in sent:  # what arrived is whole
            there = tmp_path / "team/files/md5" / md5[:2] / md5[2:]
            assert there.stat().st_size == (quick.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).stat().st_size
    share(quick)

    second = clone(quick, "second")
    with small_disk(second.root / ".dvc/cache", "400k"):
        failed = second.run("dvc", "pull", ok=False)
        assert failed.returncode != 0
    second.run("dvc", "pull")
    assert second.repro() == []


def test_a_repository_without_results_costs_one_line(fresh: Repository, tmp_path: Path) -> None:
    remotes.folder(tmp_path / "team").add_to(fresh)
    assert "has no result yet: run `dvc repro`" in the_line(share(fresh, ok=False))
    outside = Repository(tmp_path / "outside")
    outside.root.mkdir()
    assert "has no .dvc: run this in the root of a clone" in the_line(share(outside, ok=False))


@contextmanager
def as_nobody(repository: Repository, folder: Path) -> Iterator[Callable[..., "subprocess.CompletedProcess[str]"]]:
    """Run commands without the rights of root, on a folder that may only be read."""
    wrap = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and there is no setpriv to stop it")
        dropped = "-dac_override,-dac_read_search"
        wrap = ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}"]
    folder.chmod(0o555)
    try:
        yield lambda *command: repository.run(*wrap, *command, ok=False)
    finally:
        folder.chmod(0o755)


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """Put a small file system there, as long as the block lasts."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)
