"""The pictures of a run. Equal inputs give byte-equal PNG files; see `samebits.reporting.canvas` for how.

Each function writes one PNG file to `path`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from samebits.reporting import canvas
from samebits.reporting.canvas import BLUE, DASHES, INK, LINE, LINE_HEIGHT, MARGIN, SKY, VERMILLION, percent

if TYPE_CHECKING:
    from samebits.evaluation.metrics.summary import Calibration

_FOOT = 0.65  # inches, from the bottom edge to axes with tick labels and a label
_IMAGE_PIXELS = 192  # longest side of a drawn image: 6 times that of a 32 by 32 image
_RIGHT, _WRONG = (canvas.BLUE_TEXT, "✓"), (canvas.VERMILLION_TEXT, "✗")
_COUNT = "{x:,.0f}"
_Style = dict[str, Any]


@canvas.fixed_style
def training_curves(history: pd.DataFrame, path: Path, title: str) -> None:
    """Draw the losses by training step, and beside them the validation accuracy if any was measured.

    `history` has the columns step and epoch (int), train_loss (float, mean over the reporting interval), validation_loss and
    validation_accuracy (float, accuracy in [0, 1]; NaN in rows without it). A training loss that is not finite leaves a gap.
    """
    rows = history.replace([np.inf, -np.inf], np.nan)
    validated = rows.dropna(subset="validation_accuracy")

    panels = 1 if validated.empty else 2
    side, width, height = 0.62, 4.3 if panels == 2 else 5.6, 3.0
    step = side + width + MARGIN
    page = canvas.new_page(MARGIN + panels * step, canvas.HEAD + 0.22 + height + _FOOT, title)
    loss, *accuracy = (
        canvas.add_axes(page, MARGIN + side + panel * step, _FOOT, width, height) for panel in range(panels)
    )
    loss.set_title("Loss")
    curve(loss, rows, "train_loss", BLUE, "-", "training")
    curve(loss, rows.dropna(subset="validation_loss"), "validation_loss", VERMILLION, "--", "validation")
    loss.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    for axes in accuracy:
        values = validated["validation_accuracy"]
        axes.set_title(f"Validation accuracy: last {percent(values.iloc[-1])}, best {percent(values.max())}")
        curve(axes, validated, "validation_accuracy", VERMILLION, "--", "validation")
        axes.yaxis.set_major_formatter(percent)

    first, last = rows["epoch"].min(), rows["epoch"].max()
    start, end = rows["step"].min(), rows["step"].max()
    space = max(0.03 * (end - start), 0.5)
    for axes in (loss, *accuracy):
        axes.grid(axis="y")
        epochs = f"epoch {first}" if first == last else f"epochs {first} to {last}"
        axes.set(xlim=(start - space, end + space), xlabel=f"training step ({epochs})")
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
        axes.xaxis.set_major_formatter(_COUNT)
    canvas.save(page, path)


@canvas.fixed_style
def confusion_matrix(counts: NDArray[np.integer[Any]], class_names: Sequence[str], path: Path, title: str) -> None:
    """Draw a confusion matrix shaded by the share of each row, with the counts if there is room for them.

    `counts` is an integer array (C, C) of images, rows by true class and columns by predicted class, in the order of
    `class_names`.
    """
    classes = len(class_names)
    side = min(max(2.6, 0.56 * classes), 6.0 + 0.05 * max(0, classes - 10))
    cell = side / classes
    size = min(8.5, 0.85 * cell * 72)
    names, longest = canvas.class_labels(class_names, size)
    # The names under the columns are horizontal, slanted or vertical: the first that fits.
    angle, depth = 0, size * LINE_HEIGHT
    if longest + 0.08 > cell:
        angle, depth = (45, 0.71 * longest + 0.06) if cell > 1.6 * size * LINE_HEIGHT else (90, longest)
    left, bottom = MARGIN + 0.3 + longest, MARGIN + 0.35 + depth
    page = canvas.new_page(left + side + 1.15, canvas.HEAD + side + bottom, title)
    axes = canvas.add_axes(page, left, bottom, side, side)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # A square-root scale keeps few errors visible beside a strong diagonal; np.sqrt, unlike np.power, gives the same bits
    # on every processor.
    root = FuncNorm((np.sqrt, np.square), 0, 1)
    shading = axes.imshow(shares, cmap="Blues", norm=root, aspect="auto", interpolation="nearest")
    between: _Style = {"colors": "white", "linewidth": min(1.2, 4 * cell)}
    axes.hlines(np.arange(1, classes) - 0.5, -0.5, classes - 0.5, **between)
    axes.vlines(np.arange(1, classes) - 0.5, -0.5, classes - 0.5, **between)
    slant: _Style = {"ha": "right", "rotation_mode": "anchor"} if angle == 45 else {}
    axes.set_xticks(range(classes), names, rotation=angle, fontsize=size, **slant)
    axes.set_yticks(range(classes), names, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(ylabel="true class", xlabel="predicted class")
    axes.yaxis.set_label_coords(-(longest + 0.2) / side, 0.5)
    axes.xaxis.set_label_coords(0.5, -(depth + 0.17) / side)

    size = min(9.0, 90 * cell / len(f"{counts.max()}"), 0.6 * cell * 72)  # a digit is 0.64 of its size wide
    if size >= 6:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.3 else INK if count else LINE
            axes.text(column, row, f"{count}", ha="center", va="center_baseline", fontsize=size, color=colour)
    high = min(side, 3.0)
    bar = canvas.add_axes(page, left + side + 0.2, bottom + side - high, 0.13, high)
    page.colorbar(shading, cax=bar, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.yaxis.set_major_formatter(percent)
    bar.set_ylabel("share of the true class")
    bar.spines[:].set_visible(False)
    canvas.save(page, path)


@canvas.fixed_style
def labelled_images(
    images: NDArray[np.uint8], captions: Sequence[str], correct: Sequence[bool] | None, path: Path, title: str
) -> None:
    """Draw a grid of images with a caption under each, marked right or wrong if `correct` is given.

    `images` is a uint8 array (N, H, W, 3) of RGB or (N, H, W, 1) of grey values; `captions` and `correct` have N items. A caption
    wider than its image is broken into lines. Without images the picture says "none".
    """
    number, sides = len(images), images.shape[1:3]
    if images.shape[3] == 1:
        images = np.repeat(images, 3, axis=3)
    if number == 0:
        page = canvas.new_page(4.0, canvas.HEAD + 0.4, title)
        canvas.write(page, MARGIN, 0.4, "none", INK, 9.0)
        canvas.save(page, path)
        return

    # A whole number of page pixels for each pixel of a small image keeps its pixels equal.
    scale = _IMAGE_PIXELS / max(sides)
    scale = int(scale) if scale >= 1 else scale
    high, wide = (max(1, round(scale * side)) for side in sides)
    tall, broad = (np.arange(pixels) * side // pixels for pixels, side in zip((high, wide), sides, strict=True))
    inch, box, gap, size = canvas.DPI, max(wide, _IMAGE_PIXELS), 30, 8.0
    marks = [(INK, "")] * number if correct is None else [_RIGHT if right else _WRONG for right in correct]
    lines = [
        canvas.wrap(f"{mark} {caption}", size, (box + 0.6 * gap) / inch)
        for (_, mark), caption in zip(marks, captions, strict=True)
    ]
    columns = number if number <= 7 else min(range(5, 9), key=lambda count: (-number % count, -count))
    pitch = high / inch + 0.08 + max(map(len, lines)) * size * LINE_HEIGHT + 0.2
    head = canvas.HEAD + (0 if correct is None else 0.27)
    width = 2 * MARGIN + (columns * (box + gap) - gap) / inch
    page = canvas.new_page(width, head + -(-number // columns) * pitch + 0.05, title)
    height = page.get_figheight()
    if correct is not None:
        for place, (word, (colour, mark)) in enumerate({"right": _RIGHT, "wrong": _WRONG}.items()):
            canvas.write(page, MARGIN + 0.75 * place, height - canvas.HEAD, f"{mark} {word}", colour, 8.5)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left, top = MARGIN + column * (box + gap) / inch, height - head - row * pitch
        page.figimage(image[tall][:, broad], left * inch + (box - wide) // 2, round(top * inch) - high)
        for above, line in enumerate(lines[index]):
            below = top - high / inch - 0.08 - above * size * LINE_HEIGHT
            canvas.write(page, left + box / inch / 2, below, line, marks[index][0], size, ha="center")
    canvas.save(page, path)


@canvas.fixed_style
def reliability_diagram(calibration: "Calibration", path: Path, title: str) -> None:
    """Draw the accuracy by confidence, its gap to the confidence, and the number of images by bin beneath."""
    bins, full = len(calibration.count), calibration.count > 0
    confidence, accuracy, counts = (
        values[full] for values in (calibration.confidence, calibration.accuracy, calibration.count)
    )
    left, side, under = MARGIN + 0.72, 4.4, 1.0
    page = canvas.new_page(left + side + 0.4, canvas.HEAD + 0.5 + side + 0.22 + under + _FOOT, title)
    upper = canvas.add_axes(page, left, _FOOT + under + 0.22, side, side)
    lower = canvas.add_axes(page, left, _FOOT, side, under)
    edges = np.arange(bins)[full] / bins
    bar: _Style = {"width": 1 / bins, "align": "edge", "linewidth": 0.8}
    upper.bar(edges, accuracy, color=SKY, edgecolor="white", label="accuracy", **bar)
    gap: _Style = {"facecolor": "none", "edgecolor": VERMILLION, "hatch": "////", "label": "gap to mean confidence"}
    upper.bar(edges, confidence - accuracy, bottom=accuracy, **gap, **bar)
    upper.plot([0, 1], [0, 1], color=INK, linewidth=1.1, linestyle=DASHES, label="ideal")
    upper.set_title(f"Expected calibration error: {percent(calibration.error)}", pad=26)
    upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=1.6)
    upper.set(ylabel="accuracy", ylim=(0, 1))
    upper.yaxis.set_major_formatter(percent)
    upper.tick_params(labelbottom=False)
    lower.bar(edges, counts, color=LINE, edgecolor="white", **bar)
    lower.set(ylabel="images", xlabel="confidence (probability given to the predicted class)")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.yaxis.set_major_formatter(_COUNT)
    lower.xaxis.set_major_formatter(percent)
    for axes in (upper, lower):
        axes.set(xlim=(0, 1), xticks=np.linspace(0, 1, 6))
        axes.grid(axis="y")
        axes.yaxis.set_label_coords(-0.6 / side, 0.5)
    canvas.save(page, path)


@canvas.fixed_style
def per_class_accuracy(
    accuracy: Sequence[float], overall: float, class_names: Sequence[str], path: Path, title: str
) -> None:
    """Draw a bar of accuracy for each class, in the order given, and a line at the overall accuracy.

    `accuracy` has one value in [0, 1] for each of the `class_names`, NaN for a class without images; `overall` is in [0, 1].
    """
    values, classes = np.asarray(accuracy, "float64"), len(class_names)
    known = ~np.isnan(values)
    size, pitch = (8.5, 0.28) if classes <= 40 else (7.5, 0.19)
    names, longest = canvas.class_labels(class_names, size)
    left, width, height = MARGIN + 0.1 + longest, 4.6, max(classes * pitch, 0.5)
    page = canvas.new_page(left + width + 0.9, canvas.HEAD + 0.2 + height + _FOOT, title)
    axes = canvas.add_axes(page, left, _FOOT, width, height)
    axes.barh(np.arange(classes)[known], values[known], height=0.7, color=SKY)
    axes.axvline(overall, color=INK, linewidth=1.1, linestyle=DASHES)
    side = "left" if overall < 0.15 else "right" if overall > 0.85 else "center"
    above: _Style = {"transform": axes.get_xaxis_transform(), "ha": side, "va": "bottom", "fontsize": 8.5}
    axes.text(overall, 1 + 0.05 / height, f"overall {overall:.1%}", **above)
    for row, value in enumerate(values):
        text = "no images" if np.isnan(value) else f"{value:.1%}"
        axes.text(1 + 0.09 / width, row, text, va="center_baseline", fontsize=size)
    axes.set(xlim=(0, 1), ylim=(classes - 0.5, -0.5), xlabel="accuracy")
    axes.set_yticks(range(classes), names, fontsize=size)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(percent)
    axes.grid(axis="x")
    canvas.save(page, path)


def curve(axes: Axes, rows: pd.DataFrame, column: str, colour: str, dashes: str, label: str) -> None:
    """Draw a column by step, with a marker at each point if they are few; draw nothing without rows."""
    if len(rows):
        marker = "o" if len(rows) <= 40 else None
        style: _Style = {"color": colour, "marker": marker, "markersize": 3.5, "linewidth": 1.6, "label": label}
        axes.plot(rows["step"], rows[column], dashes, **style)
