"""The history of a training: what it reported, as a table."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from samebits import atomic
from samebits.errors import UserError

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Report:
    """What is known after `step` mini-batches: one row of the history.

    train_loss is the running loss: the mean over the mini-batches since the report before. The validation columns are
    filled at the end of an epoch if there are validation images.
    """

    step: int
    epoch: int
    train_loss: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


def write(path: Path, reports: list[Report]) -> None:
    """Write the reports as CSV, losses with the nine digits that tell float32 values apart."""
    import pandas

    with atomic.replacing(path) as temporary:
        pandas.DataFrame(reports).to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def read(path: Path) -> "pandas.DataFrame":
    """Read a table with the columns of `Report`, NaN if nothing was measured. Raises UserError if it is missing."""
    import pandas

    try:
        return pandas.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run `dvc repro`") from None
