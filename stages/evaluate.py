"""evaluate: from a trained network to its metrics, predictions and pictures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code beside this script

from samebits import stage, tracking

inputs = stage.begin(__file__)  # before any code that decides the result is imported
recorder = tracking.Recorder(stage.repository_root(), "this evaluation")

import json

import numpy as np

from samebits import atomic, checkpoint, runtime
from samebits.data import prepared
from samebits.evaluation import inference, predictions
from samebits.evaluation.metrics import summary
from samebits.reporting import pictures
from samebits.stage.inputs import Inputs
from samebits.training import history, resume

PREPARED = Path("data/prepared")
MODEL = Path("data/model")
PLOTS = Path("data/plots")


def main(inputs: Inputs) -> None:
    """Write metrics/, data/evaluation and data/plots, and the run."""
    settings, recipe = inputs.settings, inputs.settings.chosen.evaluate
    device = runtime.choose_device(settings.device)
    runtime.require_precision(recipe.precision, device)
    runtime.make_deterministic(recipe.num_threads, settings.determinism)
    runtime.keep_memory()
    environment = runtime.environment(device, recipe.num_threads)
    weights = MODEL / "checkpoint.safetensors"
    trained = checkpoint.load(weights)
    network = trained.network().to(device)
    test = prepared.read_split(PREPARED, "test")
    rows = history.read(MODEL / "history.csv")
    inputs.seal()
    prepared.require_written(PREPARED, {"test": inputs.sha256(PREPARED / "test.safetensors")})
    data_md5, checkpoint_md5 = inputs.md5(f"{PREPARED}/{prepared.DESCRIPTION}"), inputs.md5(str(weights))
    trained.require(settings, prepared.read_description(PREPARED), data_md5, weights)
    with recorder:
        origin = stage.origin(inputs)
        description = trained.description
        logits = inference.predict_logits(
            network, test.images.to(device), recipe.batch_size, recipe.precision, recipe.test_time_augmentation
        )
        probabilities, labels = logits.softmax(1).cpu().numpy(), test.labels.numpy()
        measured = summary.summarize(probabilities, labels, description.class_names)
        predictions.write(Path("data/evaluation/predictions.csv"), probabilities, labels, description.class_names)

        title = f"{settings.recipe} on {description.source}, seed {settings.seed}"
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
        inputs.require_unchanged()
        content = tracking.RunContent(
            parameters=settings.resolved(),
            data_md5=data_md5,
            checkpoint_md5=checkpoint_md5,
            environment=environment,
            metrics=measured,
            history=[{str(name): value for name, value in row.items()} for row in rows.to_dict("records")],
        )
        recorder.finish(tracking.Finish(origin, content, Path.cwd(), sorted(PLOTS.glob("*.png"))))
    if inputs.is_recorded(str(weights)):  # the training's resume points are done with
        resume.forget(stage.scratch(), checkpoint_md5)


if __name__ == "__main__":
    stage.run(main, inputs)
