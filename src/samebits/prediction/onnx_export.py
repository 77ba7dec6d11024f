"""A trained network as an ONNX model that stands alone: raw pixels in, probabilities out; written only when it agrees."""

import json
import warnings
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from samebits import atomic
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
_CHECKED_BYTES = 2**27  # at most, of random images
TOLERANCE = 1e-4  # of a probability


class _FromPixels(nn.Module):
    """The network with all that belongs to it: from uint8 (N, height, width, channels) to probabilities (N, classes)."""

    def __init__(self, network: nn.Module, normalization: Normalization) -> None:
        super().__init__()
        self._network = network
        # There are 256 pixel values, so the normalization is a table: exactly the numbers that the network was trained on.
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

    The metadata hold class_names (JSON), image_shape (channels, height, width), recipe and checkpoint_md5.
    """
    channels, height, width = trained.checkpoint.description.image_shape
    whole = _FromPixels(trained.checkpoint.network(), trained.checkpoint.description.normalization).eval()
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
    for node in model.graph.node:  # where in which file on this machine each operation was traced
        del node.metadata_props[:]
    meaning = {
        "class_names": json.dumps(trained.checkpoint.description.class_names, ensure_ascii=False),
        "image_shape": json.dumps(trained.checkpoint.description.image_shape),
        "recipe": json.dumps(trained.checkpoint.recipe, sort_keys=True),
        "checkpoint_md5": trained.md5,
    }
    for key, value in meaning.items():
        model.metadata_props.add(key=key, value=value)
    return model


def check(path: Path, checkpoint: Checkpoint, images: NDArray[np.uint8], takes: type[np.generic] = np.uint8) -> float:
    """Run the model in `path` on images (N, height, width, channels), which it `takes` as this type.

    Return the largest difference of a probability from the network's.

    Raises UserError where it differs by more than TOLERANCE, or finds another class the most probable one, or where the
    network itself gives no finite numbers.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    # All at once and one alone: the number of images is free.
    found = np.concatenate([session.run([OUTPUT], {INPUT: part.astype(takes)})[0] for part in (images[:1], images[1:])])
    normalized = torch.from_numpy(checkpoint.description.normalization.apply(images))
    expected = predict_logits(checkpoint.network(), normalized, len(images)).softmax(1).numpy()
    if not np.isfinite(expected).all():
        raise UserError(
            "the network gives probabilities that are not finite numbers: it was not written. Train it again"
        )
    difference = float(np.abs(found - expected).max())
    if not np.isfinite(found).all() or difference > TOLERANCE or (found.argmax(1) != expected.argmax(1)).any():
        raise UserError(f"the ONNX model differs from the network by up to {difference:.1e}: it was not written")
    return difference


def export(folder: Path, trained: Trained, path: Path) -> None:
    """Write the ONNX model to `path`, checked, whole or not at all; print what was checked."""
    import onnx

    atomic.require_writable(path)
    images, what = images_to_check(folder, trained)
    try:
        with atomic.replacing(path) as temporary:
            onnx.save_model(convert(trained), str(temporary))
            difference = check(temporary, trained.checkpoint, images)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}") from None
    print(f"{path}: the same classes as the network on {what}, probabilities within {difference:.1e}")


def images_to_check(folder: Path, trained: Trained) -> tuple[NDArray[np.uint8], str]:
    """Return up to 256 images to run a model on, and what they are: the first test images where the workspace has them in this shape."""
    shape = trained.checkpoint.description.image_shape
    try:
        description = prepared.read_description(folder / "data/prepared")
        if description.image_shape == shape:
            test = prepared.read_split(folder / "data/prepared", "test")
            images = description.normalization.pixels(test.images[:NUM_CHECKED].numpy())
            return images, f"{len(images)} test images of {description.source}"
    except UserError:
        pass
    channels, height, width = shape
    number = max(2, min(NUM_CHECKED, _CHECKED_BYTES // prod(shape)))
    random = np.random.default_rng(0).integers(0, 256, (number, height, width, channels), dtype=np.uint8)
    return random, f"{number} random images (data/prepared holds no test images of this size)"
