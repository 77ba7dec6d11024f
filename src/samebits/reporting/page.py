"""The report page: one HTML file with everything in it, that opens from disk without a network."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from samebits import atomic, checkpoint
from samebits.comparison import predicted
from samebits.comparison.compare import OfNetworks, OfSeeds
from samebits.comparison.predicted import Predicted
from samebits.data import prepared
from samebits.evaluation.metrics import summary
from samebits.reporting import comparison_tables as tables_of
from samebits.reporting import lineage, page_charts, page_images
from samebits.reporting.page_images import TestImages
from samebits.results import Result
from samebits.training import history

_TEST_IMAGES = "data/prepared/test.safetensors"
_CHECKPOINT = "data/model/checkpoint.safetensors"
_HISTORY = "data/model/history.csv"


@dataclass(frozen=True)
class ClassRow:
    """A class with its accuracy and precision, as shares; accuracy is None where it has no test image."""

    name: str
    num_images: int
    accuracy: float | None
    precision: float


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix: images, and how dark it is, 0 to 100."""

    count: int
    shade: int


def write_result(revision: Result, path: Path) -> None:
    """Write the page of one result. Raises UserError where something of it cannot be had, or `path` cannot be written."""
    atomic.require_writable(path)
    _write(path, _result(predicted.load(revision)))


def write_comparison(compared: OfNetworks | OfSeeds, path: Path) -> None:
    """Write the page of a comparison; of two networks, with all of network B."""
    shown: dict[str, Any] = {"compared": compared, "tables": tables_of.tables(compared), "who": tables_of.who(compared)}
    if isinstance(compared, OfSeeds):
        chart = page_charts.seeds(compared.accuracy.a.values, compared.accuracy.b.values)
        _write(path, {"title": "Seeds against seeds", "sentence": compared.verdict, "seeds_chart": chart, **shown})
        return
    page = _result(compared.b)
    images, a, b = _test_images(compared.b), compared.a.predictions, compared.b.predictions
    flipped = {
        "Now right": page_images.flipped(images, a, b, compared.pair.flipped_to_right),
        "Now wrong": page_images.flipped(images, a, b, compared.pair.flipped_to_wrong),
    }
    _write(path, page | shown | {"flipped": flipped})


def _write(path: Path, page: dict[str, Any]) -> None:
    templates = Environment(
        loader=PackageLoader("samebits.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    atomic.write_text(path, templates.get_template("page.html.j2").render(page=page))


def _result(result: Predicted) -> dict[str, Any]:
    revision, table = result.revision, result.predictions
    measured = summary.summarize(table.probabilities, table.labels, table.class_names)
    with tempfile.TemporaryDirectory() as name:
        rows = history.read(_copy(revision, _HISTORY, Path(name)))
        trained = checkpoint.load(_copy(revision, _CHECKPOINT, Path(name)))
    images = _test_images(result)
    counts = summary.confusion_counts(table.labels, table.predicted, len(table.class_names))
    return {
        "title": result.title,
        "sentence": _sentence(result, measured),
        "classes": _classes(table.class_names, counts, measured),
        "accuracy": measured["accuracy"],
        "confusion": _confusion(counts),
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
    names, counts = result.predictions.class_names, np.bincount(result.predictions.labels, minlength=1)
    present = [name for position, name in enumerate(names) if position < len(counts) and counts[position]]
    best, worst = (
        choose(present, key=lambda name: float(measured["per_class"][name]["accuracy"])) for choose in (max, min)
    )
    share = {name: f"{100 * measured['per_class'][name]['accuracy']:.1f} %" for name in (best, worst)}
    low, high = (100 * measured[f"accuracy_{end}"] for end in ("low", "high"))
    return (
        f"{100 * measured['accuracy']:.2f} % of {len(result.predictions.labels):,} test images are classified right "
        f"(95 %: {low:.2f} to {high:.2f}); easiest is {best} ({share[best]}), hardest {worst} ({share[worst]})."
    )


def _classes(names: Sequence[str], counts: np.ndarray, measured: dict[str, Any]) -> list[ClassRow]:
    rows = []
    for position, name in enumerate(names):
        number, each = int(counts[position].sum()), measured["per_class"][name]
        rows.append(ClassRow(name, number, each["accuracy"] if number else None, each["precision"]))
    return rows


def _confusion(counts: np.ndarray) -> list[list[Cell]]:
    # A square root keeps the few errors beside a strong diagonal visible.
    return [
        [Cell(int(count), round(100 * math.sqrt(count / row.sum())) if count else 0) for count in row] for row in counts
    ]


def _test_images(result: Predicted) -> TestImages:
    with tempfile.TemporaryDirectory() as name:
        _copy(result.revision, _TEST_IMAGES, Path(name))
        split = prepared.read_split(Path(name), "test")
    return TestImages(split.images, result.description.normalization)


def _copy(revision: Result, path: str, folder: Path) -> Path:
    copy = folder / Path(path).name
    copy.write_bytes(predicted.require(revision, path))
    return copy
