"""The report page: one self-contained HTML file, which opens from disk without a network."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from samebits import atomic, checkpoint, paths
from samebits.comparison import predicted
from samebits.comparison.outcome import Comparison, SeedComparison
from samebits.comparison.predicted import Predicted
from samebits.data import prepared
from samebits.evaluation.metrics import summary
from samebits.reporting import comparison_tables, lineage, page_charts, page_images, rendering
from samebits.reporting.page_images import Pixels
from samebits.results import Result
from samebits.training import history


def write_result(revision: Result, path: Path) -> None:
    """Write the page of one result. Raises UserError if a part of it is nowhere to be found, or `path` cannot be written."""
    atomic.require_writable(path)
    atomic.write_text(
        path, rendering.render("page", _result(predicted.load(revision)) | {"identity": revision.identity})
    )


def write_comparison(compared: Comparison, path: Path) -> None:
    """Write the page of a comparison; of two networks, with all of network B."""
    tables, who = comparison_tables.tables(compared), comparison_tables.who(compared)
    shown: dict[str, Any] = {"compared": compared, "tables": tables, "who": who}
    if isinstance(compared, SeedComparison):
        chart = page_charts.seeds(compared.accuracy.a.values, compared.accuracy.b.values)
        shown |= {"title": "Seeds against seeds", "sentence": compared.verdict, "seeds_chart": chart}
        atomic.write_text(path, rendering.render("page", shown))
        return
    page = _result(compared.b)
    images, a, b = _test_images(compared.b), compared.a.predictions, compared.b.predictions
    flipped = {
        "Now right": page_images.flipped(images, a, b, np.flatnonzero(b.is_right & ~a.is_right)),
        "Now wrong": page_images.flipped(images, a, b, np.flatnonzero(a.is_right & ~b.is_right)),
    }
    atomic.write_text(path, rendering.render("page", page | shown | {"flipped": flipped}))


def _result(result: Predicted) -> dict[str, Any]:
    revision, table = result.revision, result.predictions
    measured = summary.summarize(table.probabilities, table.labels, table.class_names)
    with revision.copied(paths.HISTORY) as copy:
        rows = history.read(copy)
    with revision.copied(paths.CHECKPOINT) as copy:
        trained = checkpoint.load(copy)
    images = _test_images(result)
    counts = summary.confusion_counts(table.labels, table.predicted, len(table.class_names))
    return {
        "title": result.title,
        "sentence": _sentence(result, measured),
        "classes": [
            # The accuracy of a class is None if it has no test image.
            {"name": name, "accuracy": each["accuracy"] if number else None, "precision": each["precision"]}
            for (name, each), number in zip(measured["per_class"].items(), counts.sum(axis=1), strict=True)
        ],
        # A square root keeps the few errors beside a strong diagonal visible.
        "confusion": [
            [{"count": int(count), "shade": round(100 * math.sqrt(count / max(row.sum(), 1)))} for count in row]
            for row in counts
        ],
        "class_names": table.class_names,
        "curves": page_charts.training_curves(rows),
        "reliability": page_charts.reliability_diagram(summary.calibration(table.probabilities, table.labels)),
        "examples": page_images.labelled(images, table, range(min(page_images.NUM_EXAMPLES, len(table.labels)))),
        "mistakes": page_images.mistakes(images, table),
        "least_sure": page_images.labelled(images, table, page_images.least_sure(table)),
        "filters": page_images.filters(trained),
        "parameters": result.parameters,
        "origin": lineage.origin(revision),
        "machine": lineage.machine(revision),
        "commands": lineage.commands(revision),
    }


def _sentence(result: Predicted, measured: dict[str, Any]) -> str:
    present = [result.predictions.class_names[position] for position in np.unique(result.predictions.labels)]
    accuracy = {name: float(measured["per_class"][name]["accuracy"]) for name in present}
    best, worst = (choose(present, key=lambda name: accuracy[name]) for choose in (max, min))
    low, high = (100 * measured[f"accuracy_{end}"] for end in ("low", "high"))
    return (
        f"{100 * measured['accuracy']:.2f} % of {len(result.predictions.labels):,} test images are classified right "
        f"(95 %: {low:.2f} to {high:.2f}); easiest is {best} ({100 * accuracy[best]:.1f} %), "
        f"hardest {worst} ({100 * accuracy[worst]:.1f} %)."
    )


def _test_images(result: Predicted) -> Pixels:
    with result.revision.copied(result.revision.test_images()) as copy:
        split = prepared.look_at(copy)
    return lambda index: result.description.normalization.pixels(split.images[index : index + 1].numpy())[0]
