"""prepare: from raw bytes to normalized tensors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code beside this script

from samebits import stage

inputs = stage.begin(__file__)  # before anything else is imported

from samebits import paths
from samebits.data import normalization, prepared, sources, splits
from samebits.reporting import figures
from samebits.stage.inputs import Inputs

NUM_PICTURES = 40


def main(inputs: Inputs) -> None:
    """Write data/prepared and a picture of the first training images."""
    data = inputs.settings.data
    inputs.seal()
    raw = sources.read(data, stage.repository_root())
    train, validation = raw.train, raw.validation
    if validation is None:
        train, validation = splits.cut_validation(train, data.num_validation, data.seed)
    height, width, channels = train.images.shape[1:]
    normalized = normalization.of_images(data.normalization, train.images)
    description = prepared.Description(data.source, raw.class_names, (channels, height, width), normalized)
    parts = {"train": train, "validation": validation, "test": raw.test}
    prepared.write(Path(paths.PREPARED), description, parts, raw.skipped)
    captions = [raw.class_names[label] for label in train.labels[:NUM_PICTURES]]
    title = f"The first training images of {data.source}"
    figures.labelled_images(train.images[:NUM_PICTURES], captions, None, Path(paths.PLOTS) / "samples.png", title)
    counts = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (normalized.mean, normalized.std))
    print(f"{data.source}: {counts} images; {data.normalization}: mean ({mean}), deviation ({std})")


if __name__ == "__main__":
    stage.run(main, inputs)
