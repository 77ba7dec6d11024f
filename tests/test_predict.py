"""`samebits predict`: what it says of files, in each form, whatever the files are called and however broken they are."""

import csv
import io
import json
import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from samebits import atomic, checkpoint, cli, models, params, parts, paths
from samebits.checkpoint import Checkpoint
from samebits.data.normalization import Normalization
from samebits.data.prepared import Description
from samebits.data.sources import cifar10, shapes
from samebits.errors import UserError
from samebits.evaluation import predictions
from samebits.evaluation.inference import predict_logits
from samebits.evaluation.metrics.summary import wilson_interval
from samebits.evaluation.predictions import Predictions
from samebits.prediction import onnx_export
from samebits.prediction.classification import Failure, Prediction, predict
from samebits.prediction.trained import load
from tests.conftest import Repository

CPU = torch.device("cpu")


def trained(
    image_shape: tuple[int, int, int] = (3, 32, 32), class_names: tuple[str, ...] = shapes.CLASS_NAMES
) -> Checkpoint:
    """A network with large random weights, so that its answers differ from image to image."""
    model = {"name": "lab", "initialization": "he"}
    network = models.build(params.part("model", model), image_shape, len(class_names), seed=1)
    channels = image_shape[0]
    normalization = Normalization((0.48, 0.47, 0.45)[:channels], (0.25, 0.24, 0.26)[:channels])
    description = Description("shapes", class_names, image_shape, normalization)
    return Checkpoint(network.state_dict(), {"recipe": "lab", "model": model}, description)


def save(folder: Path, images: np.ndarray) -> list[str]:
    folder.mkdir(exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:05}.png", compress_level=1)
    return [str(path) for path in sorted(folder.iterdir())]


def expected(checkpoint: Checkpoint, images: np.ndarray) -> np.ndarray:
    """The probabilities as the evaluation computes them."""
    normalized = torch.from_numpy(checkpoint.description.normalization.apply(images))
    return predict_logits(checkpoint.network(), normalized, 1000).softmax(1).numpy()


def test_files_get_the_probabilities_of_the_evaluation(tmp_path: Path) -> None:
    network = trained()
    images, _ = shapes.draw(600, 0, "test", progress=False)
    paths = save(tmp_path / "images", images)
    Path(paths[300]).write_text("broken")
    found = list(predict(network, paths, CPU))
    assert [item.path for item in found] == paths
    assert isinstance(found.pop(300), Failure)
    probabilities = np.stack([item.probabilities for item in found if isinstance(item, Prediction)])
    reference = np.delete(expected(network, images), 300, axis=0)
    np.testing.assert_allclose(probabilities, reference, rtol=0, atol=1e-5)
    assert len(np.unique(probabilities.argmax(1))) > 1


@pytest.mark.parametrize("recipe", parts.names("model"))
def test_an_image_gets_the_same_bits_alone_and_among_others_on_any_number_of_cores(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"name": recipe} | ({"initialization": "he"} if recipe in ("lab", "linear") else {})
    weights = models.build(params.part("model", model), (3, 32, 32), 10, seed=1).state_dict()
    network = Checkpoint(weights, {"recipe": recipe, "model": model}, trained().description)
    number = 70 if recipe == "lab" else 12  # of 70 images more than one process reads, for any network
    paths = save(tmp_path / "images", shapes.draw(number, 0, "test", progress=False)[0])

    def probabilities(names: list[str]) -> np.ndarray:
        return np.stack([item.probabilities for item in predict(network, names, CPU) if isinstance(item, Prediction)])

    together = probabilities(paths)
    assert (probabilities(paths[::-1])[::-1] == together).all()
    assert (np.concatenate([probabilities([path]) for path in paths[:9]]) == together[:9]).all()
    before = torch.get_num_threads()
    for num_cores in (1, 5):
        monkeypatch.setattr(joblib, "cpu_count", lambda number=num_cores: number)
        torch.set_num_threads(num_cores)
        assert (probabilities(paths[:3]) == together[:3]).all() and torch.get_num_threads() == num_cores
    torch.set_num_threads(before)


@pytest.mark.parametrize("image_shape", [(1, 20, 20), (3, 16, 40)])
def test_other_shapes_and_classes(image_shape: tuple[int, int, int], tmp_path: Path) -> None:
    network = trained(image_shape, ("yes", "no"))
    Image.new("RGB", (70, 50), "red").save(tmp_path / "red.png")
    (item,) = predict(network, [str(tmp_path / "red.png")], CPU)
    assert isinstance(item, Prediction)
    assert item.pixels.shape == (*image_shape[1:], image_shape[0]) and item.probabilities.shape == (2,)


