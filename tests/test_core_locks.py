"""Trainings that share a machine take turns: real processes, which note when they compute."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
ALL_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

# Computes for argv[2] seconds with argv[1] threads, offering its turn all the while; a line for each moment it computes.
TRAINING = """
import sys, time
from samebits import core_locks
core_locks.TURN_SECONDS, core_locks.WAIT_SECONDS = 0.2, float(sys.argv[3])
computed, turn = 0.0, core_locks.Turn(int(sys.argv[1]))
with turn.taken():
    while computed < float(sys.argv[2]):
        began = time.monotonic()
        time.sleep(0.05)
        computed += 0.05
        print(began, time.monotonic(), flush=True)
        turn.offer()
"""
# Takes its turn with argv[1] threads and keeps it.
SELFISH = """
import sys, time
from samebits import core_locks
with core_locks.Turn(int(sys.argv[1])).taken():
    print("begun", flush=True)
    time.sleep(60)
"""
Moments = list[tuple[float, float]]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))


def _start(num_threads: int, seconds: float, wait_seconds: float = 60.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TRAINING, str(num_threads), str(seconds), str(wait_seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _moments(training: subprocess.Popen[str]) -> Moments:
    output, _ = training.communicate(timeout=60)
    assert training.returncode == 0
    return [(float(began), float(ended)) for began, ended in map(str.split, output.splitlines())]


def _overlap(one: Moments, other: Moments) -> bool:
    return any(a < d and c < b for a, b in one for c, d in other)


def _num_turns(one: Moments, other: Moments) -> int:
    """Count how often the word passed from one to the other."""
    who = [name for _, name in sorted([(began, "one") for began, _ in one] + [(began, "other") for began, _ in other])]
    return sum(before != after for before, after in pairwise(who))


def test_trainings_that_need_all_cores_take_turns() -> None:
    one, other = map(_moments, [_start(ALL_CORES, 2.0), _start(ALL_CORES + 5, 2.0)])
    assert not _overlap(one, other)
    assert _num_turns(one, other) >= 4  # neither waits until the other has ended


@pytest.mark.skipif(ALL_CORES < 2, reason="needs two cores")
def test_trainings_with_cores_for_both_do_not_wait() -> None:
    one, other = map(_moments, [_start(1, 2.0), _start(1, 2.0)])
    assert _overlap(one, other)


def _start_one_that_never_offers_its_turn() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SELFISH, str(ALL_CORES)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline()
    return process


def test_a_killed_training_gives_its_turn_back() -> None:
    with _start_one_that_never_offers_its_turn() as killed:
        other = _start(ALL_CORES, 0.1)
        time.sleep(1.0)
        assert other.poll() is None
        killed.send_signal(signal.SIGKILL)
        assert _moments(other)


def test_nobody_waits_for_ever() -> None:
    with _start_one_that_never_offers_its_turn() as holder:
        try:
            other = _start(ALL_CORES, 2.0, wait_seconds=1.0)
            moments = _moments(other)
            assert moments[-1][1] - moments[0][0] < 3.0  # it waited once, not in each of its turns
        finally:
            holder.kill()


def test_nobody_waits_for_a_stopped_training_and_everybody_for_one_that_goes_on_again() -> None:
    with _start(ALL_CORES, 4.0) as stopped:
        assert stopped.stdout is not None and stopped.stdout.readline()
        stopped.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert _moments(_start(ALL_CORES, 1.0))
            assert time.monotonic() - began < 5.0
            stopped.send_signal(signal.SIGCONT)
            other = _start(ALL_CORES, 1.0)
            assert _num_turns(_moments(stopped)[1:], _moments(other)) >= 2
        finally:
            stopped.kill()


@pytest.mark.parametrize("is_file", [True, False])
def test_a_folder_that_cannot_be_used_costs_a_note(tmp_path: Path, is_file: bool) -> None:
    folder = tmp_path / f"samebits-cores-{os.getuid()}"
    if is_file:
        folder.write_text("")
    else:
        (folder / "next").mkdir(parents=True)
    command = [sys.executable, "-c", TRAINING, "1", "0.1", "60"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("note: trainings on this machine do not take turns (")


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "0").write_text("precious")
    (tmp_path / f"samebits-cores-{os.getuid()}").symlink_to(elsewhere)
    done = subprocess.run([sys.executable, "-c", TRAINING, "1", "0.1", "60"], capture_output=True, text=True)
    assert done.returncode == 0 and "do not take turns" in done.stderr and "a link" in done.stderr
    assert [path.name for path in elsewhere.iterdir()] == ["0"] and (elsewhere / "0").read_text() == "precious"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder that belongs to another user")
def test_a_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / f"samebits-cores-{os.getuid()}"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    done = subprocess.run([sys.executable, "-c", TRAINING, "1", "0.1", "60"], capture_output=True, text=True)
    assert done.returncode == 0 and "do not take turns" in done.stderr and "another user made it" in done.stderr
    assert not list(folder.iterdir())
