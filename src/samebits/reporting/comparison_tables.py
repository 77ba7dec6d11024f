"""A comparison as tables in the terminal, Markdown for a pull request, or JSON for a program."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from tabulate import tabulate  # type: ignore[import-untyped]

from samebits.comparison.outcome import Comparison, NetworkComparison
from samebits.comparison.paired import Accuracies
from samebits.comparison.predicted import Predicted
from samebits.comparison.seeds import Change, Group
from samebits.comparison.statistics import Estimate, Estimates
from samebits.errors import listed

_MAX_DIFFERENCES = 6

# Cells as text: the first row is the heading, the first column says what a row is about.
Table = list[tuple[str, ...]]


def to_terminal(comparison: Comparison) -> str:
    """Return the verdict and all tables for a terminal."""
    parts = [*who(comparison), "", comparison.verdict, *comparison.notes]
    for table in tables(comparison):
        parts += ["", _tabulated(table, "simple")]
    return "\n".join(parts)


def to_markdown(comparison: Comparison) -> str:
    """Return the verdict and all tables in GitHub's Markdown; the classes are folded away."""
    overall, classes = (
        _tabulated([tuple(_escaped(cell) for cell in row) for row in table], "pipe") for table in tables(comparison)
    )
    return "\n\n".join(
        [
            f"**{_escaped(comparison.verdict)}**",
            "\n".join(f"- {_escaped(line)}" for line in who(comparison)),
            *comparison.notes,
            overall,
            f"<details><summary>Accuracy by class</summary>\n\n{classes}\n\n</details>",
        ]
    )


def to_json(comparison: Comparison) -> str:
    """Return everything as JSON: accuracies as shares, losses in nats, null if there are too few values for a number."""
    kind = "networks" if isinstance(comparison, NetworkComparison) else "seeds"
    values = {"verdict": comparison.verdict, "kind": kind, **vars(comparison)}
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False, default=_values)


FORMATS: dict[str, Callable[[Comparison], str]] = {"terminal": to_terminal, "json": to_json, "markdown": to_markdown}


def tables(comparison: Comparison) -> tuple[Table, Table]:
    """Return the table of all images, and that of accuracy by class."""
    if isinstance(comparison, NetworkComparison):
        overall = comparison.accuracy
        alone = f"{overall.only_a:,}", f"{overall.only_b:,}", f"{overall.only_b - overall.only_a:+,}"
        rows: Table = [
            ("", "A", "B", "B − A", "p"),
            ("accuracy, %", *_estimates(overall, 2, 100), _p(overall.p)),
            ("loss", *_estimates(comparison.loss, 4, 1), ""),
            ("calibration error, %", *_estimates(comparison.calibration_error, 2, 100), ""),
            ("only this one is right", *alone, ""),
        ]
        classes: Table = [("class, %", "A", "B", "B − A", "only A / B", "p (Holm)")]
        for name, each in comparison.per_class.items():
            classes.append((name, *_estimates(each, 1, 100), f"{each.only_a:,} / {each.only_b:,}", _p(each.p)))
    else:
        a, b = ("1 seed" if len(group) == 1 else f"{len(group)} seeds" for group in (comparison.a, comparison.b))
        rows = [
            ("mean ± deviation", f"A ({a})", f"B ({b})", "B − A", "p"),
            change_row("accuracy, %", comparison.accuracy, 2, 100),
            change_row("loss", comparison.loss, 4, 1),
            change_row("calibration error, %", comparison.calibration_error, 2, 100),
        ]
        classes = [("class, %", "A", "B", "B − A", "p (Holm)")]
        classes += [change_row(name, change, 1, 100) for name, change in comparison.per_class.items()]
    return with_minus_signs(rows), with_minus_signs(classes)


def who(comparison: Comparison) -> list[str]:
    """Say in a line each what A and B are, and what they differ in."""
    lines = [f"A: {_title(comparison.a)}", f"B: {_title(comparison.b)}"]
    if comparison.differences:
        lines.append(f"B differs in: {listed(comparison.differences, _MAX_DIFFERENCES)}")
    return lines


def _title(results: Predicted | Sequence[Predicted]) -> str:
    if isinstance(results, Predicted):
        return f"{results.revision}, {results.title}"
    recipe = results[0].title.rpartition(", ")[0]
    named = ", ".join(f"{each.parameters.get('seed')} ({each.revision.name})" for each in results)
    return f"{recipe}, seeds {named}"


def _estimates(each: Accuracies | Estimates, digits: int, factor: float) -> tuple[str, ...]:
    """Return the cells of A, B and their difference, which has a sign."""
    a, b = (_estimate(estimate, digits, factor, "") for estimate in (each.a, each.b))
    return a, b, _estimate(each.difference, digits, factor)


def _estimate(estimate: Estimate, digits: int, factor: float, sign: str = "+") -> str:
    value, *bounds = (
        f"{factor * number:{sign}.{digits}f}"
        for number in (estimate.value, estimate.low, estimate.high)
        if number is not None
    )
    return f"{value} ({' to '.join(bounds)})" if bounds else value


def change_row(name: str, change: Change, digits: int, factor: float) -> tuple[str, ...]:
    """Return the row of a number: its name, both groups, their difference with its interval, and p."""
    groups = (_group(group, digits, factor) for group in (change.a, change.b))
    p = "" if change.p is None else _p(change.p)
    return name, *groups, _estimate(change.difference, digits, factor), p


def _group(group: Group, digits: int, factor: float) -> str:
    deviation = "" if group.deviation is None else f" ± {factor * group.deviation:.{digits}f}"
    return f"{factor * group.mean:.{digits}f}{deviation}"


def _p(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def with_minus_signs(table: Table) -> Table:
    """Return the table with minus signs in place of hyphens in its numbers."""
    heading, *rows = table
    # Not in the first column: a hyphen in a class name stays.
    return [heading, *((name, *(cell.replace("-", "−") for cell in cells)) for name, *cells in rows)]


def _tabulated(table: Table, style: str) -> str:
    heading, *rows = table
    sides = ("left", *("right" for _ in heading[1:]))
    text: str = tabulate(rows, headers=heading, tablefmt=style, disable_numparse=True, colalign=sides)
    return text


def _escaped(text: str) -> str:
    return re.sub(r"[\\|*_<>`]", r"\\\g<0>", text)


def _values(value: Any) -> dict[str, Any]:
    """Return what JSON writes for a part of a comparison."""
    if isinstance(value, Predicted):
        return {"name": value.revision.name, "commit": value.revision.commit, "parameters": value.parameters}
    values: dict[str, Any] = vars(value)
    return values | {"is_significant": value.is_significant} if isinstance(value, Accuracies | Change) else values
