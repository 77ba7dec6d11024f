"""The embedded data set: the same bytes from every processor, in every amount."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from samebits import portability
from samebits.data.sources import shapes

TRAIN_2000 = "e24adc5f98bf52b387ae2fb76ed229e64ed39ba5871979ad47b1b2e36f77689a"
PROCESSOR_FEATURES = [name for name in __cpu_dispatch__ if __cpu_features__[name]]
# Of this process conftest has switched off those of AVX-512.
AVX512 = [name for name in portability.SETTINGS["NPY_DISABLE_CPU_FEATURES"].split() if name in __cpu_dispatch__]


def digest(images: np.ndarray, labels: np.ndarray) -> str:
    return hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()


def test_bytes_are_the_recorded_ones() -> None:
    assert digest(*shapes.draw(2000, seed=0, split="train")) == TRAIN_2000


@pytest.mark.parametrize("num_kept", range(len(PROCESSOR_FEATURES) + 1))
def test_bytes_do_not_depend_on_the_processor(num_kept: int) -> None:
    disabled = [*PROCESSOR_FEATURES[num_kept:], *AVX512]
    program = (
        "import sys\n"
        "from numpy._core._multiarray_umath import __cpu_features__\n"
        "from samebits.data.sources import shapes\n"
        "assert not any(__cpu_features__[name] for name in sys.argv[1:])\n"
        "images, labels = shapes.draw(2000, seed=0, split='train')\n"
        "sys.stdout.buffer.write(images.tobytes() + labels.astype('<i8').tobytes())\n"
    )
    environment = os.environ | {
        "NPY_DISABLE_CPU_FEATURES": " ".join(disabled),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    drawn = subprocess.run(
        [sys.executable, "-c", program, *disabled], env=environment, stdout=subprocess.PIPE, check=True
    )
    assert hashlib.sha256(drawn.stdout).hexdigest() == TRAIN_2000


def test_shapes_types_and_ranges() -> None:
    images, labels = shapes.draw(1001, seed=1, split="test")
    assert images.shape == (1001, 32, 32, 3) and images.dtype == np.uint8
    assert labels.shape == (1001,) and labels.dtype == np.int64
    assert images.min() == 0 and images.max() == 255
    assert len(shapes.CLASS_NAMES) == len(set(shapes.CLASS_NAMES)) == 10


def test_classes_are_balanced_and_shuffled() -> None:
    _, labels = shapes.draw(2000, seed=0, split="train")
    for chunk in (labels[:1000], labels[1000:]):
        assert np.bincount(chunk).tolist() == [100] * 10
        assert np.any(np.diff(chunk) < 0)
    assert not np.array_equal(labels[:1000], labels[1000:])


@pytest.mark.parametrize("num_images", [1, 500, 1000, 1200])
def test_fewer_pictures_are_the_beginning_of_more(num_images: int) -> None:
    images, labels = shapes.draw(1500, seed=3, split="train")
    fewer_images, fewer_labels = shapes.draw(num_images, seed=3, split="train")
    assert np.array_equal(fewer_images, images[:num_images])
    assert np.array_equal(fewer_labels, labels[:num_images])


def test_every_picture_is_different() -> None:
    # Seeded with a plain list of seed, split and chunk, seed 2**32 would give the test split of seed 0.
    streams = [(0, "train"), (0, "test"), (1, "train"), (2**32, "train")]
    images = np.concatenate([shapes.draw(1100, seed=seed, split=split)[0] for seed, split in streams])
    pictures = [image.tobytes() for image in images]
    assert len(set(pictures)) == len(pictures)
