"""train: from normalized tensors to a trained network, its history and the kind of machine that made them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code beside this script

from samebits import stage, tracking

inputs = stage.begin(__file__)  # before any code that decides the result is imported
recorder = tracking.Recorder(stage.repository_root(), "this training")

import json
import math
from collections.abc import Callable
from dataclasses import asdict

from tqdm import tqdm

from samebits import atomic, checkpoint, core_locks, models, runtime
from samebits.data import prepared
from samebits.stage.inputs import Inputs
from samebits.training import history, loop, resume

PREPARED = Path("data/prepared")
MODEL = Path("data/model")


def main(inputs: Inputs) -> None:
    """Write data/model: checkpoint, history, environment. Goes on from a resume point if a killed run left one."""
    settings, recipe = inputs.settings, inputs.settings.chosen
    device = runtime.choose_device(settings.device)
    runtime.require_precision(recipe.train.precision, device)
    runtime.make_deterministic(recipe.train.num_threads, settings.determinism)
    runtime.keep_memory()
    environment = runtime.environment(device, recipe.train.num_threads)
    description = prepared.read_description(PREPARED)
    num_classes = len(description.class_names)
    network = models.build(recipe.model, description.image_shape, num_classes, settings.seed).to(device)
    data, validation = (prepared.read_split(PREPARED, name).to(device) for name in ("train", "validation"))
    inputs.seal()
    prepared.require_written(
        PREPARED, {name: inputs.sha256(PREPARED / f"{name}.safetensors") for name in ("train", "validation")}
    )
    meaning = {"recipe": settings.recipe, "seed": settings.seed} | recipe.model_dump(include={"model", "train"})
    data_md5 = inputs.md5(f"{PREPARED}/{prepared.DESCRIPTION}")
    what_decides_bits = {"code": inputs.code, "data": data_md5, "environment": environment}
    what_decides_bits |= {"parameters": meaning | {"device": settings.device, "determinism": settings.determinism}}
    key = resume.key_of(what_decides_bits)
    points = resume.ResumePoints(stage.scratch(), key, settings.checkpoint_every_seconds)
    num_steps = recipe.train.num_epochs * math.ceil(len(data) / recipe.train.batch_size)
    turn = core_locks.Turn(recipe.train.num_threads if device.type == "cpu" else 0)

    def report(row: history.Report, images_per_second: float) -> None:
        tqdm.write(f"[{row.epoch}, {row.step:6d}] loss: {row.train_loss:.3f}")
        recorder.report(asdict(row), images_per_second=images_per_second)
        inputs.notice(lambda line: tqdm.write(line, file=sys.stderr))

    def pause(step: int, state: Callable[[], loop.State]) -> None:
        # The last point stays until DVC has recorded the result: killed before, it trains nothing again.
        if points.is_due() or step == num_steps:
            points.save(step, {"training": state()})
        turn.offer()

    with points.held(), recorder:
        origin = stage.origin(inputs)
        recorder.begin(tracking.Begin(origin, settings.resolved(), data_md5, environment, key))
        point = points.newest()
        if point:
            print(f"going on after step {point['training']['step']:,} of {num_steps:,}, from a resume point")
        with turn.taken():
            resume_from = point["training"] if point else None
            rows = loop.train(network, data, validation, recipe.train, settings.seed, report, pause, resume_from)
        inputs.require_unchanged()
        weights = MODEL / "checkpoint.safetensors"
        checkpoint.save(weights, checkpoint.Checkpoint(network.state_dict(), meaning, description, data_md5))
        history.write(MODEL / "history.csv", rows)
        atomic.write_text(MODEL / "environment.json", json.dumps(environment, indent=2) + "\n")
        checkpoint_md5 = inputs.md5(str(weights))
        points.finish(checkpoint_md5)
        content = tracking.RunContent(
            parameters=settings.resolved(),
            data_md5=data_md5,
            checkpoint_md5=checkpoint_md5,
            environment=environment,
            history=[asdict(row) for row in rows],
        )
        recorder.finish(tracking.Finish(origin, content))


if __name__ == "__main__":
    stage.run(main, inputs)
