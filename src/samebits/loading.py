"""A result for use in Python, as `samebits.load` returns it: tables, arrays and a network, each read when it is first used."""

import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samebits import paths, results
from samebits.errors import UserError, printable
from samebits.proof import mlflow_run
from samebits.repository import git
from samebits.results import Result

# Reading parameters and metrics imports none of these.
if TYPE_CHECKING:
    import numpy as np
    import pandas
    from numpy.typing import NDArray
    from PIL import Image
    from torch import nn

    from samebits.data.normalization import Normalization
    from samebits.prediction.trained import Trained

    OneImage = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


def load(name: str | None, root: str | os.PathLike[str]) -> "LoadedResult":
    """Find what `samebits.load` returns."""
    top = git.require_repository(Path(root).absolute())
    if name is None or name == results.WORKSPACE:
        found = results.workspace(top)
    elif re.fullmatch("[0-9a-f]{32}", name) and not git.commit(top, name) and not git.experiments(top, name):
        return LoadedResult(mlflow_run.find(top, name))  # older runs list only some of their outputs
    else:
        found = results.find(top, name)
    found.require_complete()
    return LoadedResult(found)


@dataclass(frozen=True)
class LoadedResult:
    """What a result consists of. What lies in DVC's cache or its remote is read from there; the workspace stays as it is.

    Everything raises UserError if the file that holds it is nowhere to be found.
    """

    revision: Result

    def __repr__(self) -> str:
        return f"<result {self.revision}>"

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The parameters that decided it, in the sections of params.yaml, without the other recipes."""
        return self.revision.parameters()

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What metrics/evaluate.json says: accuracy (a share of the test images), loss (nats), and so on."""
        metrics: dict[str, Any] = json.loads(self.revision.require(paths.METRICS))
        return metrics

    @cached_property
    def history(self) -> "pandas.DataFrame":
        """What the training reported: step, epoch, train_loss, validation_loss, validation_accuracy (NaN if not measured)."""
        import pandas

        return pandas.read_csv(io.BytesIO(self.revision.require(paths.HISTORY)))

    @cached_property
    def predictions(self) -> "pandas.DataFrame":
        """One row for each test image: its `true` and `predicted` class, and `probability_<class>` for each class (float32)."""
        from samebits.evaluation import predictions

        table = predictions.read(self.revision.require(paths.PREDICTIONS), f"{paths.PREDICTIONS} of {self.revision}")
        return _table(table.class_names, table.probabilities, true=table.labels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the network's outputs."""
        return tuple(self._dataset["class_names"])

    @property
    def normalization(self) -> "Normalization":
        """Turns images into what the network takes (`apply`), and back (`pixels`)."""
        from samebits.data.prepared import Description

        return Description.from_json(self._dataset).normalization

    @cached_property
    def test_images(self) -> "NDArray[np.uint8]":
        """The test images in the order of `predictions`: uint8 (N, height, width, channels)."""
        import numpy as np

        from samebits.data import prepared

        with self.revision.copied(self.revision.test_images()) as copy:
            images = prepared.look_at(copy).images
        return np.concatenate([self.normalization.pixels(part.numpy()) for part in images.split(1000)])

    def network(self, device: str = "cpu") -> "nn.Module":
        """Return the trained network, in evaluation mode: normalized images (N, channels, height, width) to logits (N, classes)."""
        return self._trained.checkpoint.network().to(device)

    def predict(self, images: "OneImage | Iterable[OneImage]") -> "pandas.DataFrame":
        """Classify images of any common format and any size as `samebits predict` does, each alone.

        An image is the path of a file, a Pillow image, or an array uint8 (height, width) or (height, width, channels). `images` is one
        of these, a folder, several of them, or an array uint8 (N, height, width, channels). Returns a row for each image, called by its path or
        position, with the `predicted` class and `probability_<class>` for each class. Raises UserError if one is no image.
        """
        import numpy as np
        from tqdm import tqdm

        from samebits import runtime
        from samebits.prediction.classification import Failure, predict

        checkpoint, probabilities = self._trained.checkpoint, []
        with tempfile.TemporaryDirectory(prefix="samebits-") as folder:
            files, names = zip(*_files(images, Path(folder)), strict=True)
            predicted = predict(checkpoint, files, runtime.choose_device("auto"))
            shown = tqdm(predicted, total=len(files), unit=" images", delay=1, leave=False, disable=None)
            for name, item in zip(names, shown, strict=True):
                if isinstance(item, Failure):
                    raise UserError(f"{printable(str(name))} {printable(item.reason)}")
                probabilities.append(item.probabilities)
        table = _table(checkpoint.description.class_names, np.stack(probabilities))
        return table.set_axis(list(names), axis="index")

    @cached_property
    def _dataset(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.revision.require(paths.DATASET))
        return values

    @cached_property
    def _trained(self) -> "Trained":
        from samebits.prediction import trained

        return trained.of_result(self.revision)


def _table(
    class_names: tuple[str, ...], probabilities: "NDArray[np.float32]", **labels: "NDArray[np.int64]"
) -> "pandas.DataFrame":
    """Return a table of probabilities (N, classes); classes are categories in their order, so tables of them are too."""
    import pandas

    positions = labels | {"predicted": probabilities.argmax(axis=1)}
    classes = {name: pandas.Categorical.from_codes(each, pandas.Index(class_names)) for name, each in positions.items()}
    shares = {f"probability_{name}": probabilities[:, position] for position, name in enumerate(class_names)}
    return pandas.DataFrame(classes | shares)


def _files(images: "OneImage | Iterable[OneImage]", folder: Path) -> "Iterator[tuple[str, str | int]]":
    """Yield the path of each image, and its path or position. Those in memory are written to `folder` without loss."""
    import numpy as np
    from PIL import Image

    from samebits.data import image_files

    is_one = isinstance(images, str | os.PathLike | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4)
    several: list[Any] = [images] if is_one else list(images)  # type: ignore[arg-type]
    if not several:
        raise UserError("there is no image to predict")
    for position, image in enumerate(several):
        if isinstance(image, str | os.PathLike):
            path = os.fspath(image)
            found = image_files.below(path)[0] if os.path.isdir(path) else [path]
            if not found:
                raise UserError(f"{printable(path)} holds no image")
            yield from ((each, each) for each in found)
            continue
        path = str(folder / f"{position}.png")
        _write(image, path, f"image {position}")
        yield path, position


def _write(image: Any, path: str, name: str) -> None:
    import numpy as np
    from PIL import Image

    is_array = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3)
    if not is_array and not isinstance(image, Image.Image):
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(
            f"{name} is {what}: pass a path, a Pillow image, or an array uint8 (height, width) or (height, width, channels)"
        )
    try:
        if is_array:
            image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
        image.save(path, exif=image.getexif(), compress_level=1)
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{name} cannot be used ({error}): convert it to RGB") from None
