"""The table of predictions: one row for each test image."""

from pathlib import Path

import numpy as np
import pandas
from numpy.typing import NDArray

from samebits import atomic


def write(
    path: Path, probabilities: NDArray[np.float32], labels: NDArray[np.int64], class_names: tuple[str, ...]
) -> None:
    """Write index, true and predicted class by name, and each class's probability, as CSV.

    Nine digits tell all float32 values apart, so whoever reads it has the same `probabilities` (N, classes) again.
    """
    names = np.array(class_names)
    table = pandas.DataFrame({"index": range(len(labels)), "true": names[labels]})
    table["predicted"] = names[probabilities.argmax(axis=1)]
    for position, name in enumerate(class_names):
        table[f"probability_{name}"] = probabilities[:, position]
    with atomic.replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")
