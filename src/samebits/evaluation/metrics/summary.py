"""What predictions are worth: accuracy with its interval, loss, calibration, and each class by itself."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samebits.errors import UserError

NUM_BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Test images in equal-width bins of the confidence (the probability of the predicted class), each array (bins,).

    `confidence` and `accuracy` are means over a bin's images, NaN where it is empty. `error` is the expected calibration
    error: the mean of |accuracy - confidence|, weighted by `count` (Guo et al., On Calibration of Modern Neural Networks,
    2017, equation 3).
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]
    error: float


def calibration(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> Calibration:
    """Compare confidence with accuracy for probabilities (N, classes) and true labels (N,)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = bins_of(confidence)
    count = np.bincount(bins, minlength=NUM_BINS)
    sums = [np.bincount(bins, weights, minlength=NUM_BINS) for weights in (confidence, correct)]
    with np.errstate(invalid="ignore"):
        mean_confidence, accuracy = (total / count for total in sums)
    error = float(np.abs(sums[1] - sums[0]).sum() / len(labels))
    return Calibration(mean_confidence, accuracy, count, error)


def bins_of(confidence: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the bin of each confidence (N,): open on the left and closed on the right, as in the paper."""
    bins: NDArray[np.int64] = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    return bins


def confusion_counts(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Count images by true class (rows) and predicted class (columns): int64 (classes, classes)."""
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def cross_entropies(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cross-entropy (nats) of each image (N,), for probabilities (N, classes) and true labels (N,)."""
    tiny = np.finfo(np.float64).tiny  # a probability of 0 costs much, but a finite loss
    losses: NDArray[np.float64] = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], tiny))
    return losses


def summarize(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Return the metrics of probabilities (N, classes) against labels (N,), each a number rounded to 6 decimals.

    `accuracy_low` and `accuracy_high` bound the accuracy's 95 % interval (Wilson 1927). `per_class.<name>.accuracy` is the
    share of that class's images classified right, `precision` the share of the images predicted to be of that class that are; 0 if there are none. Raises UserError for probabilities of a diverged network, which are not numbers.
    """
    if not np.isfinite(probabilities).all():
        raise UserError(
            "the network's outputs are not finite numbers, so its training diverged: "
            "lower train.optimizer.learning_rate of this recipe in params.yaml"
        )
    counts = confusion_counts(labels, probabilities.argmax(axis=1), len(class_names))
    right, total = int(counts.trace()), int(counts.sum())
    low, high = wilson_interval(right, total)
    loss = cross_entropies(probabilities, labels).mean()
    per_class = {
        name: {
            "accuracy": _share(counts[index, index], counts[index].sum()),
            "precision": _share(counts[index, index], counts[:, index].sum()),
        }
        for index, name in enumerate(class_names)
    }
    return {
        "accuracy": _share(right, total),
        "accuracy_low": round(low, 6),
        "accuracy_high": round(high, 6),
        "loss": round(float(loss), 6) + 0.0,  # 0.0 where rounding gives -0.0
        "calibration_error": round(calibration(probabilities, labels).error, 6),
        "per_class": per_class,
    }


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, `right` of `total` (Wilson, Probable inference, 1927).

    scipy.stats has it too, for 0.7 s of import in every evaluation.
    """
    z_squared = NormalDist().inv_cdf(0.975) ** 2
    centre = right + z_squared / 2
    half_width = math.sqrt(z_squared * (right * (total - right) / total + z_squared / 4))
    return max(0.0, (centre - half_width) / (total + z_squared)), min(1.0, (centre + half_width) / (total + z_squared))


def _share(part: int, whole: int) -> float:
    return round(float(part / whole), 6) if whole else 0.0
