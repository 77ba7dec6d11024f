"""More images than memory: what a stage holds at once does not grow with their number."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Repository

NUM_IMAGES = (4_000, 16_000)
MARGIN = 16e6  # bytes; the images of the larger run are 50 MB as bytes and 100 MB prepared


def peak_of_own_memory(repository: Repository, stage: str) -> int:
    """Run a stage and return the most memory, in bytes, that it had of its own: pages of no file."""
    command = ("python", f"stages/{stage}.py")
    environment = repository.environment()  # cold: a program that starts warm is another process
    process = subprocess.Popen(command, cwd=repository.root, env=environment, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        peak = max([peak, *(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))])
        time.sleep(0.005)
    assert process.returncode == 0
    return peak


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_four_times_the_images_take_the_same_memory(fresh: Repository) -> None:
    def resize(values: dict, num_images: int) -> None:
        values["recipe"] = "linear"
        values["data"].update(num_validation=num_images // 8)
        values["data"]["shapes"].update(num_train=num_images, num_test=num_images // 2)
        values["recipes"]["linear"]["train"].update(num_epochs=1, batch_size=100, report_every_steps=20)

    peaks: dict[str, list[int]] = {stage: [] for stage in ("prepare", "train", "evaluate")}
    for num_images in NUM_IMAGES:
        fresh.edit(lambda values, number=num_images: resize(values, number))
        for stage, measured in peaks.items():
            measured.append(peak_of_own_memory(fresh, stage))
    assert min(map(min, peaks.values())) > 50e6  # it was the stage that was measured
    growth = {stage: after - before for stage, (before, after) in peaks.items()}
    assert max(growth.values()) < MARGIN, growth
