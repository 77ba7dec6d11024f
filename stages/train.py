"""train: from normalized tensors to a trained network, its history and the kind of machine that made them."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code beside this script

from tqdm import tqdm

from samebits import atomic, checkpoint, models, params, runtime, stage, tracking, turns
from samebits.data import prepared
from samebits.training import history, loop, resume

PREPARED = Path("data/prepared")
MODEL = Path("data/model")


def main(settings: params.Params) -> None:
    """Write data/model: checkpoint, history, environment. Goes on from a resume point where a killed run left one."""
    recipe = settings.chosen
    device = runtime.choose_device(settings.device)
    runtime.require_precision(recipe.train.precision, device)
    runtime.make_deterministic(recipe.train.num_threads, settings.determinism)
    runtime.keep_memory()
    environment = runtime.environment(device, recipe.train.num_threads)
    description = prepared.read_description(PREPARED)
    num_classes = len(description.class_names)
    network = models.build(recipe.model, description.image_shape, num_classes, settings.seed).to(device)
    data_md5 = tracking.file_md5(PREPARED / prepared.DESCRIPTION)
    parameters = settings.resolved()
    what_decides_bits = {
        "code": stage.loaded_code(),
        "parameters": {name: value for name, value in parameters.items() if name != "evaluate"},
        "data": data_md5,
        "environment": environment,
    }
    points = resume.ResumePoints(stage.scratch(), resume.key_of(what_decides_bits), settings.checkpoint_every_seconds)
    with points.held():
        point = points.newest()
        record = tracking.TrainingRecord(
            root=stage.repository_root(),
            workspace=Path.cwd(),
            parameters=parameters,
            data_md5=data_md5,
            environment=environment,
            run_id=point["run_id"] if point else None,
        )
        data, validation = (prepared.read_split(PREPARED, name).to(device) for name in ("train", "validation"))
        num_steps = recipe.train.num_epochs * math.ceil(len(data) / recipe.train.batch_size)
        if point:
            print(f"going on after step {point['training']['step']:,} of {num_steps:,}, from a resume point")

        def report(row: history.Report, images_per_second: float) -> None:
            tqdm.write(f"[{row.epoch}, {row.step:6d}] loss: {row.train_loss:.3f}")
            record.report(asdict(row), images_per_second=images_per_second)

        def pause(step: int, state: Callable[[], loop.State]) -> None:
            # The last point stays until DVC has recorded the result: killed before, it trains nothing again.
            if points.is_due() or step == num_steps:
                points.save(step, {"training": state(), "run_id": record.run_id})
            turn.offer()

        turn = turns.Turn(recipe.train.num_threads if device.type == "cpu" else 0)
        with record, turn.taken():
            rows = loop.train(
                network,
                data,
                validation,
                recipe.train,
                settings.seed,
                report,
                pause,
                resume_from=point["training"] if point else None,
            )
            meaning = {"recipe": settings.recipe, "seed": settings.seed}
            meaning |= recipe.model_dump(include={"model", "train"})
            weights = MODEL / "checkpoint.safetensors"
            checkpoint.save(weights, checkpoint.Checkpoint(network.state_dict(), meaning, description))
            history.write(MODEL / "history.csv", rows)
            atomic.write_text(MODEL / "environment.json", json.dumps(environment, indent=2) + "\n")
            checkpoint_md5 = tracking.file_md5(weights)
            points.finish(checkpoint_md5)
            record.finish(checkpoint_md5=checkpoint_md5, history=[asdict(row) for row in rows])


if __name__ == "__main__":
    stage.run(main, __file__)
