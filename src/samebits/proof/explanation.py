"""What a repetition that differs from the record tells: the first step of the training that does, the machine, the metrics."""

import csv
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from tabulate import tabulate  # type: ignore[import-untyped]

from samebits.proof import machine
from samebits.proof.outputs import Row, Verdict
from samebits.reporting import terminal
from samebits.results import Result

HISTORY = "data/model/history.csv"
METRICS = "metrics/evaluate.json"
_NOWHERE = "is neither in git nor whole in DVC's cache or its remote"


class Explanation:
    """Explains the `rows` that a repetition of `result` in `folder` got."""

    def __init__(self, result: Result, rows: list[Row], folder: Path) -> None:
        self._result = result
        self._folder = folder
        self._made = {row.path: row.verdict for row in rows if row.got}
        self._first = next((row for row in rows if row.counts), None)

    def lines(self) -> Iterator[str]:
        """Return the lines to print; where nothing differs that counts, only those about the machine."""
        if self._first:
            yield f"first difference: {self._first.path} of {self._first.stage}"
            if HISTORY in self._made:
                yield f"{HISTORY}: {self._history()}"
        yield from self._machine()
        if self._first and METRICS in self._made:
            yield from self._metrics()

    def _history(self) -> str:
        """Name the first row that differs, and by how much."""
        recorded = self._recorded(HISTORY)
        if recorded is None:
            return f"the recorded one {_NOWHERE}: no rows to compare"
        before, after = _rows(recorded), _rows((self._folder / HISTORY).read_bytes())
        for old, new in zip_longest(before, after):
            if old is None or new is None:
                return f"{len(before)} rows are recorded, and {len(after)} came out; all that both have are the same"
            if old != new:
                columns = [_difference(name, old.get(name), new.get(name)) for name in {**old, **new}]
                return f"the first row that differs is step {old.get('step')}: {', '.join(filter(None, columns))}"
        return f"all {len(before)} rows are the recorded ones"

    def _machine(self) -> Iterator[str]:
        """Say what differs between the recorded kind of machine and this one, and what `device: auto` became."""
        paths = [path for path in self._made if Path(path).name == machine.ENVIRONMENT]
        if not paths:
            return
        here = machine.parse((self._folder / paths[0]).read_bytes()) or {}
        is_same = self._made[paths[0]] is Verdict.IDENTICAL
        recorded = here if is_same else machine.recorded(self._result, paths[0], here)
        if self._result.yaml("params.yaml").get("device") == "auto":
            became = f", {recorded.get('device')} in the record" if recorded else ""
            yield f"device: auto became {here.get('device')} here{became}"
        if recorded is None:
            yield f"machine: the recorded {paths[0]} {_NOWHERE}: not compared"
        else:
            differences = "; ".join(terminal.differences(recorded, here))
            yield f"machine: {differences or 'of the recorded kind'}"

    def _metrics(self) -> Iterator[str]:
        """Return each metric of all test images, recorded and new."""
        recorded = machine.parse(self._recorded(METRICS))
        new = machine.parse((self._folder / METRICS).read_bytes()) or {}
        if recorded is None:
            yield f"{METRICS}: the recorded one {_NOWHERE}"
            recorded = {}
        names = [name for name in {**recorded, **new} if not isinstance({**recorded, **new}[name], dict)]
        table = [(name, recorded.get(name), new.get(name)) for name in names]
        yield tabulate(table, headers=[METRICS, "recorded", "got"], disable_numparse=True)

    def _recorded(self, path: str) -> bytes | None:
        if self._made.get(path) is Verdict.IDENTICAL:
            return (self._folder / path).read_bytes()
        if self._made.get(path) is Verdict.EDITED:
            return self._result.file(path)
        return self._result.read(path)


def _rows(table: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(table.decode(errors="replace").splitlines()))


def _difference(name: str, old: str | None, new: str | None) -> str:
    if old == new:
        return ""
    try:
        amount = f" ({float(new or '') - float(old or ''):+.3g})"
    except ValueError:
        amount = ""
    return f"{name} {old} → {new}{amount}"