def test_a_network_for_something_else_is_one_line(tmp_path: Path) -> None:
    network = trained((3, 32, 32))
    odd = Description("x", network.description.class_names, (2, 32, 32), Normalization((0.0, 0.0), (1.0, 1.0)))
    model = params.part("model", network.recipe["model"])
    weights = models.build(model, (2, 32, 32), 10, seed=0).state_dict()
    with pytest.raises(UserError, match="2 channels"):
        list(predict(Checkpoint(weights, network.recipe, odd), ["x.png"], CPU))


@pytest.mark.skipif("SAMEBITS_TEST_DATA" not in os.environ, reason="needs CIFAR-10: set SAMEBITS_TEST_DATA")
def test_all_of_cifar10_as_files_in_constant_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMEBITS_DATA", os.environ["SAMEBITS_TEST_DATA"])
    raw = cifar10.load(tmp_path / "none")
    network = trained(class_names=raw.class_names)
    weights, folder = tmp_path / "network.safetensors", tmp_path / "images"
    checkpoint.save(weights, network)
    save(folder, raw.test.images)
    table = tmp_path / "predictions.csv"
    probabilities = expected(network, raw.test.images)
    predictions.write(table, Predictions(raw.class_names, probabilities, raw.test.labels))

    one, few = memory_and_output(tmp_path, weights, str(folder / "00000.png"))
    many, output = memory_and_output(tmp_path, weights, str(folder))
    assert len(json.loads(few)) == 1
    assert many - one < 400e6, f"{(many - one) / 1e6:.0f} MB"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    items = json.loads(output)
    assert [item["predicted"] for item in items] == [row["predicted"] for row in rows]
    for row, item in zip(rows, items, strict=True):
        found = {each["class"]: each["probability"] for each in item["top"]}
        assert all(abs(found[name] - float(row[f"probability_{name}"])) <= 1e-5 for name in raw.class_names)


def memory_and_output(folder: Path, weights: Path, path: str) -> tuple[int, str]:
    """Run the command; give the largest memory of all its processes together, in bytes, and what it wrote."""
    command = ("samebits", "predict", path, "--checkpoint", str(weights), "--top", "10", "--json")
    process = Repository(folder).start(*command)
    tree, largest = psutil.Process(process.pid), 0

    def watch() -> None:
        nonlocal largest
        while process.poll() is None:
            try:
                family = [tree, *tree.children(recursive=True)]
                largest = max(largest, sum(each.memory_info().rss for each in family))
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    output, _ = process.communicate()
    thread.join()
    assert process.returncode == 0, output
    return largest, output


def test_the_command_in_every_form(done: Repository) -> None:
    images, _ = shapes.draw(5, 0, "test", progress=False)
    save(done.root / "images", images)
    os.rename(done.root / "images/00000.png", done.root / "images/new\nline, \x1b[31m\udcff.png")
    (done.root / "images/broken.png").write_text("no")
    os.mkfifo(done.root / "images/pipe.png")
    (done.root / "images/loop").symlink_to(".")
    (done.root / "images/notes.txt").touch()

    text = done.run("samebits", "predict", "images", "--top", "2", "--picture", "picture.png", ok=False)
    assert text.returncode == 1
    lines = text.stdout.splitlines()
    assert len(lines) == 5 and all(line.count(" %") == 2 for line in lines)
    assert any(line.startswith("images/new\\nline, \\x1b[31m\\udcff.png ") for line in lines)
    errors = [line for line in text.stderr.splitlines() if line.startswith("error: ")]
    assert [line.split()[1] for line in errors] == ["images/broken.png", "images/pipe.png"]
    assert "2 of 7 files could not be read" in text.stderr and "1 .txt" in text.stderr
    assert "Traceback" not in text.stderr
    assert Image.open(done.root / "picture.png").size[0] > 100

    items = json.loads(done.run("samebits", "predict", "images", "--json", ok=False).stdout)
    assert len(items) == 7 and len([item for item in items if "error" in item]) == 2
    by_file = {item["file"]: item for item in items}
    assert by_file["images/new\nline, \x1b[31m\udcff.png"]["predicted"] in shapes.CLASS_NAMES

    # In CSV no file's name commands the terminal or takes a second line.
    table = done.run("samebits", "predict", "images", "--csv", ok=False).stdout
    assert "\x1b" not in table and len(table.splitlines()) == 8
    assert "images/new\\nline, \\x1b[31m\\udcff.png" in [row["file"] for row in csv.DictReader(io.StringIO(table))]

    # Another revision's network, from DVC's cache, while the workspace has lost its own.
    (done.root / "data/model/checkpoint.safetensors").unlink()
    before = done.status()
    wanted = ("images/00001.png", "images/00002.png")
    table = done.run("samebits", "predict", *wanted, "--csv", "--top", "99", "--rev", "HEAD").stdout
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["file"] for row in rows] == list(wanted) and "probability_10" in rows[0]
    for row in rows:
        assert row["class_1"] == by_file[row["file"]]["predicted"]
        assert float(row["probability_1"]) == pytest.approx(by_file[row["file"]]["probability"], abs=1e-6)
    assert done.status() == before and not (done.root / "data/model/checkpoint.safetensors").exists()
    nothing = done.run("samebits", "predict", "images", ok=False)
    assert nothing.returncode == 1 and nothing.stdout == ""
    assert nothing.stderr == f"error: {done.root}/data/model/checkpoint.safetensors is not there: run `dvc repro`\n"


