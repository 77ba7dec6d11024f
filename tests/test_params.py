"""params.yaml: every mistake gets one line that names the key, its value and what is allowed."""

import subprocess
import sys
from pathlib import Path

import pytest

from samebits import params
from samebits.errors import UserError
from tests.conftest import PROJECT, Repository

GOOD = (PROJECT / "params.yaml").read_text(encoding="utf-8")


def change(before: str, after: str) -> str:
    assert before in GOOD, before
    return GOOD.replace(before, after, 1)


LAB = "learning_rate: 0.001"
BROKEN = {
    "unknown recipe": (
        change("recipe: lab", "recipe: lba"),
        ["recipe", "'lba'", "lab, linear, speed, sprint, speed95, resnet"],
    ),
    "recipe is a list": (change("recipe: lab", "recipe: [lab]"), ["recipe", "['lab']", "string"]),
    "no recipe": (change("recipe: lab", "# "), ["recipe", "missing"]),
    "negative seed": (change("seed: 0", "seed: -1"), ["seed", "-1", "greater than or equal to 0"]),
    "huge seed": (change("seed: 0", "seed: 4294967296"), ["seed", "4294967296", "less than 4294967296"]),
    "seed is text": (change("seed: 0", "seed: zero"), ["seed", "'zero'", "integer"]),
    "seed is a fraction": (change("seed: 0", "seed: 0.5"), ["seed", "0.5", "integer"]),
    "seed is a truth value": (change("seed: 0", "seed: true"), ["seed", "True", "integer"]),
    "seed is empty": (change("seed: 0", "seed:"), ["seed", "None", "integer"]),
    "unknown device": (change("device: auto", "device: gpu"), ["device", "'gpu'", "'auto', 'cpu' or 'cuda'"]),
    "unknown top-level key": (GOOD + "sead: 1\n", ["sead", "not a known key"]),
    "misspelt learning rate": (
        change(LAB, "learning_rat: 0.001"),
        ["recipes.lab.train.optimizer.learning_rate", "missing"],
    ),
    "learning rate is text": (
        change(LAB, "learning_rate: fast"),
        ["recipes.lab.train.optimizer.learning_rate", "'fast'", "number"],
    ),
    "learning rate zero": (
        change(LAB, "learning_rate: 0"),
        ["recipes.lab.train.optimizer.learning_rate", "0", "greater than 0"],
    ),
    "learning rate negative": (
        change(LAB, "learning_rate: -1e-3"),
        ["train.optimizer.learning_rate", "-0.001", "greater than 0"],
    ),
    "learning rate infinite": (change(LAB, "learning_rate: .inf"), ["train.optimizer.learning_rate", "inf", "finite"]),
    "learning rate not a number": (
        change(LAB, "learning_rate: .nan"),
        ["train.optimizer.learning_rate", "nan", "finite"],
    ),
    "momentum one": (
        change("momentum: 0.9", "momentum: 1"),
        ["recipes.lab.train.optimizer.momentum", "1", "less than 1"],
    ),
    "batch size zero": (
        change("batch_size: 4", "batch_size: 0"),
        ["train.batch_size", "0", "greater than or equal to 1"],
    ),
    "batch size a fraction": (change("batch_size: 4", "batch_size: 4.5"), ["train.batch_size", "4.5", "integer"]),
    "shards are no power of two": (
        change("batch_size: 100\n", "batch_size: 100\n      num_shards: 3\n"),
        ["recipes.linear.train.num_shards", "3", "a power of two"],
    ),
    "no shards": (
        change("batch_size: 100\n", "batch_size: 100\n      num_shards: 0\n"),
        ["recipes.linear.train.num_shards", "0", "a power of two"],
    ),
    "more shards than images": (
        change("batch_size: 4\n", "batch_size: 4\n      num_shards: 8\n"),
        ["recipes.lab.train", "num_shards is 8", "batch_size, 4"],
    ),
    "processes are no power of two": (
        change("num_processes: auto", "num_processes: 3"),
        ["num_processes", "3", "auto or a power of two"],
    ),
    "processes are a word": (
        change("num_processes: auto", "num_processes: all"),
        ["num_processes", "'all'", "auto or a power of two"],
    ),
    "more processes than shards": (
        change("num_processes: auto", "num_processes: 2"),
        ["num_processes is 2", "recipes.lab.train.num_shards", "which is 1"],
    ),
    "no epochs": (change("num_epochs: 2", "num_epochs: 0"), ["train.num_epochs", "0", "greater than or equal to 1"]),
    "no threads": (change("num_threads: 1", "num_threads: 0"), ["num_threads", "0", "greater than or equal to 1"]),
    "unknown optimizer": (
        change("name: sgd", "name: adam"),
        ["recipes.lab.train.optimizer.name", "'adam'", "'adamw', 'muon', 'sgd'"],
    ),
    "unknown model": (
        change("name: lab", "name: vgg"),
        ["recipes.lab.model.name", "'vgg'", "'lab', 'linear', 'resnet', 'speed'"],
    ),
    "unknown initialization": (
        change("initialization: pytorch", "initialization: xavier"),
        ["model.initialization", "'xavier'", "'pytorch', 'he' or 'zero'"],
    ),
    "two widths": (
        change("name: speed\n", "name: speed\n      widths: [96, 320]\n"),
        ["recipes.speed.model.widths", "at least 3 items"],
    ),
    "a width of no use": (
        change("name: speed\n", "name: speed\n      widths: [96, 320, 321]\n"),
        ["recipes.speed.model.widths", "321", "multiple of 8"],
    ),
    "unknown source": (
        change("source: cifar10", "source: cifar100"),
        ["data.source", "'cifar100'", "'cifar10', 'folder' or 'shapes'"],
    ),
    "unknown normalization": (
        change("normalization: per_channel", "normalization: per_image"),
        ["data.normalization", "'per_image'", "'per_channel', 'half' or 'none'"],
    ),
    "negative validation": (
        change("num_validation: 0", "num_validation: -5"),
        ["data.num_validation", "-5", "equal to 0"],
    ),
    "empty path": (change("path: data/raw", 'path: ""'), ["data.path", "''", "at least 1 character"]),
    "no images": (change("num_train: 50000", "num_train: 0"), ["data.shapes.num_train", "0", "equal to 1"]),
    "data is a list": (change("data:\n", "data: []\nold:\n"), ["data", "[]"]),
    "no recipes": (GOOD[: GOOD.index("recipes:")] + "recipes: {}\n", ["recipes", "at least 1 item"]),
    "recipe without evaluate": (
        GOOD[: GOOD.index("    evaluate:")] + "\n",
        ["recipes.lab.evaluate", "missing"],
    ),
    "mistake in a recipe not chosen": (
        change("batch_size: 100\n", "batch_size: ten\n"),
        ["recipes.linear.train.batch_size", "'ten'"],
    ),
    "unknown precision": (
        change("precision: float32 ", "precision: half "),
        ["recipes.lab.train.precision", "'half'", "'float32' or 'bfloat16'"],
    ),
    "a setting of another network": (
        change("name: speed\n", "name: speed\n      initialization: he\n"),
        ["recipes.speed.model.initialization", "not a known key"],
    ),
    "a setting of another optimizer": (
        change("name: adamw", "name: sgd"),
        ["recipes.resnet.train.optimizer.momentum", "missing"],
    ),
    "an optimizer without a name": (change("        name: sgd\n", ""), ["recipes.lab.train.optimizer.name", "missing"]),
    "an optimizer that is only a name": (
        change("optimizer:\n        name: adamw", "optimizer: adamw\n      x:\n        name: adamw"),
        ["recipes.resnet.train.optimizer", "'adamw'", "a name and settings"],
    ),
    "an unknown augmentation": (
        change("{name: flip}", "{name: flop}"),
        ["recipes.speed.train.augmentation.1.name", "'flop'", "'cutout', 'flip', 'resize', 'translate'"],
    ),
    "a shift of no pixel": (
        change("pixels: 2", "pixels: 0"),
        ["recipes.speed.train.augmentation.0.pixels", "0", "greater than or equal to 1"],
    ),
    "an unknown schedule": (
        change("name: cosine", "name: sine"),
        ["recipes.resnet.train.schedule.name", "'sine'", "'cosine', 'linear'"],
    ),
    "an unknown metric": (
        change("name: top_k", "name: f1"),
        ["recipes.resnet.evaluate.metrics.0.name", "'f1'", "'top_k'"],
    ),
    "a name that DVC takes for two": (
        change("  lab:  ", "  my.lab:  ").replace("recipe: lab", "recipe: my.lab"),
        ["recipes", "'my.lab'", "a dot separates keys"],
    ),
    "a path that only a shell understands": (
        change("path: data/raw", "path: ~/pictures"),
        ["data.path", "'~/pictures'", f"write {Path.home()}/pictures"],
    ),
    "images that are too small for the network": (
        change("source: cifar10", "source: folder").replace("image_size: 32", "image_size: 8"),
        ["data.image_size is 8", "network lab", "at least 16"],
    ),
    "too many pictures": (
        change("num_pictures: 40", "num_pictures: 41"),
        ["evaluate.num_pictures", "41", "equal to 40"],
    ),
    "key given twice": (GOOD + "seed: 1\n", ["not valid YAML", "seed"]),
    "bad indentation": (change("  source: cifar10", "   source: cifar10"), ["not valid YAML"]),
    "tab": (change("  source: cifar10", "\tsource: cifar10"), ["not valid YAML"]),
    "only text": ("hello\n", ["keys and values", "'hello'"]),
    "empty file": ("", ["keys and values", "None"]),
    "a day that is none": (change("seed: 0", "seed: 2026-02-30"), ["not valid YAML", "day"]),
    "a path that temporary clones lack": (
        change("path: data/raw", "path: ../pictures"),
        ["data.path", "'../pictures'", f"write {Path.cwd().parent}/pictures"],
    ),
    "a Python object": (GOOD + "x: !!python/object/apply:os.system [true]\n", ["not valid YAML"]),
}


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        params.load(path)
    return str(caught.value)


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    text, words = BROKEN[name]
    path = tmp_path / "params.yaml"
    path.write_text(text)
    line = error_of(path)
    assert "\n" not in line
    assert line.startswith("params.yaml")
    for word in words:
        assert word in line


