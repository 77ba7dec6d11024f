"""How a repetition differs from the record: the first training step that does, the machine, the metrics."""

import csv
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tabulate import tabulate  # type: ignore[import-untyped]

from samebits.paths import HISTORY, METRICS, PARAMETERS
from samebits.proof.outputs import Row, Verdict, is_machine, parse_object, recorded_machine
from samebits.reporting import terminal
from samebits.results import Result

_NOWHERE = "is neither in git nor whole in DVC's cache or its remote"


def explain(result: Result, rows: list[Row], folder: Path) -> Iterator[str]:
    """Explain the `rows` of a repetition of `result` in `folder`; only the machine if no difference counts."""
    made = {row.path: row.verdict for row in rows if row.got}

    def new(path: str) -> bytes:
        return (folder / path).read_bytes()

    def recorded(path: str) -> bytes | None:
        if made[path] is Verdict.IDENTICAL:
            return new(path)
        return result.file(path) if made[path] is Verdict.EDITED else result.read(path)

    first = next((row for row in rows if row.counts), None)
    if first:
        yield f"first difference: {first.path} of {first.stage}"
        if HISTORY in made:
            yield f"{HISTORY}: {_history(recorded(HISTORY), new(HISTORY))}"
    if machine := next(filter(is_machine, made), None):
        here = parse_object(new(machine)) or {}
        is_same = made[machine] is Verdict.IDENTICAL
        yield from _machine(result, machine, here if is_same else recorded_machine(result, machine, here), here)
    if first and METRICS in made:
        yield from _metrics(parse_object(recorded(METRICS)), parse_object(new(METRICS)) or {})


def _history(recorded: bytes | None, new: bytes) -> str:
    """Name the first row that differs, and by how much."""
    if recorded is None:
        return f"the recorded one {_NOWHERE}: no rows to compare"
    before, after = _rows(recorded), _rows(new)
    for old, now in zip_longest(before, after):
        if old is None or now is None:
            return f"{len(before)} rows are recorded, {len(after)} came out; those that both have are the same"
        if old != now:
            columns = [_difference(name, old.get(name), now.get(name)) for name in {**old, **now}]
            return f"the first row that differs is step {old.get('step')}: {', '.join(filter(None, columns))}"
    return f"all {len(before)} rows are the recorded ones"


def _machine(result: Result, path: str, recorded: dict[str, Any] | None, here: dict[str, Any]) -> Iterator[str]:
    """Say how this machine differs from the recorded one, and what `device: auto` became."""
    if result.yaml(PARAMETERS).get("device") == "auto":
        became = f", {recorded.get('device')} in the record" if recorded else ""
        yield f"device: auto became {here.get('device')} here{became}"
    if recorded is None:
        yield f"machine: the recorded {path} {_NOWHERE}: not compared"
    else:
        yield f"machine: {'; '.join(terminal.differences(recorded, here)) or 'of the recorded kind'}"


def _metrics(recorded: dict[str, Any] | None, new: dict[str, Any]) -> Iterator[str]:
    """Yield a table of each metric of all test images, recorded and new."""
    if recorded is None:
        yield f"{METRICS}: the recorded one {_NOWHERE}"
        recorded = {}
    names = [name for name, value in {**recorded, **new}.items() if not isinstance(value, dict)]
    table = [(name, recorded.get(name), new.get(name)) for name in names]
    yield tabulate(table, headers=[METRICS, "recorded", "got"], disable_numparse=True)


def _rows(table: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(table.decode(errors="replace").splitlines()))


def _difference(name: str, old: str | None, new: str | None) -> str:
    if old == new:
        return ""
    try:
        return f"{name} {old} → {new} ({float(new or '') - float(old or ''):+.3g})"
    except ValueError:
        return f"{name} {old} → {new}"
