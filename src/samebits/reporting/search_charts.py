"""The charts of the search page."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from samebits.reporting import canvas
from samebits.reporting.canvas import BLUE, DASHES, INK, LINE, SKY, VERMILLION
from samebits.reporting.page_svg import FONT_SIZE, SIZE, page_style, svg
from samebits.search.confirmation import Confirmation, mean_estimate
from samebits.search.objective import Objective
from samebits.search.search_file import Parameter, ParamValue
from samebits.search.trials import Trial, best_first
from samebits.search.tuning_curve import Band

# The lines of trials that are not complete.
_STOPPED: dict[str, Any] = {"pruned": DASHES, "failed": (0, (1, 2))}
_ROW = 0.66  # inches between two axes of the parallel coordinates
_SMALL = 9.5  # points
_WIDTH = SIZE[0] - 0.4  # inches for what is written about one axis
_MOST_TICKS = 8


@page_style
def progress(objective: Objective, trials: Sequence[Trial], band: Band | None) -> Markup:
    """Draw the objective of each trial, the best so far, and the band of the best of so many independent trials."""
    page = Figure(figsize=SIZE)
    axes = page.add_subplot()
    complete = {
        each.number: each.objective for each in trials if each.state == "complete" and each.objective is not None
    }
    for number, value in complete.items():
        axes.plot(number, value, "o", color=BLUE, markersize=4, alpha=0.6, gid=f"progress-trial-{number}")
    if complete:
        values = np.array(list(complete.values()))
        so_far = (np.minimum if objective.is_lower_better else np.maximum).accumulate(values)
        steps = [*complete, trials[-1].number], [*so_far, so_far[-1]]
        axes.plot(*steps, color=INK, linewidth=1.6, drawstyle="steps-post", label="best so far")
        room = 0.06 * (float(np.ptp(values)) or abs(values[0]) or 1)
        axes.set_ylim(values.min() - room, values.max() + room)
        if band is not None:  # either bound may be infinite
            low, high = (np.clip(bound, *axes.get_ylim()) for bound in (band.low, band.high))
            axes.fill_between(np.arange(len(low)), low, high, color=SKY, alpha=0.35, linewidth=0, label="95 % band")
    for state, mark in (("pruned", "|"), ("failed", "x")):
        for place, number in enumerate(trial.number for trial in trials if trial.state == state):
            style: dict[str, Any] = {"color": VERMILLION, "markersize": 6, "linestyle": "none", "clip_on": False}
            style |= {"gid": f"progress-trial-{number}", "label": None if place else state}
            axes.plot(number, 0.03, mark, transform=axes.get_xaxis_transform(), **style)
    axes.set(xlabel="trial", ylabel=objective.name, xlim=(trials[0].number - 0.5, trials[-1].number + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if complete and not objective.is_lower_better:
        axes.yaxis.set_major_formatter(canvas.percent)
    axes.grid(axis="y")
    page.legend(loc="outside upper left", ncols=3)
    told = f"{objective.name} by trial; {len(complete)} of {len(trials)} trials are complete."
    return svg(page, told, _titles(objective, trials, "progress"))


@dataclass(frozen=True)
class _Scale:
    """An axis of the parallel coordinates: where a value lies on it, from 0 to 1, and what is written under it."""

    label: str
    place: Callable[[Any], float]
    ticks: Mapping[float, str]


@page_style
def parallel_coordinates(
    objective: Objective, parameters: Mapping[str, Parameter], names: Mapping[str, str], trials: Sequence[Trial]
) -> Markup:
    """Draw each trial as a line across an axis for each parameter, down to its objective: the better, the stronger.

    `names` are what the parameters are called.
    """
    scales = {name: _parameter_scale(names[name], each) for name, each in parameters.items()}
    ranked = best_first(trials, not objective.is_lower_better)
    rows = list(scales.values())
    if ranked:
        rows.append(_objective_scale(objective, ranked[-1][1], ranked[0][1]))
    page = Figure(figsize=(SIZE[0], _ROW * len(rows) + 0.15))
    axes = page.add_subplot()

    def draw(trial: Trial, last: list[float], **style: Any) -> None:
        places = [scale.place(trial.values[name]) for name, scale in scales.items()] + last
        axes.plot(places, range(len(places)), gid=f"parallel-trial-{trial.number}", **style)

    for trial in trials:
        if trial.state != "complete":
            draw(trial, [], color=LINE, linewidth=1, linestyle=_STOPPED[trial.state])
    for rank, (trial, value) in reversed(list(enumerate(ranked))):  # the best over all others
        share = 1 - rank / len(ranked)
        style: dict[str, Any] = {"color": BLUE, "linewidth": 1.3, "alpha": 0.1 + 0.5 * share**2}
        if rank == 0:
            style = {"color": VERMILLION, "linewidth": 2.4}
        draw(trial, [rows[-1].place(value)], **style)
    for row, scale in enumerate(rows):
        axes.plot([0, 1], [row, row], color=LINE, linewidth=1)
        label = canvas.shorten(scale.label, FONT_SIZE, _WIDTH)
        axes.annotate(label, (0, row), (0, 4), textcoords="offset points", va="bottom", fontweight="bold")
        for place, text in scale.ticks.items():
            axes.plot(place, row, "|", color=LINE, markersize=7)
            side: dict[str, Any] = {"ha": "left" if place == 0 else "right" if place == 1 else "center", "va": "top"}
            axes.annotate(text, (place, row), (0, -5), textcoords="offset points", fontsize=_SMALL, **side)
    axes.set(xlim=(-0.01, 1.01), ylim=(len(rows) - 0.5, -0.45))
    axes.set_axis_off()
    told = f"Each trial as a line across {', '.join(names.values())}."
    return svg(page, told, _titles(objective, trials, "parallel"))


@page_style
def confirmation(confirmed: Confirmation) -> Markup:
    """Draw the objective of each training with a fresh seed, the means, and what the search had said."""
    page = Figure(figsize=(SIZE[0], 2.4))
    axes = page.add_subplot()
    sides = (confirmed.of_baseline, BLUE, "o"), (confirmed.of_winner, VERMILLION, "D")
    for row, (side, colour, marker) in enumerate(sides):
        values = [each.objective for each in side if each.objective is not None]
        if not values:
            continue
        axes.plot(values, np.full(len(values), row), marker, color=colour, alpha=0.7, markersize=5)
        mean, under = mean_estimate(values), row + 0.25
        if mean.low is not None and mean.high is not None:
            axes.plot([mean.low, mean.high], [under, under], color=INK, linewidth=1.6)
        axes.plot(mean.value, under, "|", color=INK, markersize=11, markeredgewidth=2)
    axes.plot([], [], color=INK, linewidth=1.6, label="mean and its 95 % interval")
    said: dict[str, Any] = {"markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.6, "linestyle": "none"}
    axes.plot(confirmed.searched, 1, "D", color=VERMILLION, label="what the search said", **said)
    axes.set_yticks([0, 1], ["baseline", "winner"])
    axes.set(ylim=(1.6, -0.5), xlabel=confirmed.objective.name)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if not confirmed.objective.is_lower_better:
        axes.xaxis.set_major_formatter(canvas.percent)
    axes.grid(axis="x")
    page.legend(loc="outside upper left", ncols=2)
    seeds = ", ".join(map(str, confirmed.seeds))
    return svg(page, f"The {confirmed.objective.name} of baseline and winner with the seeds {seeds}.")


def _parameter_scale(name: str, parameter: Parameter) -> _Scale:
    if parameter.choices is not None:
        choices, last = parameter.choices, len(parameter.choices) - 1
        # By JSON, since a choice may be a list or a section.
        places = {_as_key(choice): place / last if last else 0.5 for place, choice in enumerate(choices)}
        written = choices[:: -(-len(choices) // _MOST_TICKS)]
        room = 0.9 * _WIDTH / len(written)
        ticks = {places[_as_key(choice)]: canvas.shorten(tell(choice), _SMALL, room) for choice in written}
        return _Scale(name, lambda value: places[_as_key(value)], ticks)
    low, high = parameter.low, parameter.high
    ends = {0.0: tell(low), 1.0: tell(high)}
    if parameter.log:
        return _Scale(f"{name} (log)", lambda value: math.log(value / low) / math.log(high / low), ends)
    return _Scale(name, lambda value: (value - low) / (high - low), ends)


def _as_key(choice: ParamValue) -> str:
    return json.dumps(choice, sort_keys=True)  # the sampler returns sections with sorted keys


def tell(value: ParamValue) -> str:
    """Return a value of params.yaml as text: a number with four digits, a section as {name: cosine}."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).replace('"', "")


def _objective_scale(objective: Objective, worst: float, best: float) -> _Scale:
    if worst == best:
        return _Scale(objective.name, lambda _: 0.5, {0.5: objective.tell(best)})
    ends = {0.0: objective.tell(worst), 1.0: objective.tell(best)}
    return _Scale(objective.name, lambda value: (value - worst) / (best - worst), ends)


def _titles(objective: Objective, trials: Sequence[Trial], chart: str) -> dict[str, str]:
    return {f"{chart}-trial-{trial.number}": _title(objective, trial) for trial in trials}


def _title(objective: Objective, trial: Trial) -> str:
    values = (f"{name}: {tell(value)}" for name, value in trial.values.items())
    return "\n".join([f"trial {trial.number}: {objective.tell_result(trial)}", *values])
