"""A trained network applied to image files one by one, on all cores, in order, in constant memory."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from samebits.checkpoint import Checkpoint
from samebits.data import decoding, images
from samebits.errors import UserError, printable
from samebits.evaluation.inference import predict_logits


@dataclass(frozen=True)
class Prediction:
    """What the network says of a file: its input uint8 (height, width, channels) and float32 probabilities (classes,)."""

    path: str
    pixels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Failure:
    """A file that could not be read, and why."""

    path: str
    reason: str


def predict(checkpoint: Checkpoint, paths: Sequence[str], device: torch.device) -> Iterator[Prediction | Failure]:
    """Apply the network to each file, in order; what it says of one does not depend on the others.

    Raises UserError if the network takes no images, or its probabilities are not finite.
    """
    from joblib import cpu_count

    network = checkpoint.network().to(device).eval()
    shape, normalization = checkpoint.description.image_shape, checkpoint.description.normalization
    if shape[0] not in images.MODES:
        raise UserError(f"the network takes images of {shape[0]} channels; files have 1 (grey) or 3 (colour)")

    def classify(path: str, outcome: decoding.Outcome) -> Prediction | Failure:
        if isinstance(outcome, str):
            return Failure(path, outcome)
        # Each image alone: in a batch its last digits would depend on the batch's size.
        normalized = torch.from_numpy(normalization.apply(outcome.pixels[None])).to(device)
        probabilities = predict_logits(network, normalized, batch_size=1).softmax(1)[0].cpu().numpy()
        if not np.isfinite(probabilities).all():
            raise UserError(
                f"the network gives {printable(path)} probabilities that are not finite numbers: train it again"
            )
        return Prediction(path, outcome.pixels, probabilities)

    num_workers = cpu_count() if device.type == "cpu" else 1
    with _one_thread_each(), ThreadPoolExecutor(num_workers) as threads:
        outcomes = decoding.decode(paths, shape)
        tasks = (threads.submit(classify, *each) for each in zip(paths, outcomes, strict=True))
        waiting = deque(islice(tasks, 2 * num_workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(islice(tasks, 1))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let PyTorch compute with one thread: with more, the last digits would depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
