"""A comparison as a person, a pull request or a program reads it: tables in the terminal, Markdown, JSON."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate  # type: ignore[import-untyped]

from samebits.comparison.compare import OfNetworks, OfSeeds
from samebits.comparison.paired import Accuracies
from samebits.comparison.predicted import Predicted
from samebits.comparison.seeds import Change, Group
from samebits.comparison.statistics import Estimate

_MAX_DIFFERENCES = 6


@dataclass(frozen=True)
class Table:
    """Cells as text; the first row is the heading, the first column says what a row is about."""

    rows: list[tuple[str, ...]]


def to_terminal(comparison: OfNetworks | OfSeeds) -> str:
    """Return the verdict and all tables for a terminal."""
    parts = [*who(comparison), "", comparison.verdict, *comparison.notes]
    for table in tables(comparison):
        heading, *rows = table.rows
        parts += [
            "",
            tabulate(rows, headers=heading, tablefmt="simple", disable_numparse=True, colalign=_align(heading)),
        ]
    return "\n".join(parts)


def to_markdown(comparison: OfNetworks | OfSeeds) -> str:
    """Return the verdict and all tables in GitHub's Markdown; the classes are folded away."""
    overall, classes = tables(comparison)
    listed = [f"- {_escaped(line)}" for line in who(comparison)]
    return "\n\n".join(
        [
            f"**{_escaped(comparison.verdict)}**",
            "\n".join(listed),
            *comparison.notes,
            _markdown(overall),
            f"<details><summary>Accuracy by class</summary>\n\n{_markdown(classes)}\n\n</details>",
        ]
    )


def to_json(comparison: OfNetworks | OfSeeds) -> str:
    """Return everything as JSON: accuracies as shares, losses in nats, null where there is too little to say."""
    values: dict[str, Any] = {"verdict": comparison.verdict, "differences": comparison.differences}
    values["notes"] = comparison.notes
    if isinstance(comparison, OfNetworks):
        pair = comparison.pair
        values |= {
            "kind": "networks",
            "a": _result_values(comparison.a),
            "b": _result_values(comparison.b),
            "accuracy": _accuracies_values(pair.overall),
            "loss": {name: vars(each) for name, each in zip(("a", "b", "difference"), pair.loss, strict=True)},
            "calibration_error": {
                name: vars(each) for name, each in zip(("a", "b", "difference"), pair.calibration_error, strict=True)
            },
            "num_changed_predictions": pair.changed,
            "per_class": {name: _accuracies_values(each) for name, each in pair.per_class.items()},
        }
    else:
        values |= {
            "kind": "seeds",
            "a": [_result_values(result) for result in comparison.a],
            "b": [_result_values(result) for result in comparison.b],
            "accuracy": _change_values(comparison.accuracy),
            "loss": _change_values(comparison.loss),
            "calibration_error": _change_values(comparison.calibration_error),
            "per_class": {name: _change_values(each) for name, each in comparison.per_class.items()},
        }
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)


def tables(comparison: OfNetworks | OfSeeds) -> tuple[Table, Table]:
    """Return the table of all images, and that of accuracy by class."""
    return _network_tables(comparison) if isinstance(comparison, OfNetworks) else _seed_tables(comparison)


def _network_tables(comparison: OfNetworks) -> tuple[Table, Table]:
    pair, overall = comparison.pair, comparison.pair.overall
    rows = [
        ("", "A", "B", "B − A", "p"),
        ("accuracy, %", *_shares(overall, 2), _p(overall.p)),
        ("loss", *(_plain(each, 4) for each in pair.loss[:2]), _plain(pair.loss[2], 4, "+"), ""),
        (
            "calibration error, %",
            *(_plain(each, 2, factor=100) for each in pair.calibration_error[:2]),
            _plain(pair.calibration_error[2], 2, "+", 100),
            "",
        ),
        (
            "only this one is right",
            f"{overall.only_a:,}",
            f"{overall.only_b:,}",
            f"{overall.only_b - overall.only_a:+,}",
            "",
        ),
    ]
    classes = [("class, %", "A", "B", "B − A", "only A / B", "p (Holm)")]
    for name, each in pair.per_class.items():
        classes.append((name, *_shares(each, 1), f"{each.only_a:,} / {each.only_b:,}", _p(each.p)))
    return _table(rows), _table(classes)


