"""What predictions are worth: the `summary` of every evaluation, and the metrics that a recipe chooses.

Each of the latter is one file here: a function `measure` whose keyword-only arguments are its settings in params.yaml.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samebits import params, parts
from samebits.evaluation.metrics import summary


def measure_all(
    sections: Sequence[params.Part],
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
) -> dict[str, Any]:
    """Return the summary and the chosen metrics of probabilities (N, classes) against labels (N,).

    Raises UserError for probabilities of a diverged network, which are not numbers.
    """
    measured = summary.summarize(probabilities, labels, class_names)
    for section in sections:
        measured |= parts.load("metric", section.name)(probabilities, labels, **section.settings)
    return measured
