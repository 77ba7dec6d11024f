"""The checkpoint: the same bytes for the same content, enough by itself, and harmless whoever made it."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from samebits import checkpoint, models, params
from samebits.checkpoint import Checkpoint
from samebits.data.normalization import Normalization
from samebits.data.prepared import Description, Split
from samebits.errors import UserError
from samebits.evaluation.inference import predict_logits
from samebits.training import loop

torch.set_num_threads(1)
TRAIN = {"optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}, "precision": "float32"}
TRAIN |= {"batch_size": 4, "num_epochs": 1, "report_every_steps": 100, "num_threads": 1}


def make(name: str = "linear", image_shape: tuple[int, int, int] = (1, 4, 4), initialization: str = "he") -> Checkpoint:
    """A checkpoint of a network as its initialization makes it."""
    normalization = Normalization((0.1 + 0.2,) * image_shape[0], (1 / 3,) * image_shape[0])
    description = Description("shapes", ("disc", "étoile", "ring"), image_shape, normalization)
    model = {"name": name, "initialization": initialization}
    network = models.build(params.part("model", model), image_shape, 3, seed=5)
    recipe = {"recipe": "small", "seed": 2**32 - 1, "model": model, "train": TRAIN}
    return Checkpoint(network.state_dict(), recipe, description)


def images_for(trained: Checkpoint) -> torch.Tensor:
    return torch.randn(20, *trained.description.image_shape, generator=torch.Generator().manual_seed(0)).half()


def trained_lab() -> tuple[Checkpoint, torch.Tensor]:
    """A lab network after a few steps, and its logits."""
    begun = make("lab", (3, 32, 32))
    network, images = begun.network(), images_for(begun)
    data = Split(images, torch.arange(20) % 3)
    loop.train(network, data, Split(images[:0], data.labels[:0]), params.Train(**TRAIN), 0, lambda *_: None)
    return replace(begun, weights=network.state_dict()), predict_logits(network, images, 10)


def error_of(path: Path) -> str:
    """The one line that using the file at `path` gives."""
    with pytest.raises(UserError) as caught:
        checkpoint.load(path).network()
    line = str(caught.value)
    assert line.isprintable() and len(line) < 600
    return line


@pytest.mark.parametrize("name", ["lab", "linear"])
def test_round_trip(name: str, tmp_path: Path) -> None:
    path, before = tmp_path / "new folder" / "checkpoint.safetensors", make(name, (3, 20, 24))
    checkpoint.save(path, before)
    after = checkpoint.load(path)
    assert (after.recipe, after.description) == (before.recipe, before.description)
    assert after.weights.keys() == before.weights.keys()
    for key, tensor in before.weights.items():
        assert after.weights[key].dtype == torch.float32 and torch.equal(after.weights[key], tensor)
    assert not after.network().training


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    content = make()
    paths = [tmp_path / name for name in ("a", "b", "c", "other")]
    checkpoint.save(paths[0], content)
    checkpoint.save(paths[1], content)
    turned = {key: content.recipe[key] for key in reversed(content.recipe)}
    turned["train"] = {key: TRAIN[key] for key in reversed(TRAIN)}
    weights = {key: content.weights[key] for key in reversed(content.weights)}
    weights = {key: tensor.t().contiguous().t() for key, tensor in weights.items()}  # laid out otherwise in memory
    checkpoint.save(paths[2], Checkpoint(weights, turned, content.description))
    checkpoint.save(paths[3], replace(content, recipe=content.recipe | {"seed": 6}))
    first, *others = [path.read_bytes() for path in paths]
    assert [first == other for other in others] == [True, True, False]


ALONE = """
import sys
import torch
from pathlib import Path
from samebits import checkpoint
from samebits.evaluation.inference import predict_logits

