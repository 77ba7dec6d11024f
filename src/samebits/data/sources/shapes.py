"""The embedded data set "shapes": ten classes of 32x32 colour pictures, drawn from a seed.

The bytes are the same on every processor: everything is fixed-point int32 arithmetic on exact integers from NumPy's
PCG64. Without floating point, no processor can round or reorder anything in its own way.

Lengths in a picture are in steps, 64 to the pixel. A shape has its own coordinates, in which its radius is 256.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray
from tqdm import tqdm

from samebits import params
from samebits.data.raw import RawDataset, RawSplit, on_disk

Integers = NDArray[np.int32]

SIDE = 32
CHUNK = 1000
SPLITS = {"train": 0, "test": 1}

# The unit of each fixed-point number: pixel in steps, radius in a shape's coordinates, cosine, turn, coverage of a pixel.
PIXEL = 64
UNIT = 256
ONE = 1024
RIGHT_ANGLE = 64
OPAQUE = 256

# Chosen by trial: softmax regression gets 32 % of the test images right, a LeNet 88 % after two epochs.
BACKGROUND = (20, 120)
CONTRAST = (12, 92)
RADIUS = (6 * PIXEL, 11 * PIXEL)
MARGIN = 13 * PIXEL
MAX_TURN = 45
NUM_BARS = 5
BAR_COLOUR = (20, 180)
MAX_SLOPE = 4
NOISE_LEVELS = 64
INVERTED_PERCENT = 6


def _disc(x: Integers, y: Integers, radius: int = UNIT) -> Integers:
    return (radius * radius - x * x - y * y) // (2 * radius)


def _box(x: Integers, y: Integers, half_width: int | Integers, half_height: int | Integers) -> Integers:
    return np.minimum(half_width - np.abs(x), half_height - np.abs(y))


def _triangle(x: Integers, y: Integers) -> Integers:
    slope: Integers = 128 + y // 2 - np.abs(x) * 222 // 256  # 222 / 256 is the cosine of 30 degrees
    return np.minimum(128 - y, slope)


def _diagonal(depth: Integers) -> Integers:
    distance: Integers = depth * 181 // 256  # 181 / 256 is the cosine of 45 degrees
    return distance


# Each shape maps coordinates, x to the right and y downwards, to the depth within its outline: negative outside, and
# close to the distance from the outline near it, which makes the edges smooth.
SHAPES: dict[str, Callable[[Integers, Integers], Integers]] = {
    "disc": _disc,
    "ring": lambda x, y: np.minimum(_disc(x, y), -_disc(x, y, 140)),
    "crescent": lambda x, y: np.minimum(_disc(x, y), -_disc(x - 120, y, 210)),
    "square": lambda x, y: _box(x, y, 215, 215),
    "cross": lambda x, y: np.maximum(_box(x, y, 250, 80), _box(x, y, 80, 250)),
    "triangle": _triangle,
    "star": lambda x, y: np.maximum(_triangle(x, y), _triangle(x, -y)),
    "hourglass": lambda x, y: np.minimum(225 - np.abs(y), _diagonal(30 + np.abs(y) - np.abs(x))),
    "heart": lambda x, y: np.maximum(  # a square on its corner, with a disc on each of the upper sides
        _diagonal(190 - np.abs(x) - np.abs(y - 45)), _disc(np.abs(x) - 95, y + 50, 134)
    ),
    "arrow": lambda x, y: np.maximum(np.minimum(-y, _diagonal(250 + y - np.abs(x))), _box(x, y - 100, 70, 150)),
}
CLASS_NAMES: tuple[str, ...] = tuple(SHAPES)


def read(data: params.Data, _root: Path) -> RawDataset:
    """Draw the training and test images that `data.shapes` counts, from `data.seed`."""
    counts = {"train": data.shapes.num_train, "test": data.shapes.num_test}
    train, test = (RawSplit(*draw(count, data.seed, split)) for split, count in counts.items())
    return RawDataset(CLASS_NAMES, train, test)


def draw(num_images: int, seed: int, split: str, progress: bool = True) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw the first `num_images` pictures of a split, "train" or "test"; the two are independent of each other.

    Return the images, uint8 (num_images, 32, 32, 3) from 0 to 255, on disk, and the labels, int64 (num_images,), positions in
    CLASS_NAMES. Every 1,000 hold 100 of each class; fewer are the beginning of more. `progress` shows a bar if standard
    error is a terminal.
    """
    labels = np.empty(num_images, dtype=np.int64)

    def chunks() -> Iterator[NDArray[np.uint8]]:
        # For tqdm, None means: hidden unless standard error is a terminal.
        with tqdm(total=num_images, desc=f"Drawing {split}", unit=" images", disable=None if progress else True) as bar:
            for chunk, start in enumerate(range(0, num_images, CHUNK)):
                # Each chunk has its own key, so that a picture does not depend on how many are drawn.
                random = Generator(PCG64(SeedSequence(seed, spawn_key=(SPLITS[split], chunk))))
                count = min(CHUNK, num_images - start)
                images, chunk_labels = _draw_chunk(random)
                labels[start : start + count] = chunk_labels[:count]
                yield images[:count]
                bar.update(count)

    return on_disk(chunks(), (SIDE, SIDE, 3)), labels