def _seed_tables(comparison: OfSeeds) -> tuple[Table, Table]:
    rows: list[tuple[str, ...]] = [
        ("mean ± deviation", f"A ({_seeds(comparison.a)})", f"B ({_seeds(comparison.b)})", "B − A", "p"),
        _change_row("accuracy, %", comparison.accuracy, 2, 100),
        _change_row("loss", comparison.loss, 4, 1),
        _change_row("calibration error, %", comparison.calibration_error, 2, 100),
    ]
    classes: list[tuple[str, ...]] = [("class, %", "A", "B", "B − A", "p (Holm)")]
    classes += [_change_row(name, change, 1, 100) for name, change in comparison.per_class.items()]
    return _table(rows), _table(classes)


def who(comparison: OfNetworks | OfSeeds) -> list[str]:
    """Say in a line each what A and B are, and what they differ in."""
    lines = [f"A: {_title(comparison.a)}", f"B: {_title(comparison.b)}"]
    different = comparison.differences
    if different:
        more = f" and {len(different) - _MAX_DIFFERENCES} more" if len(different) > _MAX_DIFFERENCES else ""
        lines.append(f"B differs in: {', '.join(different[:_MAX_DIFFERENCES])}{more}")
    return lines


def _title(results: "Predicted | Sequence[Predicted]") -> str:
    if isinstance(results, Predicted):
        return f"{results.revision}, {results.title}"
    recipe = results[0].title.rpartition(", ")[0]
    named = ", ".join(f"{result.parameters.get('seed')} ({result.revision.name})" for result in results)
    return f"{recipe}, seeds {named}"


def _shares(accuracies: Accuracies, digits: int) -> tuple[str, str, str]:
    a, b = (_plain(each, digits, factor=100) for each in (accuracies.a, accuracies.b))
    return a, b, _plain(accuracies.difference, digits, "+", 100)


def _plain(estimate: Estimate, digits: int, sign: str = "", factor: float = 1) -> str:
    value = f"{factor * estimate.value:{sign}.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({factor * estimate.low:{sign}.{digits}f} to {factor * estimate.high:{sign}.{digits}f})"


def _change_row(name: str, change: Change, digits: int, factor: float) -> tuple[str, ...]:
    groups = (_group(group, digits, factor) for group in (change.a, change.b))
    p = "" if change.p is None else _p(change.p)
    return name, *groups, _plain(change.difference, digits, "+", factor), p


def _seeds(results: Sequence[Predicted]) -> str:
    return "1 seed" if len(results) == 1 else f"{len(results)} seeds"


def _group(group: Group, digits: int, factor: float) -> str:
    deviation = "" if group.deviation is None else f" ± {factor * group.deviation:.{digits}f}"
    return f"{factor * group.mean:.{digits}f}{deviation}"


def _p(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def _table(rows: Sequence[tuple[str, ...]]) -> Table:
    heading, *others = rows
    # A minus sign in numbers; a hyphen in a class name stays.
    return Table([heading, *((row[0], *(cell.replace("-", "−") for cell in row[1:])) for row in others)])


def _align(heading: Sequence[str]) -> tuple[str, ...]:
    return ("left", *("right" for _ in heading[1:]))


def _markdown(table: Table) -> str:
    heading, *rows = [tuple(_escaped(cell) for cell in row) for row in table.rows]
    text: str = tabulate(rows, headers=heading, tablefmt="pipe", disable_numparse=True, colalign=_align(heading))
    return text


def _escaped(text: str) -> str:
    for sign in "\\|*_<>`":
        text = text.replace(sign, f"\\{sign}")
    return text


def _result_values(result: Predicted) -> dict[str, Any]:
    return {"name": result.revision.name, "commit": result.revision.commit, "parameters": result.parameters}


def _accuracies_values(accuracies: Accuracies) -> dict[str, Any]:
    values: dict[str, Any] = {name: vars(getattr(accuracies, name)) for name in ("a", "b", "difference")}
    return vars(accuracies) | values | {"is_significant": accuracies.is_significant}


def _change_values(change: Change) -> dict[str, Any]:
    values: dict[str, Any] = {name: vars(getattr(change, name)) for name in ("a", "b", "difference")}
    return vars(change) | values | {"is_significant": change.is_significant}


FORMATS: dict[str, Callable[[OfNetworks | OfSeeds], str]] = {
    "terminal": to_terminal,
    "json": to_json,
    "markdown": to_markdown,
}
