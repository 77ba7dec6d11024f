"""train: from normalized tensors to a trained network, its history and the kind of machine that made them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # the code beside this script

from samebits import stage, tracking
from samebits.stage import rank, workers

inputs = stage.begin(__file__)  # before any code that decides the result is imported
workers.start(inputs, __file__)
if rank.is_first():
    recorder = tracking.Recorder(stage.repository_root(), "this training")

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from tqdm import tqdm

from samebits import atomic, checkpoint, models, paths
from samebits.data import prepared
from samebits.errors import UserError
from samebits.stage import changes, records
from samebits.stage.inputs import Inputs
from samebits.training import history, loop, parallel, resume
from samebits.training.epochs import Epochs

_CHANGED = "code, parameters or data changed while the training was starting: run `dvc repro` again"


@dataclass
class Progress:
    """What happens during a training: reports and resume points."""

    points: resume.ResumePoints
    watch: changes.Watch
    num_steps: int

    def report(self, row: history.Report, images_per_second: float) -> None:
        """Show a row of the history and send it to MLflow; warn if something was edited."""
        tqdm.write(f"[{row.epoch}, {row.step:6d}] loss: {row.train_loss:.3f}")
        show_validation(row)
        recorder.report(asdict(row), images_per_second=images_per_second)
        self.watch.look()

    def pause(self, step: int, state: Callable[[], loop.State]) -> None:
        """Save a resume point if one is due, and always the last: it is needed until DVC has recorded the result."""
        if self.points.is_due() or step == self.num_steps:
            self.points.save(step, state())


def show_validation(row: history.Report) -> None:
    """Show what was measured on validation images after an epoch, all digits: `samebits search` reads it."""
    if row.validation_loss is not None and row.validation_accuracy is not None:
        loss, accuracy = f"{row.validation_loss:.9g}", f"{row.validation_accuracy:.9g}"
        tqdm.write(f"epoch {row.epoch}: validation_loss {loss}, validation_accuracy {accuracy}")


def main(inputs: Inputs) -> None:
    """Write data/model: checkpoint, history, environment. Continues from a resume point if a killed run left one.

    If several processes train, all run this, and the first one writes.
    """
    settings, recipe = inputs.settings, inputs.settings.chosen
    device, environment = stage.set_up_torch(settings, recipe.train)
    team = parallel.join(rank.meeting_place(), recipe.train.num_shards) if rank.is_worker() else parallel.ALONE
    folder = Path(paths.PREPARED)
    description = prepared.read_description(folder)
    num_classes = len(description.class_names)
    network = models.build(recipe.model, description.image_shape, num_classes, settings.seed).to(device)
    data, validation = (prepared.read_split(folder, name, rank.copies()).to(device) for name in prepared.TRAINED_ON)
    inputs.seal()

    meaning = {"recipe": settings.recipe, "seed": settings.seed} | recipe.model_dump(include={"model", "train"})
    what_decides_bits = {
        "code": inputs.code,
        "environment": environment,
        "parameters": meaning | {"device": settings.device, "determinism": recipe.determinism},
    }
    # Each process reads code and data for itself. All must have read the same; on several machines, exactly what the
    # launchers compared.
    signatures = workers.signatures(inputs)
    if not rank.is_first():
        first, of_first, state = team.share(None)
        if first != what_decides_bits or signatures != os.environ.get(rank.PREPARED, of_first):
            raise UserError(_CHANGED)
        if team.rank < team.size:  # the others wait until they are needed
            nothing = prepared.Split(data.images[:0], data.labels[:0])  # the first measures the validation images
            loop.train(network, data, nothing, recipe.train, settings.seed, lambda *_: None, None, state, team)
        team.share(None)
        sys.exit()
    if signatures != os.environ.get(rank.PREPARED, signatures):
        raise UserError(_CHANGED)

    prepared.require_written(folder, {name: inputs.sha256(paths.split(name)) for name in prepared.TRAINED_ON})
    data_md5 = inputs.md5(paths.DATASET)
    key = resume.key_of(what_decides_bits | {"data": data_md5})
    points = resume.ResumePoints(stage.scratch(), key, settings.checkpoint_every_seconds, rank.launcher())
    watch = changes.Watch(inputs, lambda line: tqdm.write(line, file=sys.stderr))
    num_steps = Epochs(recipe.train, len(data)).steps_until(recipe.train.num_epochs)
    progress = Progress(points, watch, num_steps)

    with points.held(), recorder:
        content = tracking.RunContent(records.origin(inputs), settings.resolved(), data_md5, environment, key)
        recorder.begin(content)
        state = points.newest()
        if state:
            print(f"going on after step {state['step']:,} of {num_steps:,}, from a resume point")
            for row in state["history"]:
                show_validation(history.Report(**row))
        team.share((what_decides_bits, signatures, state))
        rows = loop.train(
            network, data, validation, recipe.train, settings.seed, progress.report, progress.pause, state, team
        )
        team.share(None)  # the others may end
        changes.require_none(inputs)
        checkpoint.save(
            Path(paths.CHECKPOINT), checkpoint.Checkpoint(network.state_dict(), meaning, description, data_md5)
        )
        history.write(Path(paths.HISTORY), rows)
        atomic.write_text(Path(paths.MODEL_ENVIRONMENT), json.dumps(environment, indent=2) + "\n")
        checkpoint_md5 = inputs.md5(paths.CHECKPOINT)
        points.finish(checkpoint_md5)
        recorder.finish(replace(content, checkpoint_md5=checkpoint_md5, history=[asdict(row) for row in rows]))


if __name__ == "__main__":
    stage.run(main, inputs)
