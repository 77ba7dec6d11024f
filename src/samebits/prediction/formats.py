"""Predictions as text for people, as JSON or CSV for programs: written one by one, so that their number is no matter."""

import csv
import json
from typing import TextIO

import numpy as np

from samebits.errors import printable
from samebits.prediction.classification import Failure, Prediction

Ranking = list[tuple[str, float]]


def ranking(prediction: Prediction, class_names: tuple[str, ...], top: int) -> Ranking:
    """Return the `top` most probable classes with their probabilities, in nine digits, which tell all float32 apart."""
    order = np.argsort(-prediction.probabilities, kind="stable")[:top]
    return [(class_names[index], float(f"{prediction.probabilities[index]:.9g}")) for index in order]


class Text:
    """A line for each file: its name, the classes and their probabilities."""

    def __init__(self, stream: TextIO, top: int, longest: int) -> None:
        self._stream = stream
        self._width = min(longest, 60)

    def write(self, item: Prediction | Failure, ranked: Ranking) -> None:
        """Write a prediction; a failure has its line on stderr."""
        if isinstance(item, Prediction):
            shares = "   ".join(f"{printable(name)} {100 * share:.2f} %" for name, share in ranked)
            print(f"{printable(item.path):{self._width}}  {shares}", file=self._stream)

    def end(self) -> None:
        """Nothing is left to write."""


class Json:
    """One array with an object for each file."""

    def __init__(self, stream: TextIO, top: int, longest: int) -> None:
        self._stream = stream
        self._before = "[\n"

    def write(self, item: Prediction | Failure, ranked: Ranking) -> None:
        """Write file, predicted, probability and top; or file and error."""
        values: dict[str, object] = {"file": item.path}
        if isinstance(item, Prediction):
            values |= {"predicted": ranked[0][0], "probability": ranked[0][1]}
            values["top"] = [{"class": name, "probability": share} for name, share in ranked]
        else:
            values["error"] = item.reason
        self._stream.write(self._before + json.dumps(values, allow_nan=False))
        self._before = ",\n"

    def end(self) -> None:
        """Close the array."""
        self._stream.write("\n]\n" if self._before == ",\n" else "[]\n")


class Csv:
    """A row for each file: file, error, class_1, probability_1, class_2, ..."""

    def __init__(self, stream: TextIO, top: int, longest: int) -> None:
        self._writer = csv.writer(stream, lineterminator="\n")
        pairs = [(f"class_{place}", f"probability_{place}") for place in range(1, top + 1)]
        self._writer.writerow(["file", "error", *(name for pair in pairs for name in pair)])
        self._rest = [""] * (2 * top)

    def write(self, item: Prediction | Failure, ranked: Ranking) -> None:
        """Write a row; that of a failure has an error and no classes."""
        if isinstance(item, Prediction):
            cells = [cell for name, share in ranked for cell in (printable(name), share)]
            self._writer.writerow([printable(item.path), "", *cells])
        else:
            self._writer.writerow([printable(item.path), printable(item.reason), *self._rest])

    def end(self) -> None:
        """Nothing is left to write."""
