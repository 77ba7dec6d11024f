"""Images are in memory before the step that needs them, also if memory has no room for all."""

import os
import time
from pathlib import Path

import pytest
import torch

from samebits.read_ahead import ReadAhead, _num_faults

IMAGE_SHAPE = (3, 32, 32)
NUM_IMAGES, NUM_READ = 4000, 200


def num_faults_at(images: torch.Tensor, indices: torch.Tensor) -> int:
    before = _num_faults()
    images[indices].sum()
    return _num_faults() - before


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="memory is emptied by Linux's means")
def test_images_are_read_ahead_once_a_step_had_to_wait(tmp_path: Path) -> None:
    path = tmp_path / "images"
    with path.open("wb") as file:
        file.write(bytes(2 * NUM_IMAGES * torch.Size(IMAGE_SHAPE).numel()))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    storage = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
    images = torch.tensor([], dtype=torch.float16).set_(storage).view(NUM_IMAGES, *IMAGE_SHAPE)
    order = torch.randperm(NUM_IMAGES, generator=torch.Generator().manual_seed(0)).split(NUM_READ)

    ahead = ReadAhead(images)
    if num_faults_at(images, order[0]) < NUM_READ / 2:
        pytest.skip("this file system keeps files in memory")
    ahead.expect(order[1])
    time.sleep(1)
    assert num_faults_at(images, order[1]) < NUM_READ / 10
    assert num_faults_at(images, order[2]) > NUM_READ / 2  # nobody expected them, and no image brings its neighbours
