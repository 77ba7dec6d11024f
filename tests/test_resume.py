"""Resume points: a training that was stopped anywhere ends with the bits of one that never was."""

import os
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from samebits.data.prepared import Split
from samebits.training import loop, resume
from samebits.training.resume import ResumePoints
from tests.conftest import NARROW, Repository
from tests.test_models import build_speed
from tests.test_optimizers import muon_settings, through_disk
from tests.test_training import build, random_split, settings, weights

SETTINGS = settings(num_epochs=3, batch_size=4, report_every_steps=7, momentum=0.9)


def train(data: Split, validation: Split, on_pause=None, resume_from=None):
    network = build("linear", data)
    rows = loop.train(network, data, validation, SETTINGS, 0, lambda *_: None, on_pause, resume_from)
    return rows, weights(network)


def test_resumed_from_every_point_the_bits_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_IMAGES_PER_CHUNK", 12)  # many points, also in the middle of windows and epochs
    data, validation = random_split(50), random_split(20)
    states: list[loop.State] = []
    rows, expected = train(data, validation, lambda step, state: states.append(through_disk(state())))
    assert [state["step"] for state in states][-1] == 39
    assert len({state["step"] for state in states}) == len(states) > 12
    for state in states:
        resumed_rows, resumed = train(data, validation, resume_from=state)
        assert resumed_rows == rows
        assert torch.equal(resumed, expected), f"after a stop at step {state['step']}"


def test_the_speed_recipe_resumes_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Muon, schedules, BatchNorm's statistics, augmentation, resizing and bfloat16 on top."""
    monkeypatch.setattr(loop, "_IMAGES_PER_CHUNK", 20)
    data, nothing = random_split(50, (3, 16, 16)), random_split(0, (3, 16, 16))
    train_settings = muon_settings(
        num_epochs=3,
        augmentation=[
            {"name": "translate", "pixels": 2},
            {"name": "flip"},
            {"name": "resize", "sides": [12, 14]},
        ],
        data_pruning={"first_epoch": 2, "percent": 30},
        label_smoothing=0.2,
        precision="bfloat16",
    )

    def speed_training(on_pause=None, resume_from=None):
        network = build_speed((3, 16, 16), **NARROW["speed"])
        rows = loop.train(network, data, nothing, train_settings, 0, lambda *_: None, on_pause, resume_from)
        return rows, network.state_dict()

    states: list[loop.State] = []
    rows, expected = speed_training(lambda step, state: states.append(through_disk(state())))
    assert [state["step"] for state in states] == list(range(1, 8))
    for state in states:
        resumed_rows, resumed = speed_training(resume_from=state)
        assert resumed_rows == rows
        assert all(torch.equal(resumed[name], expected[name]) for name in expected), f"after step {state['step']}"


def test_a_network_that_draws_resumes_and_follows_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_IMAGES_PER_CHUNK", 12)
    data, nothing = random_split(50), random_split(0)

    def train_with_dropout(seed: int = 0, on_pause=None, resume_from=None) -> torch.Tensor:
        torch.manual_seed(len(states))  # as another process, or what ran before in this one, would
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(16, 10))
        torch.nn.init.zeros_(network[2].weight)
        torch.nn.init.zeros_(network[2].bias)
        before = torch.get_rng_state()
        loop.train(network, data, nothing, SETTINGS, seed, lambda *_: None, on_pause, resume_from)
        assert torch.equal(torch.get_rng_state(), before)
        return weights(network)

    states: list[loop.State] = []
    expected = train_with_dropout(0, lambda step, state: states.append(through_disk(state())))
    assert torch.equal(train_with_dropout(), expected)
    for state in states:
        assert torch.equal(train_with_dropout(resume_from=state), expected), f"after a stop at step {state['step']}"
    assert not torch.equal(train_with_dropout(1), expected)


def points(scratch: Path, key: str = "key", every_seconds: float = 0.0) -> ResumePoints:
    return ResumePoints(scratch, key, every_seconds, os.getpid())


def files(scratch: Path) -> list[Path]:
    return sorted(scratch.rglob("*.point"))


def test_the_newest_point_comes_back_and_only_two_are_kept(tmp_path: Path) -> None:
    mine = points(tmp_path)
    with mine.held():
        assert mine.newest() is None
        for step in (3, 20, 100):
            mine.save(step, {"step": step, "tensor": torch.full((2,), step)})
        assert mine.newest()["tensor"].tolist() == [100, 100]
    assert [int(path.stem) for path in files(tmp_path)] == [20, 100]


def test_points_are_made_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(resume, "time", SimpleNamespace(monotonic=lambda: now[0]))
    often = points(tmp_path, every_seconds=5.0)
    for now[0], is_due in ((4.9, False), (5.0, True)):
        assert often.is_due() == is_due
    often.save(1, {"step": 1})
    for now[0], is_due in ((9.9, False), (10.0, True)):
        assert often.is_due() == is_due


def test_points_are_known_by_their_holder(tmp_path: Path) -> None:
    for number, key in enumerate(("one", "other")):
        with (held := ResumePoints(tmp_path, key, 0.0, number)).held():
            held.save(number, {"step": number})
    assert [path.parent.name for path in resume.points_of(tmp_path, 1)] == ["other"]
    assert {path.parent.name for path in resume.points_of(tmp_path)} == {"one", "other"}


