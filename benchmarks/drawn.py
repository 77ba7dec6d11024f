"""The images that the benchmarks train on: drawn, so that they need no data, and normalized as prepare does."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from samebits.data import normalization
from samebits.data.prepared import Split
from samebits.data.sources import shapes

IMAGE_SHAPE = (3, 32, 32)
NUM_CLASSES = len(shapes.CLASS_NAMES)


def training_images(num_images: int) -> Split:
    """Draw `num_images` images of 32 x 32 pixels."""
    images, labels = shapes.draw(num_images, 0, "train", progress=False)
    normalized = normalization.of_images("per_channel", images).apply(images)
    return Split(torch.from_numpy(normalized), torch.from_numpy(labels))


def save(data: Split, folder: Path) -> None:
    """Write the images to `folder` as prepare writes those of training."""
    save_file({"images": data.images, "labels": data.labels}, folder / "train.safetensors")


def nothing(data: Split) -> Split:
    """Return no image, in the place of those for validation."""
    return Split(data.images[:0], data.labels[:0])