def test_missing_and_undecodable_files_are_named(tmp_path: Path) -> None:
    assert "params.yaml is not there" in error_of(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"recipe: \xff")
    assert "not UTF-8" in error_of(tmp_path / "params.yaml")


def test_numbers_mean_what_dvc_takes_them_for(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(change(LAB, "learning_rate: 1e-3"))  # a number in YAML 1.2, text in YAML 1.1
    assert params.load(path).chosen.train.optimizer.settings["learning_rate"] == 0.001


def test_a_result_is_decided_by_the_chosen_recipe_alone(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(GOOD)
    before = params.load(path).resolved()
    path.write_text(change("num_epochs: 10", "num_epochs: 11"))
    assert params.load(path).resolved() == before
    path.write_text(change("num_epochs: 2", "num_epochs: 3"))
    assert params.load(path).resolved() != before


def test_the_first_stage_that_runs_checks_the_whole_file(fresh: Repository) -> None:
    fresh.edit(lambda values: values["recipes"]["linear"]["train"]["optimizer"].update(momentum=2))
    done = fresh.run("dvc", "repro", ok=False)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert lines == ["error: params.yaml: recipes.linear.train.optimizer.momentum is 2: must be less than 1"]
    assert "Traceback" not in done.stdout + done.stderr
    assert not (fresh.root / "dvc.lock").exists()


def test_an_unknown_recipe_writes_nothing(fresh: Repository) -> None:
    fresh.edit(lambda values: values.update(recipe="lba"))
    done = fresh.run("dvc", "repro", ok=False)
    assert done.returncode != 0
    assert (
        "error: params.yaml: recipe is 'lba': must be one of lab, linear, speed, sprint, speed95, resnet"
        in done.stderr.splitlines()
    )
    assert fresh.status() == " M params.yaml\n"


def test_where_dvc_cannot_read_the_file_its_message_stands(fresh: Repository) -> None:
    (fresh.root / "params.yaml").write_text("recipe: [")
    done = fresh.run("dvc", "repro", ok=False)
    assert done.returncode != 0 and "params.yaml" in done.stderr and "Traceback" not in done.stderr
    assert fresh.status() == " M params.yaml\n"


def test_params_are_checked_without_pytorch() -> None:
    program = "import sys; from pathlib import Path; from samebits import params; params.load(Path('params.yaml'))"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; print('torch' in sys.modules)"], cwd=PROJECT, capture_output=True
    )
    assert done.stdout == b"False\n", done.stderr


def test_what_is_absent_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(GOOD)
    train = params.load(path).resolved()["train"]
    assert not {"schedule", "augmentation", "label_smoothing"} & train.keys()
    assert "broken" not in params.load(path).resolved()["data"]["folder"]
    recipe = params.load(path).recipes["resnet"].model_dump(include={"model", "train"})
    assert recipe["train"]["optimizer"] == {"name": "adamw", "learning_rate": 0.001, "weight_decay": 0.05}
