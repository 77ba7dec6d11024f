"""evaluate: from a trained network to its metrics, predictions and pictures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code beside this script

from samebits import stage, tracking

inputs = stage.begin(__file__)  # before any code that decides the result is imported
recorder = tracking.Recorder(stage.repository_root(), "this evaluation")

import json

import numpy as np

from samebits import atomic, checkpoint, paths
from samebits.data import prepared
from samebits.evaluation import inference, metrics, predictions
from samebits.evaluation.predictions import Predictions
from samebits.reporting import pictures
from samebits.stage import changes, records
from samebits.stage.inputs import Inputs
from samebits.training import history, resume


def main(inputs: Inputs) -> None:
    """Write metrics/, data/evaluation and data/plots, and the run."""
    settings, recipe = inputs.settings, inputs.settings.chosen.evaluate
    device, environment = stage.set_up_torch(settings, recipe)
    folder, weights, plots = Path(paths.PREPARED), Path(paths.CHECKPOINT), Path(paths.PLOTS)
    trained = checkpoint.load(weights)
    network = trained.network().to(device)
    test = prepared.read_split(folder, "test")
    rows = history.read(Path(paths.HISTORY))
    inputs.seal()
    prepared.require_written(folder, {"test": inputs.sha256(paths.split("test"))})
    data_md5, checkpoint_md5 = inputs.md5(paths.DATASET), inputs.md5(paths.CHECKPOINT)
    trained.require(settings, prepared.read_description(folder), data_md5, weights)

    with recorder:
        origin = records.origin(inputs)
        logits = inference.predict_logits(
            network,
            test.images.to(device),
            recipe.batch_size,
            recipe.precision,
            recipe.test_time_augmentation,
            stage.num_workers(settings, device),
        )
        description = trained.description
        table = Predictions(description.class_names, logits.softmax(1).cpu().numpy(), test.labels.numpy())
        measured = metrics.measure_all(recipe.metrics, table)
        at_end = rows.iloc[-1]
        if at_end.notna()["validation_accuracy"]:  # as the training measured them
            names = ("accuracy", "loss")
            measured["validation"] = {name: round(float(at_end[f"validation_{name}"]), 6) for name in names}
        predictions.write(Path(paths.PREDICTIONS), table)

        title = f"{settings.recipe} on {description.source}, seed {settings.seed}"
        pictures.draw_charts(table, measured, rows, title, plots)
        for name, heading, chosen in (
            ("test_images", "First test images", np.arange(len(table.labels))),
            ("mistakes", "Most confident mistakes", table.surest_first(np.flatnonzero(~table.is_right))),
        ):
            indices = chosen[: recipe.num_pictures]
            images = description.normalization.pixels(test.images[indices].numpy())
            pictures.draw_images(table, images, indices, f"{heading}: {title}", plots / f"{name}.png")
        atomic.write_text(Path(paths.ENVIRONMENT), json.dumps(environment, indent=2) + "\n")
        atomic.write_text(Path(paths.METRICS), json.dumps(measured, indent=2) + "\n")
        changes.require_none(inputs)
        content = tracking.RunContent(
            origin,
            settings.resolved(),
            data_md5,
            environment,
            checkpoint_md5=checkpoint_md5,
            history=[{str(name): value for name, value in row.items()} for row in rows.to_dict("records")],
            metrics=measured,
            pictures={path.name: path.read_bytes() for path in sorted(plots.glob("*.png"))},
            outputs=records.outputs(inputs),
        )
        recorder.finish(content)
    if records.is_recorded(inputs, paths.CHECKPOINT):  # the training's resume points are no longer needed
        resume.forget(stage.scratch(), checkpoint_md5)


if __name__ == "__main__":
    stage.run(main, inputs)
