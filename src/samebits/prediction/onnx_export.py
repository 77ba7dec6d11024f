"""A trained network as a self-contained ONNX model, from raw pixels to probabilities, written only if it agrees."""

import json
import warnings
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from samebits import atomic, paths
from samebits.checkpoint import Checkpoint
from samebits.data import prepared
from samebits.data.normalization import Normalization
from samebits.errors import UserError
from samebits.evaluation.inference import predict_logits
from samebits.prediction.trained import Trained

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT = "images", "probabilities"
NUM_CHECKED = 256
_MAX_CHECKED_BYTES = 2**24  # of pixels: the network's activations take many times as much
TOLERANCE = 1e-4  # largest difference of a probability


class _FromPixels(nn.Module):
    """The network with its normalization and softmax: uint8 (N, height, width, channels) to probabilities (N, classes)."""

    def __init__(self, network: nn.Module, normalization: Normalization) -> None:
        super().__init__()
        self._network = network
        # A table of the 256 pixel values normalizes to exactly the numbers that the network was trained on.
        channels = len(normalization.mean)
        values = np.repeat(np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1), channels, axis=3)
        table = torch.from_numpy(normalization.apply(values)).float().reshape(256, channels)
        self.register_buffer("_table", table.T.contiguous())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the probability of each class."""
        table, pixels = self.get_buffer("_table"), images.long()
        normalized = torch.stack([table[channel][pixels[..., channel]] for channel in range(len(table))], dim=1)
        logits: torch.Tensor = self._network(normalized)
        return logits.softmax(1)


def convert(trained: Trained) -> "onnx.ModelProto":
    """Return the ONNX model: input `images` uint8 (N, height, width, channels), any N; output `probabilities` (N, classes).

    Its metadata hold class_names, image_shape (channels, height, width) and recipe as JSON, and checkpoint_md5.
    """
    checkpoint, description = trained.checkpoint, trained.checkpoint.description
    channels, height, width = description.image_shape
    whole = _FromPixels(checkpoint.network(), description.normalization).eval()
    example = torch.zeros(2, height, width, channels, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about PyTorch's own internals
        program = torch.onnx.export(
            whole,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # names this machine's files in which the operation was traced
    meaning = {
        "class_names": json.dumps(description.class_names, ensure_ascii=False),
        "image_shape": json.dumps(description.image_shape),
        "recipe": json.dumps(checkpoint.recipe, sort_keys=True),
        "checkpoint_md5": trained.md5,
    }
    for key, value in meaning.items():
        model.metadata_props.add(key=key, value=value)
    return model


def check(path: Path, checkpoint: Checkpoint, images: NDArray[np.uint8], takes: type[np.generic] = np.uint8) -> float:
    """Run the model in `path`, whose input type is `takes`, on images (N, height, width, channels).

    Returns the largest difference of a probability from the network's. Raises UserError if that is more than TOLERANCE,
    a predicted class differs, or the network's own probabilities are not finite.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    # One alone and the rest at once: the number of images is free.
    found = np.concatenate([session.run([OUTPUT], {INPUT: part.astype(takes)})[0] for part in (images[:1], images[1:])])
    normalized = torch.from_numpy(checkpoint.description.normalization.apply(images))
    expected = predict_logits(checkpoint.network(), normalized, len(images)).softmax(1).numpy()
    if not np.isfinite(expected).all():
        raise UserError(
            "the network gives probabilities that are not finite numbers: nothing was written. Train it again"
        )
    difference = float(np.abs(found - expected).max())
    if not np.isfinite(found).all() or difference > TOLERANCE or (found.argmax(1) != expected.argmax(1)).any():
        raise UserError(f"the ONNX model differs from the network by up to {difference:.1e}: nothing was written")
    return difference


def export(folder: Path, trained: Trained, path: Path) -> None:
    """Check the ONNX model, write it to `path`, whole or not at all, and print what was checked."""
    import onnx

    atomic.require_writable(path)
    images, what = images_to_check(folder, trained)
    with atomic.replacing(path) as temporary:
        onnx.save_model(convert(trained), str(temporary), format="protobuf")
        difference = check(temporary, trained.checkpoint, images)
    print(f"{path}: the same classes as the network on {what}, probabilities within {difference:.1e}")


def images_to_check(folder: Path, trained: Trained) -> tuple[NDArray[np.uint8], str]:
    """Return up to NUM_CHECKED images, uint8 (N, height, width, channels), for a check, and what they are: test images if the workspace has some."""
    shape = trained.checkpoint.description.image_shape
    number = max(2, min(NUM_CHECKED, _MAX_CHECKED_BYTES // prod(shape)))
    with suppress(UserError):
        description = prepared.read_description(folder / paths.PREPARED)
        if description.image_shape == shape:
            test = prepared.look_at(folder / paths.split("test"))
            images = description.normalization.pixels(test.images[:number].numpy())
            return images, f"{len(images)} test images of {description.source}"
    channels, height, width = shape
    random = np.random.default_rng(0).integers(0, 256, (number, height, width, channels), dtype=np.uint8)
    return random, f"{number} random images (data/prepared holds no test images of this size)"
