"""evaluate: from a trained network to its metrics, predictions and pictures."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code beside this script

import numpy as np

from samebits import atomic, checkpoint, params, runtime, stage, tracking
from samebits.data import prepared
from samebits.evaluation import inference, metrics, predictions
from samebits.reporting import pictures
from samebits.training import history, resume

PREPARED = Path("data/prepared")
MODEL = Path("data/model")
PLOTS = Path("data/plots")


def main(settings: params.Params) -> None:
    """Write metrics/, data/evaluation and data/plots, and the run."""
    with tracking.EvaluationRecord(root=stage.repository_root(), workspace=Path.cwd()) as record:
        evaluate(settings, record)


def evaluate(settings: params.Params, record: tracking.EvaluationRecord) -> None:
    """Apply the trained network to the test images, measure, draw, and tell `record` what came out."""
    recipe = settings.chosen.evaluate
    device = runtime.choose_device(settings.device)
    runtime.require_precision(recipe.precision, device)
    runtime.make_deterministic(recipe.num_threads, settings.determinism)
    runtime.keep_memory()
    environment = runtime.environment(device, recipe.num_threads)
    weights = MODEL / "checkpoint.safetensors"
    trained = checkpoint.load(weights)
    checkpoint_md5 = tracking.file_md5(weights)
    if "DVC_STAGE" in os.environ:  # then DVC has recorded the training, and its resume points are done with
        resume.forget(stage.scratch(), checkpoint_md5)
    description = trained.description
    test = prepared.read_split(PREPARED, "test")
    logits = inference.predict_logits(
        trained.network().to(device),
        test.images.to(device),
        recipe.batch_size,
        recipe.precision,
        recipe.test_time_augmentation,
    )
    probabilities, labels = logits.softmax(1).cpu().numpy(), test.labels.numpy()
    measured = metrics.summarize(probabilities, labels, description.class_names)
    predictions.write(Path("data/evaluation/predictions.csv"), probabilities, labels, description.class_names)

    title = f"{settings.recipe} on {description.source}, seed {settings.seed}"
    rows = history.read(MODEL / "history.csv")
    result = pictures.Evaluated(title, description.class_names, probabilities, labels, measured, rows)
    pictures.draw_charts(result, PLOTS)
    chosen = {
        "test_images": ("First test images", np.arange(min(recipe.num_pictures, len(labels)))),
        "mistakes": ("Most confident mistakes", pictures.most_confident_mistakes(result, recipe.num_pictures)),
    }
    for name, (heading, indices) in chosen.items():
        images = description.normalization.pixels(test.images[indices].numpy())
        pictures.draw_images(result, heading, images, indices, PLOTS / f"{name}.png")
    atomic.write_text(Path("metrics/environment.json"), json.dumps(environment, indent=2) + "\n")
    atomic.write_text(Path("metrics/evaluate.json"), json.dumps(measured, indent=2) + "\n")
    record.finish(
        parameters=settings.resolved(),
        data_md5=tracking.file_md5(PREPARED / prepared.DESCRIPTION),
        checkpoint_md5=checkpoint_md5,
        metrics=measured,
        history=[{str(name): value for name, value in row.items()} for row in rows.to_dict("records")],
        artifacts=sorted(PLOTS.glob("*.png")),
        environment=environment,
    )


if __name__ == "__main__":
    stage.run(main, __file__)
