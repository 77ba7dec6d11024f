"""What predictions are worth: the `summary` of every evaluation, and the metrics that a recipe chooses.

Each of the latter is one file here: a function `measure` whose keyword-only arguments are its settings in params.yaml.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from samebits import params, parts
from samebits.evaluation.metrics import summary

if TYPE_CHECKING:
    from samebits.evaluation.predictions import Predictions


def measure_all(sections: Sequence[params.Part], table: "Predictions") -> dict[str, Any]:
    """Return the summary and the chosen metrics of predictions.

    Raises UserError for probabilities of a diverged network, which are not numbers.
    """
    measured = summary.summarize(table.probabilities, table.labels, table.class_names)
    for section in sections:
        measured |= parts.load("metric", section.name)(table.probabilities, table.labels, **section.settings)
    return measured
