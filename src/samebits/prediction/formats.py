"""Predictions as text for people, as JSON or CSV for programs: written one by one, so memory does not grow."""

import csv
import json
from collections.abc import Callable, Iterable
from typing import TextIO

import numpy as np

from samebits.errors import printable
from samebits.prediction.classification import Failure, Prediction

# The most probable classes with their probabilities; none of a failure.
Ranking = list[tuple[str, float]]
Ranked = tuple[Prediction | Failure, Ranking]


def ranking(prediction: Prediction, class_names: tuple[str, ...], top: int) -> Ranking:
    """Return the `top` most probable classes with their probabilities, in nine digits, which tell all float32 apart."""
    order = np.argsort(-prediction.probabilities, kind="stable")[:top]
    return [(class_names[index], float(f"{prediction.probabilities[index]:.9g}")) for index in order]


def write_text(stream: TextIO, items: Iterable[Ranked], top: int, longest: int) -> None:
    """Write a line for each image: its name, as wide as the `longest`, the classes and their probabilities."""
    width = min(longest, 60)
    for item, ranked in items:
        if isinstance(item, Prediction):
            shares = "   ".join(f"{printable(name)} {100 * share:.2f} %" for name, share in ranked)
            print(f"{printable(item.path):{width}}  {shares}", file=stream)


def write_json(stream: TextIO, items: Iterable[Ranked], top: int, longest: int) -> None:
    """Write one array with an object for each file: file, predicted, probability and top; or file and error."""
    before = "[\n"
    for item, ranked in items:
        values: dict[str, object] = {"file": item.path}
        if isinstance(item, Prediction):
            values |= {"predicted": ranked[0][0], "probability": ranked[0][1]}
            values["top"] = [{"class": name, "probability": share} for name, share in ranked]
        else:
            values["error"] = item.reason
        stream.write(before + json.dumps(values, allow_nan=False))
        before = ",\n"
    stream.write("\n]\n")


def write_csv(stream: TextIO, items: Iterable[Ranked], top: int, longest: int) -> None:
    """Write a row for each file: file, error, class_1, probability_1, class_2, ..."""
    writer = csv.writer(stream, lineterminator="\n")
    names = [f"{name}_{place}" for place in range(1, top + 1) for name in ("class", "probability")]
    writer.writerow(["file", "error", *names])
    for item, ranked in items:
        error = printable(item.reason) if isinstance(item, Failure) else ""
        cells = [cell for name, share in ranked for cell in (printable(name), share)] or [""] * len(names)
        writer.writerow([printable(item.path), error, *cells])


FORMATS: dict[str, Callable[[TextIO, Iterable[Ranked], int, int], None]] = {
    "text": write_text,
    "json": write_json,
    "csv": write_csv,
}
