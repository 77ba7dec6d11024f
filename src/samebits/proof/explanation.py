"""How a repetition differs from the record: the first training step that does, the machine, the metrics."""

import csv
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from tabulate import tabulate  # type: ignore[import-untyped]

from samebits.paths import HISTORY, METRICS, PARAMETERS
from samebits.proof.outputs import Row, Verdict, is_machine, parse_object, recorded_machine
from samebits.reporting import terminal
from samebits.results import Result

_NOWHERE = "is neither in git nor whole in DVC's cache or its remote"


class Explanation:
    """Explains the `rows` of a repetition of `result` in `folder`."""

    def __init__(self, result: Result, rows: list[Row], folder: Path) -> None:
        self._result = result
        self._folder = folder
        self._made = {row.path: row.verdict for row in rows if row.got}
        self._first = next((row for row in rows if row.counts), None)

    def lines(self) -> Iterator[str]:
        """Yield the lines to print; only those about the machine if no difference counts."""
        if self._first:
            yield f"first difference: {self._first.path} of {self._first.stage}"
            if HISTORY in self._made:
                yield f"{HISTORY}: {self._history()}"
        if machine := next(filter(is_machine, self._made), None):
            yield from self._machine(machine)
        if self._first and METRICS in self._made:
            yield from self._metrics()

    def _history(self) -> str:
        """Name the first row that differs, and by how much."""
        if (recorded := self._recorded(HISTORY)) is None:
            return f"the recorded one {_NOWHERE}: no rows to compare"
        before, after = _rows(recorded), _rows(self._new(HISTORY))
        for old, new in zip_longest(before, after):
            if old is None or new is None:
                return f"{len(before)} rows are recorded, {len(after)} came out; those that both have are the same"
            if old != new:
                columns = [_difference(name, old.get(name), new.get(name)) for name in {**old, **new}]
                return f"the first row that differs is step {old.get('step')}: {', '.join(filter(None, columns))}"
        return f"all {len(before)} rows are the recorded ones"

    def _machine(self, path: str) -> Iterator[str]:
        """Say how this machine differs from the recorded one, and what `device: auto` became."""
        here = parse_object(self._new(path)) or {}
        is_same = self._made[path] is Verdict.IDENTICAL
        recorded = here if is_same else recorded_machine(self._result, path, here)
        if self._result.yaml(PARAMETERS).get("device") == "auto":
            became = f", {recorded.get('device')} in the record" if recorded else ""
            yield f"device: auto became {here.get('device')} here{became}"
        if recorded is None:
            yield f"machine: the recorded {path} {_NOWHERE}: not compared"
        else:
            yield f"machine: {'; '.join(terminal.differences(recorded, here)) or 'of the recorded kind'}"

    def _metrics(self) -> Iterator[str]:
        """Yield a table of each metric of all test images, recorded and new."""
        recorded, new = parse_object(self._recorded(METRICS)), parse_object(self._new(METRICS)) or {}
        if recorded is None:
            yield f"{METRICS}: the recorded one {_NOWHERE}"
            recorded = {}
        names = [name for name, value in {**recorded, **new}.items() if not isinstance(value, dict)]
        table = [(name, recorded.get(name), new.get(name)) for name in names]
        yield tabulate(table, headers=[METRICS, "recorded", "got"], disable_numparse=True)

    def _new(self, path: str) -> bytes:
        return (self._folder / path).read_bytes()

    def _recorded(self, path: str) -> bytes | None:
        if self._made.get(path) is Verdict.IDENTICAL:
            return self._new(path)
        return self._result.file(path) if self._made.get(path) is Verdict.EDITED else self._result.read(path)


def _rows(table: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(table.decode(errors="replace").splitlines()))


def _difference(name: str, old: str | None, new: str | None) -> str:
    if old == new:
        return ""
    try:
        return f"{name} {old} → {new} ({float(new or '') - float(old or ''):+.3g})"
    except ValueError:
        return f"{name} {old} → {new}"
