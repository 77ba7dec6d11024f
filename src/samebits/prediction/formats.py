"""Predictions as text for people, as JSON or CSV for programs: written one by one, so memory does not grow."""

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from samebits.errors import printable
from samebits.prediction.classification import Failure, Prediction

# What the network says of a file, and the true class if it is known.
Item = tuple[Prediction | Failure, str | None]


@dataclass(frozen=True)
class Layout:
    """The names of the classes, how many to name, the length of the longest path, and whether true classes are known."""

    class_names: tuple[str, ...]
    top: int
    longest: int
    is_labelled: bool

    def ranking(self, prediction: Prediction) -> list[tuple[str, float]]:
        """Return the `top` most probable classes with their probabilities, in nine digits, which tell all float32 apart."""
        order = np.argsort(-prediction.probabilities, kind="stable")[: self.top]
        return [(self.class_names[index], float(f"{prediction.probabilities[index]:.9g}")) for index in order]


def write_text(stream: TextIO, items: Iterable[Item], layout: Layout) -> None:
    """Write a line for each image: its path, the classes and their probabilities; no lines if true classes are known."""
    width = min(layout.longest, 60)
    for item, _ in items:
        if isinstance(item, Prediction) and not layout.is_labelled:
            shares = "   ".join(f"{printable(name)} {100 * share:.2f} %" for name, share in layout.ranking(item))
            print(f"{printable(item.path):{width}}  {shares}", file=stream)


def write_json(stream: TextIO, items: Iterable[Item], layout: Layout) -> None:
    """Write one array with an object for each file: file, predicted, probability and top; or file and error.

    If true classes are known, each object has `true` too.
    """
    before = "[\n"
    for item, true in items:
        values: dict[str, Any] = {"file": item.path}
        if layout.is_labelled:
            values["true"] = true
        if isinstance(item, Prediction):
            ranking = layout.ranking(item)
            values["predicted"], values["probability"] = ranking[0]
            values["top"] = [{"class": name, "probability": share} for name, share in ranking]
        else:
            values["error"] = item.reason
        stream.write(before + json.dumps(values, allow_nan=False))
        before = ",\n"
    stream.write("\n]\n")


def write_csv(stream: TextIO, items: Iterable[Item], layout: Layout) -> None:
    """Write a row for each file: file, error, (true if it is known,) class_1, probability_1, class_2, ..."""
    writer = csv.writer(stream, lineterminator="\n")
    names = [f"{name}_{place}" for place in range(1, layout.top + 1) for name in ("class", "probability")]
    writer.writerow(["file", "error", *(["true"] if layout.is_labelled else []), *names])
    for item, true in items:
        error = printable(item.reason) if isinstance(item, Failure) else ""
        known = [printable(true or "")] if layout.is_labelled else []
        ranking = layout.ranking(item) if isinstance(item, Prediction) else []
        cells = [cell for name, share in ranking for cell in (printable(name), share)] or [""] * len(names)
        writer.writerow([printable(item.path), error, *known, *cells])


FORMATS: dict[str, Callable[[TextIO, Iterable[Item], Layout], None]] = {
    "text": write_text,
    "json": write_json,
    "csv": write_csv,
}
