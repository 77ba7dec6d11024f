"""Which pictures of a result are drawn, from its predictions and its history."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samebits import atomic
from samebits.evaluation.metrics import summary
from samebits.reporting import figures

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Evaluated:
    """A trained network on the test images: probabilities (N, classes), true labels (N,), metrics, history."""

    title: str
    class_names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    metrics: dict[str, Any]
    history: "pandas.DataFrame"

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image (N,)."""
        predicted: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted


def most_confident_mistakes(result: Evaluated, number: int) -> NDArray[np.int64]:
    """Return the indices of up to `number` misclassified images, the most confident first."""
    wrong = np.flatnonzero(result.predicted != result.labels)
    return wrong[np.argsort(-result.probabilities.max(axis=1)[wrong], kind="stable")][:number]


def draw_charts(result: Evaluated, folder: Path) -> None:
    """Draw training curves, confusion matrix, accuracy by class and reliability diagram into `folder` as PNG."""
    names, calibration = result.class_names, summary.calibration(result.probabilities, result.labels)
    confusion = summary.confusion_counts(result.labels, result.predicted, len(names))
    accuracies = [result.metrics["per_class"][name]["accuracy"] for name in names]
    charts = {
        "training_curves": partial(figures.training_curves, result.history),
        "confusion_matrix": partial(figures.confusion_matrix, confusion, names),
        "per_class_accuracy": partial(figures.per_class_accuracy, accuracies, result.metrics["accuracy"], names),
        "reliability_diagram": partial(
            figures.reliability_diagram,
            calibration.confidence,
            calibration.accuracy,
            calibration.count,
            calibration.error,
        ),
    }
    for name, draw in charts.items():
        with atomic.replacing(folder / f"{name}.png") as path:
            draw(path, title=result.title)


def draw_images(
    result: Evaluated, heading: str, images: NDArray[np.uint8], indices: NDArray[np.int64], path: Path
) -> None:
    """Draw `images` (N, height, width, channels), which are the test images `indices`, with true and predicted label."""
    labels, predicted = result.labels[indices], result.predicted[indices]
    captions = [
        result.class_names[true]
        if true == guess
        else f"{result.class_names[true]}, taken for {result.class_names[guess]}"
        for true, guess in zip(labels, predicted, strict=True)
    ]
    with atomic.replacing(path) as temporary:
        figures.labelled_images(images, captions, list(labels == predicted), temporary, f"{heading}: {result.title}")
