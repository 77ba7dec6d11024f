"""A trained network applied to image files: in batches, in order, in constant memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from samebits.checkpoint import Checkpoint
from samebits.data import decoding, images
from samebits.errors import UserError
from samebits.evaluation.inference import predict_logits

_BATCH_BYTES = 2**22  # of decoded images
_MAX_BATCH = 256


@dataclass(frozen=True)
class Prediction:
    """What the network says of a file: its input uint8 (height, width, channels), a probability for each class (C,)."""

    path: str
    pixels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Failure:
    """A file that could not be read, and why."""

    path: str
    reason: str


def predict(checkpoint: Checkpoint, paths: Sequence[str], device: torch.device) -> Iterator[Prediction | Failure]:
    """Apply the network to each file, in order. Raises UserError where the checkpoint describes none for images."""
    network = checkpoint.network().to(device)
    shape, normalization = checkpoint.description.image_shape, checkpoint.description.normalization
    if shape[0] not in images.MODES:
        raise UserError(f"the network takes images of {shape[0]} channels; files give 1 (grey) or 3 (colour)")
    batch_size = max(1, min(_MAX_BATCH, _BATCH_BYTES // prod(shape)))
    outcomes = zip(paths, decoding.decode(paths, shape), strict=True)
    while batch := list(islice(outcomes, batch_size)):
        pixels = [outcome.pixels for _, outcome in batch if not isinstance(outcome, str)]
        if pixels:
            normalized = torch.from_numpy(normalization.apply(np.stack(pixels))).to(device)
            rows = iter(predict_logits(network, normalized, batch_size).softmax(1).cpu().numpy())
        for path, outcome in batch:
            if isinstance(outcome, str):
                yield Failure(path, outcome)
            else:
                yield Prediction(path, outcome.pixels, next(rows))
