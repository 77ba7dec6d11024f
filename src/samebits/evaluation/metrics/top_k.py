"""Top-k accuracy: how often the true class is among the k most probable ones."""

import numpy as np
from numpy.typing import NDArray

from samebits.quantities import Count


def measure(probabilities: NDArray[np.floating], labels: NDArray[np.int64], *, k: Count) -> dict[str, float]:
    """Return `top_<k>_accuracy` of probabilities (N, classes) against labels (N,); of equal ones the first class counts."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return {f"top_{k}_accuracy": round(float((best == labels[:, None]).any(axis=1).mean()), 6)}
