"""The charts of the report page: SVG in the page's colours, light or dark, readable on a phone."""

import io
import re
from collections.abc import Sequence

import matplotlib.style
import numpy as np
import pandas
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from samebits.evaluation.metrics.summary import NUM_BINS, Calibration
from samebits.reporting import canvas, figures
from samebits.reporting.canvas import BLUE, GRID, INK, LINE, SKY, VERMILLION

_SIZE = 5.0, 3.4  # inches: 360 points wide, so that a phone does not scale the text
_FONT_SIZE = 11.0
# The name of each colour in the page's style sheet.
_VARIABLES = {INK: "ink", LINE: "line", GRID: "grid", BLUE: "blue", SKY: "sky", VERMILLION: "vermillion"}
_STYLE = canvas.STYLE | {
    "svg.fonttype": "none",
    "svg.hashsalt": "samebits",
    "font.size": _FONT_SIZE,
    "axes.labelsize": _FONT_SIZE,
    "xtick.labelsize": _FONT_SIZE,
    "ytick.labelsize": _FONT_SIZE,
    "legend.fontsize": _FONT_SIZE,
    "figure.constrained_layout.use": True,
}
_page_style = matplotlib.style.context(["default", _STYLE])


@_page_style
def training_curves(history: pandas.DataFrame) -> Markup:
    """Draw the losses by training step, from the columns that `samebits.training.history` names."""
    rows = history.replace([np.inf, -np.inf], np.nan)
    losses = rows.dropna(subset="train_loss")
    page = Figure(figsize=_SIZE)
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
        return _svg(page, "Training loss: nothing finite was reported.")
    ends = (f"{row['train_loss']:.3f} at step {row['step']:,.0f}" for row in (losses.iloc[0], losses.iloc[-1]))
    return _svg(page, f"Training loss by step: {', '.join(ends)}.")


@_page_style
def reliability_diagram(calibration: Calibration) -> Markup:
    """Draw accuracy by confidence against the ideal."""
    full = calibration.count > 0
    edges = np.arange(NUM_BINS)[full] / NUM_BINS
    accuracy, confidence = calibration.accuracy[full], calibration.confidence[full]
    page = Figure(figsize=_SIZE)
    axes = page.add_subplot()
    axes.bar(edges, accuracy, 1 / NUM_BINS, align="edge", color=SKY, edgecolor=INK, linewidth=0.6, label="accuracy")
    axes.plot(confidence, accuracy, "o", color=BLUE, markersize=3.5, label="mean of its bin")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1.1, linestyle=(0, (4, 3)), label="ideal")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.xaxis.set_major_formatter(canvas.percent)
    axes.yaxis.set_major_formatter(canvas.percent)
    axes.legend(loc="upper left")
    direction = "more" if ((confidence - accuracy) * calibration.count[full]).sum() > 0 else "less"
    told = f"Expected calibration error {100 * calibration.error:.1f} %; on the whole {direction} sure than right"
    return _svg(page, f"Accuracy by confidence. {told}.")


@_page_style
def seeds(a: Sequence[float], b: Sequence[float]) -> Markup:
    """Draw the accuracy of each training of two groups, and each group's mean."""
    page = Figure(figsize=_SIZE)
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
    return _svg(page, f"Accuracy of each training. {'. '.join(groups)}.")


def _svg(page: Figure, told: str) -> Markup:
    """Return the drawing as SVG that leaves size, font and colours to the page; `told` describes it in words."""
    target = io.StringIO()
    page.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", text)
    for colour, name in _VARIABLES.items():
        text = re.sub(colour, f"var(--{name})", text, flags=re.IGNORECASE)
    label = Markup('<svg role="img" aria-label="{}" ').format(told)
    return Markup(text.replace("<svg ", label, 1))
