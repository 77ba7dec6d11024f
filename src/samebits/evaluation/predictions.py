"""The table of predictions: one row for each test image."""

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas
from numpy.typing import NDArray

from samebits import atomic
from samebits.errors import UserError

_PROBABILITY = "probability_"


@dataclass(frozen=True)
class Predictions:
    """Probabilities float32 (N, classes) of the test images in their order, and their true labels int64 (N,)."""

    class_names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image (N,)."""
        predicted: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted

    @cached_property
    def is_right(self) -> NDArray[np.bool_]:
        """Whether each image is classified right (N,)."""
        right: NDArray[np.bool_] = self.predicted == self.labels
        return right

    def surest_first(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sort images, given by their indices, by the probability of the predicted class, highest first."""
        return indices[np.argsort(-self.probabilities[indices].max(axis=1), kind="stable")]


def write(path: Path, table: Predictions) -> None:
    """Write index, true and predicted class by name, and each class's probability, as CSV.

    Nine digits tell all float32 values apart, so whoever reads it has the same `probabilities` again.
    """
    names = np.array(table.class_names)
    labelled = {"index": range(len(table.labels)), "true": names[table.labels], "predicted": names[table.predicted]}
    shares = {f"{_PROBABILITY}{name}": table.probabilities[:, place] for place, name in enumerate(table.class_names)}
    with atomic.replacing(path) as temporary:
        pandas.DataFrame(labelled | shares).to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def read(content: bytes, name: str) -> Predictions:
    """Read back what `write` wrote. Raises UserError, calling it `name`, for anything else: a row missing or doubled, a
    probability that is no number in [0, 1], a class without its column, a prediction that is not the most probable.
    """
    try:
        table = pandas.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
        index = np.array(table["index"], dtype=np.int64)
        columns = [column for column in map(str, table) if column.startswith(_PROBABILITY)]
        class_names = tuple(column.removeprefix(_PROBABILITY) for column in columns)
        labels = _positions(table["true"], class_names, name)
        predicted = _positions(table["predicted"], class_names, name)
    except (ValueError, KeyError, pandas.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is not a table of predictions: {' '.join(str(error).split())}") from None
    if not len(index):
        raise UserError(f"{name} has no rows")
    values, counts = np.unique(index, return_counts=True)
    if len(doubled := values[counts > 1]):
        raise UserError(f"{name} has several rows for image {doubled[0]}{_more(doubled)}")
    if len(missing := np.setdiff1d(np.arange(len(values)), values)):
        raise UserError(f"{name} has no row for image {missing[0]}{_more(missing)}")
    probabilities = table[columns].apply(pandas.to_numeric, errors="coerce").to_numpy("float32")
    if len(wrong := np.flatnonzero(~((probabilities >= 0) & (probabilities <= 1)).all(axis=1))):
        raise UserError(f"{name}: a probability of image {index[wrong[0]]} is no number from 0 to 1{_more(wrong)}")
    chosen = probabilities[np.arange(len(index)), predicted]
    if len(wrong := np.flatnonzero(chosen < probabilities.max(axis=1))):
        raise UserError(
            f"{name}: the prediction for image {index[wrong[0]]} is not its most probable class{_more(wrong)}"
        )
    order = np.argsort(index)
    return Predictions(class_names, probabilities[order], labels[order])


def _positions(names: "pandas.Series[str]", class_names: tuple[str, ...], name: str) -> NDArray[np.int64]:
    positions = pandas.Index(class_names).get_indexer(pandas.Index(names))
    if (positions < 0).any():
        unknown = names.iloc[int(np.flatnonzero(positions < 0)[0])]
        raise UserError(f"{name}: {unknown!r} is none of its classes ({', '.join(class_names) or 'it has none'})")
    return positions.astype(np.int64)


def _more(items: NDArray[np.int64]) -> str:
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""
