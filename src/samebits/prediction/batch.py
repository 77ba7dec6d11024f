"""Many image files through a trained network: to lines, tables and a picture, and to the accuracy if classes are known."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from samebits import atomic, runtime
from samebits.errors import UserError, printable
from samebits.evaluation.metrics import summary
from samebits.prediction import named_files
from samebits.prediction.classification import Failure, Prediction, predict
from samebits.prediction.formats import FORMATS, Item, Layout
from samebits.prediction.trained import Trained
from samebits.reporting import terminal

_MAX_PICTURED = 40


def require_options(top: int, picture: Path | None) -> None:
    """Raise UserError if `top` names no class, or no PNG file can be written to `picture`."""
    if top < 1:
        raise UserError(f"--top is {top}: must be at least 1")
    if picture:
        if picture.suffix.lower() != ".png":
            raise UserError(f"--picture {printable(str(picture))}: the picture is a PNG file, so name it *.png")
        atomic.require_writable(picture)


def predict_files(
    trained: Trained, named: Sequence[str], form: str, top: int, picture: Path | None, are_labelled: bool
) -> int:
    """Predict what `named` stands for (`named_files`); print text, json or csv, and draw the first few images.

    If the images are labelled, by their folders, print the accuracy too: in json the output is an object with `images` and
    `metrics`, and for csv the accuracy goes to standard error. Returns 1 if a file could not be read or a folder holds no
    image, else 0. Raises UserError if there is no image at all.
    """
    class_names = trained.checkpoint.description.class_names
    files = named_files.find(named, class_names if are_labelled else None)
    layout = Layout(class_names, min(top, len(class_names)), max(map(len, files.paths)), are_labelled)
    pictured: list[tuple[Prediction, str | None]] = []
    probabilities: list[np.ndarray] = []  # of labelled images that could be read
    labels: list[int] = []
    num_failures = 0

    def items() -> Iterator[Item]:
        nonlocal num_failures
        # Lines on a terminal are progress enough.
        is_silent = form == "text" and are_labelled
        is_hidden = True if sys.stdout.isatty() and not is_silent else None
        predicted = predict(trained.checkpoint, files.paths, runtime.choose_device("auto"))
        bar = tqdm(predicted, total=len(files.paths), unit=" images", disable=is_hidden)
        for item, true in zip(bar, files.classes, strict=True):
            if isinstance(item, Failure):
                num_failures += 1
                tqdm.write(f"error: {printable(item.path)} {printable(item.reason)}", file=sys.stderr)
            else:
                if picture and len(pictured) < _MAX_PICTURED:
                    pictured.append((item, true))
                if true is not None:
                    probabilities.append(item.probabilities)
                    labels.append(class_names.index(true))
            yield item, true

    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    if are_labelled and form == "json":
        sys.stdout.write('{"images": ')
    FORMATS[form](sys.stdout, items(), layout)
    if are_labelled:
        metrics = _metrics(np.array(probabilities), np.array(labels), class_names) if labels else None
        if form == "json":
            sys.stdout.write(f', "metrics": {json.dumps(metrics)}}}\n')
        elif metrics:
            print(_table(metrics, len(labels)), file=sys.stderr if form == "csv" else sys.stdout)
    sys.stdout.flush()
    if picture:
        _draw(trained, layout, pictured, len(files.paths) - num_failures, picture)
    if num_failures:
        print(f"{num_failures:,} of {len(files.paths):,} files could not be read", file=sys.stderr)
    return 1 if num_failures or not files.are_complete else 0


def _metrics(probabilities: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Return the metrics of an evaluation, without the classes that none of the images is of."""
    metrics = summary.summarize(probabilities, labels, class_names)
    present = {class_names[label] for label in labels}
    return metrics | {"per_class": {name: each for name, each in metrics["per_class"].items() if name in present}}


def _table(metrics: dict[str, Any], num_images: int) -> str:
    named = {printable(name): each for name, each in metrics["per_class"].items()}
    return f"{num_images:,} images: {terminal.accuracy_table(metrics | {'per_class': named})}"


def _draw(
    trained: Trained, layout: Layout, pictured: list[tuple[Prediction, str | None]], num_images: int, path: Path
) -> None:
    from samebits.reporting import canvas, figures  # imports matplotlib, which takes half a second

    first = "the first " if num_images > len(pictured) else ""
    _channels, height, width = trained.checkpoint.description.image_shape
    images = np.zeros((len(pictured), height, width, 3), dtype=np.uint8)
    captions, are_right = [], []
    for index, (item, true) in enumerate(pictured):
        images[index] = item.pixels  # grey becomes equal red, green and blue
        ranking = layout.ranking(item)
        lines = [os.path.basename(item.path) + (f" ({true})" if true else "")]
        lines += [f"{name} {100 * share:.1f} %" for name, share in ranking]
        captions.append("\n".join(printable(line) for line in lines))
        if true:
            are_right.append(ranking[0][0] == true)
    title = f"What the network says of {first}{len(pictured)} image{'s' if len(pictured) > 1 else ''}"
    with canvas.system_fonts("".join(captions)):
        figures.labelled_images(images, captions, are_right or None, path, title)
    print(f"picture: {path}", file=sys.stderr)