PredictCommand = Callable[..., tuple[int, str, str]]


@pytest.fixture
def predict_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> PredictCommand:
    """Run `samebits predict` in a folder of a clone in `tmp_path`, with names on standard input; 20 images lie in images/<class>."""
    images, labels = shapes.draw(20, 0, "test", progress=False)
    for index, path in enumerate(save(tmp_path / "images", images)):
        folder = tmp_path / "images" / shapes.CLASS_NAMES[labels[index]]
        folder.mkdir(exist_ok=True)
        os.rename(path, folder / Path(path).name)
    checkpoint.save(tmp_path / paths.CHECKPOINT, trained())
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path / "images")

    def run(*arguments: str, given: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["samebits", "predict", *arguments])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()  # type: ignore[return-value]

    return run


def test_the_accuracy_on_labelled_folders(predict_command: PredictCommand, tmp_path: Path) -> None:
    code, output, _ = predict_command(".", "--labelled", "--json", "--top", "10")
    values = json.loads(output)
    guesses = [(item["true"], item["predicted"]) for item in values["images"]]
    assert code == 0 and len(guesses) == 20
    right = sum(true == guess for true, guess in guesses)
    metrics = values["metrics"]
    assert metrics["accuracy"] == right / 20 and metrics["per_class"].keys() == {true for true, _ in guesses}
    assert [metrics["accuracy_low"], metrics["accuracy_high"]] == pytest.approx(wilson_interval(right, 20), abs=1e-6)
    for name, measured in metrics["per_class"].items():
        own = [guess for true, guess in guesses if true == name]
        assert measured["accuracy"] == pytest.approx(own.count(name) / len(own), abs=1e-6)
    code, output, errors = predict_command(".", "--labelled", "--csv")
    rows = list(csv.DictReader(io.StringIO(output)))
    assert code == 0 and [(row["true"], row["class_1"]) for row in rows] == guesses and "20 images: accuracy" in errors
    (tmp_path / "empty" / guesses[0][0]).mkdir(parents=True)
    code, _, errors = predict_command(".", str(tmp_path / "empty"), "--labelled")
    assert code == 1 and f"error: {tmp_path}/empty holds no image" in errors
    (Path(guesses[0][0]) / "broken.png").write_text("x")
    code, output, errors = predict_command("../images", "--labelled", "--picture", "picture.png")
    first = f"20 images: accuracy {100 * right / 20:.2f} %  (95 %: {100 * metrics['accuracy_low']:.2f} to "
    assert code == 1 and output.startswith(first) and "1 of 21 files could not be read" in errors
    assert len(output.splitlines()) == 1 + len(metrics["per_class"]) and Path("picture.png").is_file()


def test_names_on_standard_input_and_patterns_in_a_folder_of_the_clone(predict_command: PredictCommand) -> None:
    names = sorted(str(path) for path in Path().glob("*/*.png"))
    code, from_pattern, _ = predict_command("*/*.png", "--csv", "--rev", "workspace")
    rows = list(csv.DictReader(io.StringIO(from_pattern)))
    assert code == 0 and [row["file"] for row in rows] == names
    for separator in "\n\0":
        assert predict_command("-", "--csv", given=separator.join([*names, ""])) == (0, from_pattern, "")
    code, _, errors = predict_command("*.gif", names[0])
    assert code == 1 and errors.startswith("error: *.gif cannot be read (No such file or directory)")
    Path("[1]*.png").write_bytes(Path(names[0]).read_bytes())
    assert predict_command("[1]*.png")[1].startswith("[1]*.png ")