torch.set_num_threads(1)
given, copied, images, logits = map(Path, sys.argv[1:])
trained = checkpoint.load(given)
checkpoint.save(copied, trained)
torch.save(predict_logits(trained.network(), torch.load(images), 10), logits)
"""


def test_a_checkpoint_is_enough_by_itself_in_another_process(tmp_path: Path) -> None:
    trained, expected = trained_lab()
    given, copied, images, logits = (tmp_path / name for name in ("given", "copied", "images.pt", "logits.pt"))
    checkpoint.save(given, trained)
    torch.save(images_for(trained), images)
    (tmp_path / "empty").mkdir()  # no params.yaml, no data
    environment = os.environ | {"PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ALONE, *map(str, (given, copied, images, logits))]
    subprocess.run(command, cwd=tmp_path / "empty", env=environment, check=True)
    assert torch.equal(torch.load(logits), expected)
    assert copied.read_bytes() == given.read_bytes()
    begun = predict_logits(make("lab", (3, 32, 32)).network(), images_for(trained), 10)
    assert not torch.equal(begun, expected)  # the weights are the trained ones


class Trap:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("dump", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))])
def test_opening_a_file_from_a_stranger_runs_no_code(dump: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    path, sprung = tmp_path / "checkpoint", tmp_path / "sprung"  # torch.load runs no code in *.safetensors
    dump(Trap(sprung), path)
    assert "not a checkpoint of samebits" in error_of(path)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()  # so the trap is a real one


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    assert error_of(tmp_path / "absent") == f"{tmp_path / 'absent'} is not there: run `dvc repro`"
    assert error_of(tmp_path).startswith(f"{tmp_path} is not a checkpoint")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    checkpoint.save(path, make())
    whole = path.read_bytes()
    for length in [0, 1, 7, 8, 9, *range(10, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert error_of(path).startswith(f"{path} is not a checkpoint of samebits, or is damaged")
    path.write_bytes(whole + b"\0")
    assert error_of(path).startswith(f"{path} is not a checkpoint of samebits, or is damaged")


def test_no_flipped_bit_of_the_header_gives_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    checkpoint.save(path, make())
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    num_refused = 0
    for position in range(header):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position * 5 % 8
        path.write_bytes(flipped)
        try:
            checkpoint.load(path).network()
        except UserError as error:
            num_refused += 1
            assert str(error).isprintable()
    # What is left is another text or number in the same place, such as a class's name.
    assert num_refused > header / 2


def lacking(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


GOOD = {"recipe": make().recipe, "description": json.loads(json.dumps(asdict(make().description)))}


def described(**changes: Any) -> dict[str, Any]:
    return GOOD | {"description": GOOD["description"] | changes}


def modelled(**changes: Any) -> dict[str, Any]:
    return GOOD | {"recipe": GOOD["recipe"] | {"model": GOOD["recipe"]["model"] | changes}}


WRONG_TEXT: dict[str, tuple[Any, list[str]]] = {
    "null": (None, ["object"]),
    "a list": ([1], ["object"]),
    "nothing in it": ({}, ["recipe", "required"]),
    "no description": (lacking(GOOD, "description"), ["description", "required"]),
    "description is null": (GOOD | {"description": None}, ["description"]),
    "no class names": (GOOD | {"description": lacking(GOOD["description"], "class_names")}, ["class_names"]),
    "class names are one text": (described(class_names="abc"), ["class_names"]),
    "class names are numbers": (described(class_names=[1, 2, 3]), ["class_names"]),
    "class names are lists": (described(class_names=[[], [], []]), ["class_names"]),
    "too few class names": (described(class_names=["a", "b"]), ["size mismatch"]),
    "image shape is text": (described(image_shape=["a", "b", "c"]), ["image_shape"]),
    "image shape in quotes": (described(image_shape=["1", "4", "4"]), ["image_shape"]),
    "image shape of fractions": (described(image_shape=[1.5, 4.0, 4.0]), ["image_shape"]),
    "image shape too short": (described(image_shape=[4, 4]), ["image_shape"]),
    "image shape of another size": (described(image_shape=[1, 4, 5]), ["size mismatch"]),
    "image shape negative": (described(image_shape=[1, -4, 4]), ["not describe a network"]),
    "image shape beyond all numbers": (described(image_shape=[1, 10**30, 4]), ["not describe a network"]),
    "image shape beyond all memory": (described(image_shape=[1, 2**31, 2**22]), ["not describe a network"]),
    "normalization is a list": (described(normalization=[]), ["normalization"]),
    "mean is not a number": (described(normalization={"mean": [float("nan")], "std": [1.0]}), ["mean"]),
    "mean of too few channels": (described(normalization={"mean": [], "std": []}), ["not one of 1 channels"]),
    "recipe is a list": (GOOD | {"recipe": ["lab"]}, ["recipe", "object"]),
    "no model": (GOOD | {"recipe": lacking(GOOD["recipe"], "model")}, ["model"]),
    "model is a list": (GOOD | {"recipe": GOOD["recipe"] | {"model": []}}, ["not describe a network"]),
    "unknown model": (modelled(name="vgg"), ["vgg", "'lab', 'linear', 'resnet', 'speed'"]),
    "a module of ours that is no model": (modelled(name="__init__"), ["__init__", "'lab', 'linear'"]),
    "unknown key of the model": (modelled(width=3), ["width"]),
    "images too small for the network": (modelled(name="lab"), ["16x16", "4x4"]),
}


@pytest.mark.parametrize("name", WRONG_TEXT)
def test_wrong_text_beside_the_weights_is_named(name: str, tmp_path: Path) -> None:
    text, words = WRONG_TEXT[name]
    path = tmp_path / "checkpoint"
    save_file(make().weights, path, {"samebits": json.dumps(text)})
    line = error_of(path)
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"format": "pt"},
        {"samebits": ""},
        {"samebits": "{"},
        {"samebits": "[" * 10**5},
        {"samebits": "\ud7ff"},
    ],
)
def test_safetensors_files_that_are_no_checkpoints_are_refused(metadata: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    save_file(make().weights, path, metadata)
    assert error_of(path).startswith(f"{path} is not a checkpoint of samebits")


WRONG_WEIGHTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "wrong shape": (lambda weights: weights | {"fc.weight": torch.zeros(3, 17)}, "size mismatch for fc.weight"),
    "one missing": (lambda weights: lacking(weights, "fc.bias"), 'Missing key(s) in state_dict: "fc.bias"'),
    "one too many": (lambda weights: weights | {"x": torch.zeros(1)}, 'Unexpected key(s) in state_dict: "x"'),
    "none": (lambda weights: {}, "Missing key(s)"),
    "a name to confuse the terminal": (lambda weights: weights | {"\x1b[2J\n": torch.zeros(1)}, r"\x1b[2J"),
    "many with long names": (lambda weights: {"x" * 99 + str(i): torch.zeros(1) for i in range(99)}, "Missing key(s)"),
}


@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_weights_that_do_not_fit_are_named(name: str, tmp_path: Path) -> None:
    change, words = WRONG_WEIGHTS[name]
    path = tmp_path / "checkpoint"
    checkpoint.save(path, replace(make(), weights=change(make().weights)))
    assert words in error_of(path)


def test_saving_fails_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    checkpoint.save(path, make())
    before = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoint.save(path, replace(make(), recipe={"model": object()}))
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
    assert load_file(path).keys() == make().weights.keys()


CLAIMING = """
import resource, sys, time
from pathlib import Path
from samebits import checkpoint
from samebits.errors import UserError