def test_points_of_other_trainings_are_not_used_and_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (other := points(tmp_path, "other")).held():
        other.save(1, {"step": 1})
    with (mine := points(tmp_path)).held():
        assert mine.newest() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "this one starts fresh" in line


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "only a digest": lambda content: content[:32],
    "zero-filled": lambda content: bytes(len(content)),
    "a flipped byte": lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    "a flipped byte in the digest": lambda content: bytes([content[0] ^ 1]) + content[1:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_point_is_named_and_the_one_before_is_used(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = points(tmp_path)
    for step in (1, 2):
        mine.save(step, {"step": step})
    newest = files(tmp_path)[-1]
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    assert mine.newest() == {"step": 1}
    (line,) = capsys.readouterr().err.splitlines()
    assert str(newest) in line and "damaged" in line
    files(tmp_path)[0].write_bytes(b"")
    assert mine.newest() is None


def test_a_full_disk_costs_a_line_and_the_point_before_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        mine = points(disk)
        with mine.held():
            mine.save(1, {"step": 1})
            for step in (2, 3):
                mine.save(step, {"tensor": torch.zeros(1_000_000)})
            assert mine.newest() == {"step": 1}
        assert [path.name for path in (disk / "key").iterdir() if path.name.startswith(".")] == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left" in line and "the training goes on" in line


@pytest.mark.parametrize("has_point", [False, True])
def test_scratch_that_may_not_be_written_costs_a_line(has_point: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / ".samebits" / "resume"
        scratch.parent.mkdir()
        if has_point:
            with points(scratch).held():
                points(scratch).save(1, {"step": 1})
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o444 if path.is_file() else 0o555)
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            mine = points(scratch)
            with mine.held():
                assert mine.newest() == ({"step": 1} if has_point else None)
                assert not mine.is_due()
                mine.save(2, {"step": 2})
                mine.finish("md5")
        finally:
            os.seteuid(os.getuid())
        assert [int(path.stem) for path in files(scratch)] == [1] * has_point
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o755)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: no resume point can be saved (Permission denied: ") and "goes on without" in line


def test_scratch_deleted_while_training_is_made_again(tmp_path: Path) -> None:
    import shutil

    mine = points(tmp_path / "scratch")
    with mine.held():
        mine.save(1, {"step": 1})
        shutil.rmtree(tmp_path / "scratch")
        mine.save(2, {"step": 2})
        assert mine.newest() == {"step": 2}


HOLD = """
import os
import sys
import time
from pathlib import Path
from samebits.training.resume import ResumePoints
points = ResumePoints(Path(sys.argv[1]), sys.argv[2], 0.0, os.getpid())
with points.held():
    points.save(7, {"step": 7})
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def start_holding(scratch: Path, key: str, **files: int) -> "subprocess.Popen[str]":
    command = ("python", "-c", HOLD, str(scratch), key)
    environment = Repository(scratch).environment_of(command)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **files)


def hold(scratch: Path, key: str) -> "tuple[subprocess.Popen[str], int]":
    """Hold a training; return the process, and the number that it has for itself."""
    process = start_holding(scratch, key, stdin=subprocess.PIPE)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_second_process_waits_says_for_whom_and_takes_over(tmp_path: Path) -> None:
    first, number = hold(tmp_path, "key")
    second = start_holding(tmp_path, "key", stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert second.stderr is not None and second.stdout is not None
    assert f"process {number} is at this very training" in second.stderr.readline()
    assert second.poll() is None
    first.kill()  # a killed process holds nothing any more
    assert int(second.stdout.readline()) != number
    assert second.wait(timeout=30) == 0
    first.communicate()


def test_scratch_is_bounded_and_what_a_living_process_holds_stays(tmp_path: Path) -> None:
    living, _ = hold(tmp_path, "living")
    os.utime(tmp_path / "living", (1, 1))  # the oldest of all
    for number in range(10):
        mine = points(tmp_path, f"training-{number}")
        with mine.held():
            mine.save(1, {"step": 1})
        os.utime(tmp_path / f"training-{number}", (number + 2, number + 2))
    with points(tmp_path, "new").held():
        pass
    kept = {folder.name for folder in tmp_path.iterdir()}
    assert {"living", "new", "training-9", "training-8"} <= kept
    assert len(kept) <= 2 + resume.NUM_TRAININGS
    living.communicate(input="")


def test_leftovers_of_a_killed_write_go_away(tmp_path: Path) -> None:
    mine = points(tmp_path)
    with mine.held():
        mine.save(1, {"step": 1})
    leftover = tmp_path / "key" / ".000000000002.point.abc"
    leftover.mkdir()
    (leftover / "000000000002.point").write_bytes(b"half")
    with mine.held():
        assert not leftover.exists()
        assert mine.newest() == {"step": 1}


def test_points_are_forgotten_when_their_checkpoint_is_safe(tmp_path: Path) -> None:
    for key in ("mine", "other"):
        one = points(tmp_path, key)
        with one.held():
            one.save(1, {"step": 1})
            one.finish(f"md5 of {key}")
    resume.forget(tmp_path, "md5 of mine")
    assert [folder.name for folder in tmp_path.iterdir()] == ["other"]


def test_the_key_is_of_all_that_it_is_made_from() -> None:
    base = {"code": {"a.py": "1"}, "seed": 0}
    assert resume.key_of(base) == resume.key_of({"seed": 0, "code": {"a.py": "1"}})
    assert len({resume.key_of(base), resume.key_of({**base, "seed": 1}), resume.key_of({**base, "code": {}})}) == 3
