"""train: from normalized tensors to a trained network, its history and the kind of machine that made them."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code beside this script

from tqdm import tqdm

from samebits import atomic, checkpoint, models, params, runtime, stage, tracking
from samebits.data import prepared
from samebits.training import history, loop

PREPARED = Path("data/prepared")
MODEL = Path("data/model")


def main(settings: params.Params) -> None:
    """Write data/model: checkpoint, history, environment."""
    recipe = settings.chosen
    device = runtime.choose_device(settings.device)
    runtime.make_deterministic(recipe.train.num_threads)
    environment = runtime.environment(device, recipe.train.num_threads)
    description = prepared.read_description(PREPARED)
    with tracking.TrainingRecord(
        root=stage.repository_root(),
        workspace=Path.cwd(),
        parameters=settings.resolved(),
        data_md5=tracking.file_md5(PREPARED / prepared.DESCRIPTION),
        environment=environment,
    ) as record:

        def report(row: history.Report, images_per_second: float) -> None:
            tqdm.write(f"[{row.epoch}, {row.step:6d}] loss: {row.train_loss:.3f}")
            record.report(asdict(row), images_per_second=images_per_second)

        data, validation = (prepared.read_split(PREPARED, name).to(device) for name in ("train", "validation"))
        num_classes = len(description.class_names)
        network = models.build(recipe.model, description.image_shape, num_classes, settings.seed).to(device)
        rows = loop.train(network, data, validation, recipe.train, settings.seed, report)

        weights = MODEL / "checkpoint.safetensors"
        meaning = {"recipe": settings.recipe, "seed": settings.seed, **recipe.model_dump(include={"model", "train"})}
        checkpoint.save(weights, checkpoint.Checkpoint(network.state_dict(), meaning, description))
        history.write(MODEL / "history.csv", rows)
        atomic.write_text(MODEL / "environment.json", json.dumps(environment, indent=2) + "\n")
        record.finish(checkpoint_md5=tracking.file_md5(weights), history=[asdict(row) for row in rows])


if __name__ == "__main__":
    stage.run(main, __file__)
