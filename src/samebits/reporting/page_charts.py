"""The charts of the report page: SVG in the page's colours, light or dark, readable on a phone."""

from collections.abc import Sequence

import numpy as np
import pandas
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from samebits.evaluation.metrics.summary import NUM_BINS, Calibration
from samebits.reporting import canvas, figures
from samebits.reporting.canvas import BLUE, DASHES, INK, SKY, VERMILLION
from samebits.reporting.page_svg import SIZE, page_style, svg


@page_style
def training_curves(history: pandas.DataFrame) -> Markup:
    """Draw the losses by training step, from the columns that `samebits.training.history` names."""
    rows = history.replace([np.inf, -np.inf], np.nan)
    losses = rows.dropna(subset="train_loss")
    page = Figure(figsize=SIZE)
    axes = page.add_subplot()
    figures.curve(axes, losses, "train_loss", BLUE, "-", "training")
    figures.curve(axes, rows.dropna(subset="validation_loss"), "validation_loss", VERMILLION, "--", "validation")
    axes.set(xlabel="training step", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y")
    if axes.lines:
        axes.legend()
    if losses.empty:
        return svg(page, "Training loss: nothing finite was reported.")
    ends = (f"{row['train_loss']:.3f} at step {row['step']:,.0f}" for row in (losses.iloc[0], losses.iloc[-1]))
    return svg(page, f"Training loss by step: {', '.join(ends)}.")


@page_style
def reliability_diagram(calibration: Calibration) -> Markup:
    """Draw accuracy by confidence against the ideal."""
    full = calibration.count > 0
    edges = np.arange(NUM_BINS)[full] / NUM_BINS
    accuracy, confidence = calibration.accuracy[full], calibration.confidence[full]
    page = Figure(figsize=SIZE)
    axes = page.add_subplot()
    axes.bar(edges, accuracy, 1 / NUM_BINS, align="edge", color=SKY, edgecolor=INK, linewidth=0.6, label="accuracy")
    axes.plot(confidence, accuracy, "o", color=BLUE, markersize=3.5, label="mean of its bin")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1.1, linestyle=DASHES, label="ideal")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.xaxis.set_major_formatter(canvas.percent)
    axes.yaxis.set_major_formatter(canvas.percent)
    axes.legend(loc="upper left")
    direction = "more" if ((confidence - accuracy) * calibration.count[full]).sum() > 0 else "less"
    told = f"Expected calibration error {100 * calibration.error:.1f} %; on the whole {direction} sure than right"
    return svg(page, f"Accuracy by confidence. {told}.")


@page_style
def seeds(a: Sequence[float], b: Sequence[float]) -> Markup:
    """Draw the accuracy of each training of two groups, and each group's mean."""
    page = Figure(figsize=SIZE)
    axes = page.add_subplot()
    for row, (values, colour, marker) in enumerate(((a, BLUE, "o"), (b, VERMILLION, "D"))):
        axes.plot(values, np.full(len(values), row), marker, color=colour, alpha=0.8)
        axes.plot([np.mean(values)] * 2, [row - 0.25, row + 0.25], color=INK, linewidth=1.6)
    axes.set_yticks([0, 1], ["A", "B"])
    axes.set(ylim=(1.6, -0.6), xlabel="accuracy of each training, and the mean")
    axes.xaxis.set_major_formatter(canvas.percent)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
    groups = (f"{name}: {', '.join(f'{100 * value:.2f} %' for value in each)}" for name, each in (("A", a), ("B", b)))
    return svg(page, f"Accuracy of each training. {'. '.join(groups)}.")
