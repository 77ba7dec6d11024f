"""What a killed write leaves is removed by the next one, and what a living one writes is not."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from samebits import atomic

WRITE = """
import sys, time
from pathlib import Path
from samebits import atomic
with atomic.replacing(Path(sys.argv[1])) as path:
    path.write_bytes(bytes(1000))
    print("half", flush=True)
    sys.stdin.read()
"""


def start_writing(path: Path) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdin=pipe, stdout=pipe)
    assert process.stdout is not None and process.stdout.readline() == b"half\n"
    return process


def kill(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_what_a_killed_write_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    for process in [start_writing(each) for each in (path, path, tmp_path / "test.safetensors")]:
        kill(process)
    (tmp_path / ".train.safetensors.backup").mkdir()  # somebody's own
    assert len(hidden(tmp_path)) == 4 and not path.exists()
    assert len(list(atomic.leftovers(tmp_path))) == 3
    atomic.write_text(path, "whole")
    (own, other) = sorted(hidden(tmp_path), reverse=True)
    assert path.read_text() == "whole" and own == ".train.safetensors.backup" and other.startswith(".test.safetensors.")


def test_a_living_write_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    process = start_writing(path)
    try:
        assert list(atomic.leftovers(tmp_path)) == []
        atomic.write_text(path, "second")
        assert path.read_text() == "second"
        process.communicate(b"", timeout=30)
    finally:
        kill(process)
    assert process.returncode == 0 and path.read_bytes() == bytes(1000) and os.listdir(tmp_path) == ["file"]


def test_many_writers_of_one_path_remove_nothing_of_each_other(tmp_path: Path) -> None:
    path, errors = tmp_path / "file", []

    def write(text: str) -> None:
        try:
            for _ in range(100):
                atomic.write_text(path, text)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(str(number) * 100,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(set(path.read_text())) == 1 and os.listdir(tmp_path) == ["file"]
