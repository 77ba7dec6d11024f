"""The search page: one self-contained HTML file, which opens from disk without a network."""

from collections.abc import Mapping, Sequence
from typing import Any

from samebits.reporting import comparison_tables, rendering, search_charts
from samebits.reporting.comparison_tables import Table
from samebits.reporting.search_charts import tell
from samebits.search import conclusion, importance, tuning_curve
from samebits.search.confirmation import Confirmation
from samebits.search.objective import OBJECTIVES, Objective
from samebits.search.search_file import Parameter, SearchFile
from samebits.search.trials import Trial, best_first

_NUM_SHOWN = 12  # rows of the table of trials that are not folded away


def search_page(search_file: SearchFile, trials: Sequence[Trial], confirmation: Confirmation | None) -> str:
    """Return the page of a search and of its confirmation, if there is one; equal input gives the same page."""
    objective = OBJECTIVES[search_file.objective]
    trials = sorted(trials, key=lambda trial: trial.number)
    ranked = best_first(trials, search_file.is_maximized)
    stopped = [trial for state in ("pruned", "failed") for trial in trials if trial.state == state]
    names = _short_names(list(search_file.parameters))
    table = _table(objective, [*(trial for trial, _ in ranked), *stopped], names)
    page: dict[str, Any] = {
        "title": f"Search {search_file.name}",
        "sentence": _sentence(objective, trials, ranked, confirmation),
        "sampler": search_file.sampler,
        "counts": _counts(trials),
        "table": table[: _NUM_SHOWN + 1],
        "more": [table[0], *table[_NUM_SHOWN + 1 :]] if len(table) > _NUM_SHOWN + 1 else [],
        "importances": {names[name]: share for name, share in importance.importances(search_file, trials).items()},
        "file": _file(search_file),
    }
    if trials:
        band = None
        if search_file.sampler == "random":  # other samplers' trials are not independent
            values = [value for _, value in ranked] + [objective.worst] * (len(trials) - len(ranked))
            band = tuning_curve.band(values, objective.support, objective.is_lower_better)
        page["progress"] = search_charts.progress(objective, trials, band)
        page["parallel"] = search_charts.parallel_coordinates(objective, search_file.parameters, names, trials)
    if ranked:
        winner = ranked[0][0]
        page["winner"] = {names[name]: tell(value) for name, value in winner.values.items()}
        page["commands"] = _commands(winner)
    if confirmation is not None:
        lines = conclusion.sentences(confirmation, len(trials))
        page["confirmed"] = [line.replace(" %", "\N{NO-BREAK SPACE}%") for line in lines]
        page["confirmation_chart"] = search_charts.confirmation(confirmation)
        page["confirmation_table"] = _confirmation_table(confirmation)
    return rendering.render("search", page)


def _sentence(
    objective: Objective,
    trials: Sequence[Trial],
    ranked: Sequence[tuple[Trial, float]],
    confirmation: Confirmation | None,
) -> str:
    if not ranked:
        return f"No trial is complete: {_counts(trials) or 'none has run'}."
    if confirmation is not None:
        return conclusion.headline(confirmation)
    winner, best = ranked[0]
    return (
        f"The best of {'1 trial' if len(trials) == 1 else f'{len(trials)} trials'}, trial {winner.number}, has a {objective.name} of {objective.tell(best)}. "
        "The best of many owes part of that to luck: fresh seeds have yet to confirm it."
    )


def _counts(trials: Sequence[Trial]) -> str:
    states = [trial.state for trial in trials]
    return ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed") if state in states)


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Return for each dotted name its shortest ending that no other has."""
    endings = {name: [name.split(".", start)[-1] for start in range(name.count("."), -1, -1)] for name in names}
    every = [ending for each in endings.values() for ending in each]
    return {name: next((ending for ending in each if every.count(ending) == 1), name) for name, each in endings.items()}


def _table(objective: Objective, trials: Sequence[Trial], names: Mapping[str, str]) -> Table:
    rows: Table = [("trial", objective.name, *names.values(), "history", "commits")]
    for trial in trials:
        values = (tell(trial.values[name]) for name in names)
        commits = " ".join(commit[:7] for commit in trial.commits)
        rows.append(
            (str(trial.number), objective.tell_result(trial), *values, (trial.history_sha256 or "")[:12], commits)
        )
    return rows


def _confirmation_table(confirmation: Confirmation) -> Table:
    quantity = confirmation.objective.quantity
    unit = ", %" if quantity.factor == 100 else ""
    rows: Table = [("mean ± deviation", "baseline", "winner", "winner − baseline", "p")]
    if confirmation.validation is not None:
        name = f"{quantity.name}{unit}"
        rows.append(comparison_tables.change_row(name, confirmation.validation, quantity.digits, quantity.factor))
    if confirmation.test is not None:
        rows.append(comparison_tables.change_row("test accuracy, %", confirmation.test, 2, 100))
    return comparison_tables.with_minus_signs(rows)


def _commands(trial: Trial) -> list[str]:
    return [
        f"{command} {commit[:12]}" for commit in trial.commits[:1] for command in ("samebits report", "dvc exp apply")
    ]


def _file(search_file: SearchFile) -> dict[str, str]:
    shown = search_file.model_dump(exclude={"name", "parameters", "fixed", "confirm"}, exclude_unset=False)
    rows = {name: tell(value) for name, value in shown.items()}
    rows |= {name: _range(each) for name, each in search_file.parameters.items()}
    rows |= {f"{name}, fixed": tell(value) for name, value in search_file.fixed.items()}
    return rows | ({"confirm.num_seeds": str(search_file.confirm.num_seeds)} if search_file.confirm else {})


def _range(parameter: Parameter) -> str:
    if parameter.choices is not None:
        return ", ".join(map(tell, parameter.choices))
    step = f", in steps of {tell(parameter.step)}" if parameter.step else ""
    return f"{tell(parameter.low)} to {tell(parameter.high)}{', log' if parameter.log else ''}{step}"
