"""Where images come from, by the name that data.source gives. The next source is a file and an entry here."""

from pathlib import Path

from samebits import params
from samebits.data.raw import RawDataset, RawSplit


def read(data: params.Data, root: Path) -> RawDataset:
    """Return the images of `data.source`; for cifar10 a relative `data.path` is taken from `root`, the repository's."""
    match data.source:
        case "cifar10":
            from samebits.data import cifar10

            return cifar10.read(root / data.path)
        case "shapes":
            from samebits.data import shapes

            train = RawSplit(*shapes.draw(data.shapes.num_train, data.seed, "train"))
            test = RawSplit(*shapes.draw(data.shapes.num_test, data.seed, "test"))
            return RawDataset(shapes.CLASS_NAMES, train, test)
        case "folder":
            from samebits.data import folder

            # From the working folder: what DVC has looked at, also in a temporary experiment.
            return folder.read(Path(data.path), data)
