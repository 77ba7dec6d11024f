"""The images that the benchmarks train on: drawn, so that they need no data, and normalized as prepare does."""

from pathlib import Path

import torch
from safetensors import torch as safetensors

from samebits.data import normalization, prepared
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
    prepared.write_parts(folder / "train", [safetensors.save({"images": data.images, "labels": data.labels})])


def nothing(data: Split) -> Split:
    """Return no image, in the place of those for validation."""
    return Split(data.images[:0], data.labels[:0])
