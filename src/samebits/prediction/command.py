"""`samebits predict`: from the files that a user names to lines, tables and a picture."""

import os
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from samebits import atomic, runtime
from samebits.data import image_files
from samebits.errors import UserError, printable
from samebits.prediction import formats, trained
from samebits.prediction.classification import Failure, Prediction, predict
from samebits.prediction.trained import Trained

NUM_PICTURED = 40


def run(folder: Path, arguments: Namespace) -> int:
    """Predict every file named, and every image below the folders named; give 1 where one could not be read, else 0.

    Raises UserError where there is no network or no image at all, or the picture cannot be written.
    """
    if arguments.top < 1:
        raise UserError(f"--top is {arguments.top}: must be at least 1")
    if arguments.picture:
        if arguments.picture.suffix.lower() != ".png":
            raise UserError(
                f"--picture {printable(str(arguments.picture))}: the picture is a PNG file, so name it *.png"
            )
        atomic.require_writable(arguments.picture)
    chosen = trained.load(folder, arguments.rev, arguments.checkpoint)
    paths, is_complete = _images(arguments.paths)
    class_names = chosen.checkpoint.description.class_names
    top = min(arguments.top, len(class_names))
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    form = formats.Json if arguments.json else formats.Csv if arguments.csv else formats.Text
    writer = form(sys.stdout, top, max(len(path) for path in paths))
    pictured: list[tuple[Prediction, formats.Ranking]] = []
    num_failures = 0
    try:
        # Where the lines themselves appear on the terminal, they are the progress.
        with tqdm(total=len(paths), unit=" images", disable=True if sys.stdout.isatty() else None) as bar:
            for item in predict(chosen.checkpoint, paths, runtime.choose_device("auto")):
                ranked = formats.ranking(item, class_names, top) if isinstance(item, Prediction) else []
                if isinstance(item, Failure):
                    num_failures += 1
                    tqdm.write(f"error: {printable(item.path)} {printable(item.reason)}", file=sys.stderr)
                elif arguments.picture and len(pictured) < NUM_PICTURED:
                    pictured.append((item, ranked))
                writer.write(item, ranked)
                bar.update()
        writer.end()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the lines has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if arguments.picture:
        _draw(chosen, pictured, len(paths) - num_failures, arguments.picture)
    if num_failures:
        print(f"{num_failures:,} of {len(paths):,} files could not be read", file=sys.stderr)
    return 1 if num_failures or not is_complete else 0


def _images(named: list[str]) -> tuple[list[str], bool]:
    """List the files to predict, and tell whether every folder had some."""
    paths: list[str] = []
    others: Counter[str] = Counter()
    is_complete = True
    for path in named:
        if not os.path.isdir(path):
            paths.append(path)
            continue
        listing = image_files.below(path)
        others += listing.others
        paths += listing.paths
        if not listing.paths:
            is_complete = False
            print(f"error: {printable(path)} holds no image", file=sys.stderr)
    if others:
        print(f"note: passed over {image_files.summary(others)}", file=sys.stderr)
    if not paths:
        raise UserError("there is no image to predict")
    return paths, is_complete


def _draw(chosen: Trained, pictured: list[tuple[Prediction, formats.Ranking]], number: int, path: Path) -> None:
    from samebits.reporting import figures  # here, for it takes half a second to import matplotlib

    title = f"What the network says of {'the first ' if number > len(pictured) else ''}{len(pictured)} images"
    _channels, height, width = chosen.checkpoint.description.image_shape
    images = np.zeros((len(pictured), height, width, 3), dtype=np.uint8)
    for index, (prediction, _) in enumerate(pictured):
        images[index] = prediction.pixels  # grey is the same in all three
    captions = [
        f"{printable(os.path.basename(prediction.path))}\n"
        + "\n".join(f"{printable(name)} {100 * share:.1f} %" for name, share in ranked)
        for prediction, ranked in pictured
    ]
    with atomic.replacing(path) as temporary:
        figures.labelled_images(images, captions, None, temporary, title)
    print(f"picture: {path}", file=sys.stderr)