def test_no_process_outlives_a_killed_command(tmp_path: Path) -> None:
    weights = tmp_path / "network.safetensors"
    checkpoint.save(weights, trained())
    (path,) = save(tmp_path / "images", np.zeros((1, 32, 32, 3), dtype=np.uint8))
    repository = Repository(tmp_path)
    process = repository.start("samebits", "predict", "--checkpoint", str(weights), *[path] * 20_000)
    tree = psutil.Process(process.pid)
    assert (
        process.stdout is not None and process.stdout.readline()
    )  # it is at work, and its output is full from here on
    children = tree.children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.wait()
    process.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


class Malice:
    """What a pickle from a stranger does when it is opened."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def test_a_strangers_checkpoint_runs_no_code(done: Repository) -> None:
    path = done.root / "data/model/checkpoint.safetensors"
    path.unlink()
    path.write_bytes(pickle.dumps(Malice()))
    Image.new("RGB", (8, 8)).save(done.root / "image.png")
    for command in (("predict", "image.png"), ("export",), ("register",)):
        failed = done.run("samebits", *command, ok=False)
        assert failed.returncode == 1 and failed.stdout == ""
        (line,) = failed.stderr.splitlines()
        assert "is not a checkpoint of samebits" in line
    torch.save(Malice(), path)
    assert done.run("samebits", "predict", "image.png", ok=False).returncode == 1
    assert not (done.root / "ran").exists()


def test_a_network_that_diverged_is_refused(tmp_path: Path) -> None:
    repository, image, path = Repository(tmp_path), tmp_path / "image.png", tmp_path / "network.safetensors"
    Image.new("RGB", (8, 8), "red").save(image)
    diverged = trained()
    diverged.weights["fc3.weight"][0] = float("nan")
    checkpoint.save(path, diverged)
    failed = repository.run("samebits", "predict", "image.png", "--json", "--checkpoint", str(path), ok=False)
    assert failed.returncode == 1 and failed.stdout == ""
    assert failed.stderr.startswith(
        "error: the network's weights are not all finite numbers (fc3.weight): its training "
    )
    diverged.weights["fc3.weight"][0] = 3e38  # finite, but what comes of it is not
    checkpoint.save(path, diverged)
    loaded = load(tmp_path, file=path)
    for use in (
        lambda: list(predict(loaded.checkpoint, [str(image)], CPU)),
        lambda: onnx_export.export(tmp_path, loaded, tmp_path / "model.onnx"),
    ):
        with pytest.raises(UserError, match="probabilities that are not finite numbers"):
            use()
    assert not (tmp_path / "model.onnx").exists()


def test_a_file_that_cannot_be_written_is_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, words in (
        ("", "is a folder"),
        ("/proc/x.png", "cannot be written: No such file"),
        ("file/x.png", "cannot be written: Not a directory"),
        ("x" * 300, "cannot be written: File name too long"),
    ):
        with pytest.raises(UserError, match=words):
            atomic.require_writable(tmp_path / name)
    with pytest.raises(UserError, match="/dev/null is no regular file"):
        atomic.require_writable(Path("/dev/null"))
    atomic.require_writable(tmp_path / "new/folder/x.png")
    atomic.require_writable(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("image.png", "--rev", "nowhere"), "nowhere is no revision"),
        (("image.png", "--checkpoint", "none"), "--checkpoint none: there is no such file"),
        (("image.png", "--labelled"), "--labelled image.png holds no folder of a class of the network (disc, ring, "),
        ((".", "--labelled"), "--labelled . holds benchmarks, data, docs and "),
        (("image.png", "--top", "0"), "--top is 0"),
        (("empty",), "there is no image"),
        (("image.png", "--picture", "/proc/x.png"), "/proc/x.png cannot be written: No such file"),
        (("image.png", "--picture", "x.jpg"), "--picture x.jpg: the picture is a PNG file"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...],
    expected: str,
    done: Repository,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.new("RGB", (8, 8)).save(done.root / "image.png")
    (done.root / "empty").mkdir()
    monkeypatch.chdir(done.root)
    monkeypatch.setattr("sys.argv", ["samebits", "predict", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    output, errors = capsys.readouterr()
    assert ended.value.code == 1 and output == "" and expected in errors.splitlines()[-1]
