"""The history of a training: what it reported, as a table."""

from dataclasses import asdict, dataclass, fields
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
    filled at the end of an epoch where there are validation images.
    """

    step: int
    epoch: int
    train_loss: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


def write(path: Path, reports: list[Report]) -> None:
    """Write the reports as CSV, losses with the nine digits that tell float32 values apart."""
    names = [field.name for field in fields(Report)]
    lines = [",".join(names)]
    for report in reports:
        lines.append(",".join(_text(value) for value in asdict(report).values()))
    atomic.write_text(path, "\n".join(lines) + "\n")


def read(path: Path) -> "pandas.DataFrame":
    """Read a history as a table with the columns of `Report`; NaN where nothing was measured.

    Raises UserError where it is missing.
    """
    import pandas

    try:
        return pandas.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run `dvc repro`") from None


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.9g}" if isinstance(value, float) else str(value)
