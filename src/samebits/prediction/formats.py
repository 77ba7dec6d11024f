"""Predictions as text for people, as JSON or CSV for programs: written one by one, so memory does not grow."""

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from samebits.errors import printable
from samebits.prediction.classification import Failure, Prediction

# The most probable classes with their probabilities; none of a failure.
Ranking = list[tuple[str, float]]


@dataclass(frozen=True)
class Ranked:
    """What the network says of a file, and the true class if it is known."""

    item: Prediction | Failure
    ranking: Ranking
    true: str | None = None


@dataclass(frozen=True)
class Layout:
    """The number of classes to name, the length of the longest path, and whether true classes are known."""

    top: int
    longest: int
    is_labelled: bool


def ranking(prediction: Prediction, class_names: tuple[str, ...], top: int) -> Ranking:
    """Return the `top` most probable classes with their probabilities, in nine digits, which tell all float32 apart."""
    order = np.argsort(-prediction.probabilities, kind="stable")[:top]
    return [(class_names[index], float(f"{prediction.probabilities[index]:.9g}")) for index in order]


def write_text(stream: TextIO, items: Iterable[Ranked], layout: Layout) -> None:
    """Write a line for each image: its path, the classes and their probabilities; no lines if true classes are known."""
    width = min(layout.longest, 60)
    for ranked in items:
        if isinstance(ranked.item, Prediction) and not layout.is_labelled:
            shares = "   ".join(f"{printable(name)} {100 * share:.2f} %" for name, share in ranked.ranking)
            print(f"{printable(ranked.item.path):{width}}  {shares}", file=stream)


def write_json(stream: TextIO, items: Iterable[Ranked], layout: Layout) -> None:
    """Write one array with an object for each file: file, predicted, probability and top; or file and error.

    If true classes are known, each object has `true` too.
    """
    before = "[\n"
    for ranked in items:
        values: dict[str, Any] = {"file": ranked.item.path}
        if layout.is_labelled:
            values["true"] = ranked.true
        if isinstance(ranked.item, Prediction):
            values["predicted"], values["probability"] = ranked.ranking[0]
            values["top"] = [{"class": name, "probability": share} for name, share in ranked.ranking]
        else:
            values["error"] = ranked.item.reason
        stream.write(before + json.dumps(values, allow_nan=False))
        before = ",\n"
    stream.write("\n]\n")


def write_csv(stream: TextIO, items: Iterable[Ranked], layout: Layout) -> None:
    """Write a row for each file: file, error, (true if it is known,) class_1, probability_1, class_2, ..."""
    writer = csv.writer(stream, lineterminator="\n")
    names = [f"{name}_{place}" for place in range(1, layout.top + 1) for name in ("class", "probability")]
    writer.writerow(["file", "error", *(["true"] if layout.is_labelled else []), *names])
    for ranked in items:
        error = printable(ranked.item.reason) if isinstance(ranked.item, Failure) else ""
        true = [printable(ranked.true or "")] if layout.is_labelled else []
        cells = [cell for name, share in ranked.ranking for cell in (printable(name), share)] or [""] * len(names)
        writer.writerow([printable(ranked.item.path), error, *true, *cells])


FORMATS: dict[str, Callable[[TextIO, Iterable[Ranked], Layout], None]] = {
    "text": write_text,
    "json": write_json,
    "csv": write_csv,
}
