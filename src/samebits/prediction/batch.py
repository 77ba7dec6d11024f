"""Many image files through a trained network: to lines, tables and a picture."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from samebits import atomic, runtime
from samebits.data import image_files
from samebits.errors import UserError, printable
from samebits.prediction.classification import Failure, Prediction, predict
from samebits.prediction.formats import FORMATS, Ranked, Ranking, ranking
from samebits.prediction.trained import Trained

_MAX_PICTURED = 40


def require_options(top: int, picture: Path | None) -> None:
    """Raise UserError if `top` names no class, or no PNG file can be written to `picture`."""
    if top < 1:
        raise UserError(f"--top is {top}: must be at least 1")
    if picture:
        if picture.suffix.lower() != ".png":
            raise UserError(f"--picture {printable(str(picture))}: the picture is a PNG file, so name it *.png")
        atomic.require_writable(picture)


def predict_files(trained: Trained, named: Sequence[str], form: str, top: int, picture: Path | None) -> int:
    """Predict each file in `named`, and each image in its folders; print text, json or csv, and draw the first few.

    Returns 1 if a file could not be read or a folder holds no image, else 0. Raises UserError if there is no image at all.
    """
    files, is_complete = _images(named)
    class_names = trained.checkpoint.description.class_names
    top = min(top, len(class_names))
    pictured: list[tuple[Prediction, Ranking]] = []
    num_failures = 0

    def ranked_items() -> Iterator[Ranked]:
        nonlocal num_failures
        # Lines on a terminal are progress enough.
        with tqdm(total=len(files), unit=" images", disable=True if sys.stdout.isatty() else None) as bar:
            for item in predict(trained.checkpoint, files, runtime.choose_device("auto")):
                ranked = ranking(item, class_names, top) if isinstance(item, Prediction) else []
                if isinstance(item, Failure):
                    num_failures += 1
                    tqdm.write(f"error: {printable(item.path)} {printable(item.reason)}", file=sys.stderr)
                elif picture and len(pictured) < _MAX_PICTURED:
                    pictured.append((item, ranked))
                yield item, ranked
                bar.update()

    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    FORMATS[form](sys.stdout, ranked_items(), top, max(map(len, files)))
    sys.stdout.flush()
    if picture:
        _draw(trained, pictured, len(files) - num_failures, picture)
    if num_failures:
        print(f"{num_failures:,} of {len(files):,} files could not be read", file=sys.stderr)
    return 1 if num_failures or not is_complete else 0


def _images(named: Sequence[str]) -> tuple[list[str], bool]:
    """List the files to predict, and tell whether each folder holds some."""
    files: list[str] = []
    others: Counter[str] = Counter()
    is_complete = True
    for path in named:
        if not os.path.isdir(path):
            files.append(path)
            continue
        paths, skipped = image_files.below(path)
        files += paths
        others += skipped
        if not paths:
            is_complete = False
            print(f"error: {printable(path)} holds no image", file=sys.stderr)
    if others:
        print(f"note: passed over {image_files.summary(others)}", file=sys.stderr)
    if not files:
        raise UserError("there is no image to predict")
    return files, is_complete


def _draw(trained: Trained, pictured: list[tuple[Prediction, Ranking]], num_images: int, path: Path) -> None:
    from samebits.reporting import figures  # imports matplotlib, which takes half a second

    first = "the first " if num_images > len(pictured) else ""
    _channels, height, width = trained.checkpoint.description.image_shape
    images = np.zeros((len(pictured), height, width, 3), dtype=np.uint8)
    captions = []
    for index, (prediction, ranked) in enumerate(pictured):
        images[index] = prediction.pixels  # grey becomes equal red, green and blue
        lines = [os.path.basename(prediction.path), *(f"{name} {100 * share:.1f} %" for name, share in ranked)]
        captions.append("\n".join(printable(line) for line in lines))
    with atomic.replacing(path) as temporary:
        figures.labelled_images(
            images, captions, None, temporary, f"What the network says of {first}{len(pictured)} images"
        )
    print(f"picture: {path}", file=sys.stderr)
