"""The pictures that evaluate draws, from predictions, metrics and history."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samebits.evaluation.metrics import summary
from samebits.evaluation.predictions import Predictions
from samebits.reporting import figures

if TYPE_CHECKING:
    import pandas


def draw_charts(
    table: Predictions, metrics: dict[str, Any], history: "pandas.DataFrame", title: str, folder: Path
) -> None:
    """Draw training curves, confusion matrix, accuracy by class and reliability diagram into `folder` as PNG."""
    names, calibration = table.class_names, summary.calibration(table.probabilities, table.labels)
    counts = summary.confusion_counts(table.labels, table.predicted, len(names))  # rows: true classes
    shares = (metrics["per_class"][name]["accuracy"] for name in names)
    accuracies = [share if number else np.nan for share, number in zip(shares, counts.sum(axis=1), strict=True)]
    figures.training_curves(history, folder / "training_curves.png", title)
    figures.confusion_matrix(counts, names, folder / "confusion_matrix.png", title)
    figures.per_class_accuracy(accuracies, metrics["accuracy"], names, folder / "per_class_accuracy.png", title)
    figures.reliability_diagram(calibration, folder / "reliability_diagram.png", title)


def draw_images(
    table: Predictions, images: NDArray[np.uint8], indices: NDArray[np.int64], title: str, path: Path
) -> None:
    """Draw `images` (N, height, width, channels), which are the test images `indices`, with true and predicted label."""
    is_right, captions = table.is_right[indices], []
    for index, right in zip(indices, is_right, strict=True):
        true, guess = (table.class_names[each[index]] for each in (table.labels, table.predicted))
        captions.append(true if right else f"{true}, taken for {guess}")
    figures.labelled_images(images, captions, list(is_right), path, title)
