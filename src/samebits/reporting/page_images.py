"""The images of the report page: which test images it shows, as pictures embedded in it."""

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from samebits.checkpoint import Checkpoint
from samebits.evaluation.predictions import Predictions

NUM_EXAMPLES = 24
_NUM_FLIPPED = 12  # each way
_MAX_MISTAKES = 72  # of all classes; if they are too many for it, of those with the most mistakes
_MAX_MISTAKES_PER_CLASS = 6
_MAX_FILTERS = 64
_MAX_TEMPLATES = 40
_MAX_EXACT_SIDE, _MAX_SIDE = 48, 96  # pixels; larger images become smaller JPEG files


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, its description, and what is written under it; `is_right` is None if that is no question."""

    source: str
    told: str
    caption: str
    is_right: bool | None = None


# Gives the test image of an index, uint8 (height, width, channels).
Pixels = Callable[[int], NDArray[np.uint8]]


def labelled(pixels: Pixels, table: Predictions, indices: Iterable[int]) -> list[Picture]:
    """Show test images with true and predicted class."""
    pictures = []
    for index in indices:
        true, guess = (table.class_names[each[index]] for each in (table.labels, table.predicted))
        sure = f"{100 * table.probabilities[index].max():.0f}\N{NO-BREAK SPACE}%"
        is_right = bool(table.is_right[index])
        told = f"Test image {index}: {true}, taken for {guess} ({sure} sure)"
        caption = f"{true} {sure}" if is_right else f"{true}, taken for {guess} {sure}"
        pictures.append(Picture(_uri(pixels(index)), told, caption, is_right))
    return pictures


def flipped(pixels: Pixels, a: Predictions, b: Predictions, indices: NDArray[np.int64]) -> list[Picture]:
    """Show those of the test images `indices` that B is surest of, with the predictions of A and B."""
    pictures = []
    for index in b.surest_first(indices)[:_NUM_FLIPPED]:
        true, before, after = (b.class_names[each[index]] for each in (b.labels, a.predicted, b.predicted))
        told = f"Test image {index}, {true}: A says {before}, B says {after}"
        caption = f"{true}: {before} → {after}"
        pictures.append(Picture(_uri(pixels(index)), told, caption, bool(b.is_right[index])))
    return pictures


def mistakes(pixels: Pixels, table: Predictions) -> dict[str, list[Picture]]:
    """Show the most confident mistakes of each class that has any, the most confident first."""
    number = min(max(_MAX_MISTAKES // len(table.class_names), 1), _MAX_MISTAKES_PER_CLASS)
    wrong = [np.flatnonzero(~table.is_right & (table.labels == label)) for label in range(len(table.class_names))]
    worst = sorted(range(len(wrong)), key=lambda label: -len(wrong[label]))[: _MAX_MISTAKES // number]
    return {
        table.class_names[label]: labelled(pixels, table, table.surest_first(wrong[label])[:number])
        for label in sorted(worst)
        if len(wrong[label])
    }


def least_sure(table: Predictions) -> NDArray[np.int64]:
    """Return the indices of the images whose predicted class has the lowest probability."""
    return np.argsort(table.probabilities.max(axis=1), kind="stable")[:NUM_EXAMPLES]


def filters(trained: Checkpoint) -> tuple[str, list[Picture]] | None:
    """Show the filters of the first convolution over the image, or the weights of a layer over all pixels.

    Grey is a weight of 0. Returns the name of the weights and their pictures; None if no layer can be shown as images.
    """
    channels, height, width = trained.description.image_shape
    names = trained.description.class_names
    if channels not in (1, 3):
        return None
    for name, weights in trained.weights.items():
        if weights.ndim == 4 and weights.shape[1] == channels and min(weights.shape[2:]) > 1:
            shown = weights[:_MAX_FILTERS]
            return name, [_weights(filter, f"filter {number}") for number, filter in enumerate(shown, 1)]
    for name, weights in trained.weights.items():
        if weights.shape == (len(names), channels * height * width):
            shown = weights[:_MAX_TEMPLATES].reshape(-1, channels, height, width)
            return name, [_weights(template, label) for template, label in zip(shown, names, strict=False)]
    return None


def _weights(weights: torch.Tensor, caption: str) -> Picture:
    values = weights.double().numpy()
    largest = np.abs(values).max()
    scaled = np.zeros_like(values) if not np.isfinite(largest) or largest == 0 else values / largest
    pixels = np.rint(127.5 + 127.5 * scaled).astype(np.uint8).transpose(1, 2, 0)
    return Picture(_uri(pixels), f"Weights of {caption}", caption)


def _uri(pixels: NDArray[np.uint8]) -> str:
    """Return uint8 (height, width, channels) as a data URI."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3])
    target = io.BytesIO()
    if max(image.size) <= _MAX_EXACT_SIDE:
        image.save(target, "PNG", optimize=True)
        kind = "png"
    else:
        image.thumbnail((_MAX_SIDE, _MAX_SIDE))
        image.save(target, "JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(target.getvalue()).decode()}"