def _draw_chunk(random: Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw CHUNK pictures with their labels: sorted by class, which makes a class one slice, then shuffled."""
    background = _integers(random, *BACKGROUND, 3)
    # Channels first, because NumPy is slow if the last axis is short.
    picture = np.empty((CHUNK, 3, SIDE, SIDE), dtype=np.int32)
    picture[:] = background
    for _ in range(NUM_BARS):
        _paint(picture, _bars(random), _integers(random, *BAR_COLOUR, 3))
    _paint(picture, _shapes(random), background + _integers(random, *CONTRAST, 3))
    _light(picture, random)
    inverted = random.integers(0, 100, size=CHUNK) < INVERTED_PERCENT
    picture[inverted] = 255 - picture[inverted]
    picture += random.integers(0, NOISE_LEVELS, size=picture.shape, dtype=np.uint8)
    picture -= NOISE_LEVELS // 2
    order = random.permutation(CHUNK)
    images = np.clip(picture, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    labels = np.repeat(np.arange(len(SHAPES), dtype=np.int64), CHUNK // len(SHAPES))
    return images[order], labels[order]


def _integers(random: Generator, low: int, high: int, *channels: int) -> Integers:
    """Draw an integer from `low` to `high` - 1 for each picture (and channel), shaped to broadcast over its pixels."""
    return random.integers(low, high, size=(CHUNK, *channels, 1, 1), dtype=np.int32)


def _shapes(random: Generator) -> Integers:
    """Place a shape of its class in each picture; return its coverage (CHUNK, SIDE, SIDE)."""
    radius = _integers(random, *RADIUS)
    x, y = _place(random, MARGIN, MAX_TURN, radius)
    depth = np.empty_like(x)
    num_each = CHUNK // len(SHAPES)
    for label, shape in enumerate(SHAPES.values()):
        rows = slice(label * num_each, (label + 1) * num_each)
        depth[rows] = shape(x[rows], y[rows])
    return _coverage(depth * radius // UNIT)


def _bars(random: Generator) -> Integers:
    """Place a bar in each picture, anything from a dot to a long line; return its coverage."""
    x, y = _place(random, 0, RIGHT_ANGLE, UNIT)
    half_length = _integers(random, PIXEL // 2, 12 * PIXEL)
    half_width = _integers(random, PIXEL // 2, 2 * PIXEL)
    return _coverage(_box(x, y, half_length, half_width))


def _place(random: Generator, margin: int, max_turn: int, size: int | Integers) -> tuple[Integers, Integers]:
    """Place something of `size` steps anywhere in each picture; return its coordinates x, y (CHUNK, SIDE, SIDE).

    Its centre is at least `margin` steps from the border. It is turned by up to `max_turn` to either side.
    """
    steps = np.arange(SIDE, dtype=np.int32) * PIXEL + PIXEL // 2
    across = steps - _integers(random, margin, SIDE * PIXEL - margin)
    down = steps[:, None] - _integers(random, margin, SIDE * PIXEL - margin)
    # With t = turn / RIGHT_ANGLE, (1 - t²) / (1 + t²) is the cosine of an angle and 2t / (1 + t²) its sine.
    turn = _integers(random, -max_turn, max_turn + 1)
    squares = RIGHT_ANGLE * RIGHT_ANGLE + turn * turn
    cosine = ONE * (RIGHT_ANGLE * RIGHT_ANGLE - turn * turn) // squares * UNIT // size
    sine = ONE * (2 * RIGHT_ANGLE * turn) // squares * UNIT // size
    return (cosine * across + sine * down) // ONE, (cosine * down - sine * across) // ONE


def _coverage(depth: Integers) -> Integers:
    """Convert the depth of the pixels' centres, in steps, to how much of each pixel is covered: 0 to OPAQUE."""
    return np.clip(depth * (OPAQUE // PIXEL) + OPAQUE // 2, 0, OPAQUE)


def _paint(picture: Integers, coverage: Integers, colour: Integers) -> None:
    layer = colour - picture
    layer *= coverage[:, None]
    layer //= OPAQUE
    picture += layer


def _light(picture: Integers, random: Generator) -> None:
    """Brighten one side of each picture and darken the other."""
    pixels = np.arange(SIDE, dtype=np.int32) - SIDE // 2
    across = _integers(random, -MAX_SLOPE, MAX_SLOPE + 1, 1) * pixels
    down = _integers(random, -MAX_SLOPE, MAX_SLOPE + 1, 1) * pixels[:, None]
    picture *= OPAQUE + across + down
    picture //= OPAQUE