before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
try:
    checkpoint.load(Path(sys.argv[1])).network()
except UserError as error:
    print(time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


def test_a_small_file_that_claims_large_images_takes_no_memory(tmp_path: Path) -> None:
    path, content = tmp_path / "checkpoint", make("lab", (3, 32, 32))
    checkpoint.save(path, replace(content, description=replace(content.description, image_shape=(3, 5000, 5000))))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", CLAIMING, path], env=environment, capture_output=True, text=True)
    seconds, kilobytes, line = done.stdout.split(maxsplit=2)
    assert float(seconds) < 10 and int(kilobytes) < 300_000 and "size mismatch for fc1.weight" in line


def test_a_network_of_the_first_format_is_read(tmp_path: Path) -> None:
    """As commit cde7168 wrote it: the network speed named its initialization, and other settings had other places."""
    model = params.part("model", {"name": "speed"})
    network = models.build(model, (3, 32, 32), 3, seed=5)
    train = {"optimizer": "muon", "learning_rate": 0.24, "muon": {"momentum": 0.85}, "flip": "alternating"}
    recipe = {"recipe": "speed", "seed": 0, "train": train}
    recipe["model"] = {"name": "speed", "initialization": "partial_identity"}
    path = tmp_path / "checkpoint"
    checkpoint.save(path, Checkpoint(network.state_dict(), recipe, make("lab", (3, 32, 32)).description))
    read = checkpoint.load(path).network()
    assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in network.state_dict().items())
