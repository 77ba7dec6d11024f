"""The network beyond this project: as an ONNX file, and as an MLflow model that a real server offers."""

import json
import os
import re
import signal
import socket
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import requests
import torch
from PIL import Image

from samebits import models, params
from samebits.checkpoint import Checkpoint
from samebits.data.sources import shapes
from samebits.errors import UserError
from samebits.prediction import onnx_export
from samebits.prediction.classification import Prediction, predict
from samebits.prediction.trained import Trained
from tests.conftest import PROJECT, Repository
from tests.test_predict import expected, trained


def converted(checkpoint: Checkpoint, path: Path) -> onnxruntime.InferenceSession:
    onnx.save_model(onnx_export.convert(Trained(checkpoint, "0" * 32)), str(path))
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("recipe", ["lab", "linear"])
def test_the_onnx_model_takes_raw_pixels_of_any_number_of_images(recipe: str, tmp_path: Path) -> None:
    checkpoint = trained((3, 20, 24), ("größer", "b", "c"))
    model = {"name": recipe, "initialization": "he"}
    weights = models.build(params.part("model", model), (3, 20, 24), 3, seed=1).state_dict()
    checkpoint = Checkpoint(weights, {"recipe": recipe, "model": model}, checkpoint.description)
    session = converted(checkpoint, tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    for number in (1, 7, 300):
        images = random.integers(0, 256, (number, 20, 24, 3), dtype=np.uint8)
        (found,) = session.run(None, {"images": images})
        np.testing.assert_allclose(found, expected(checkpoint, images), rtol=0, atol=1e-4)
    meaning = session.get_modelmeta().custom_metadata_map
    assert json.loads(meaning["class_names"]) == ["größer", "b", "c"]
    assert json.loads(meaning["image_shape"]) == [3, 20, 24]
    assert str(Path(__file__).parents[1]).encode() not in (tmp_path / "model.onnx").read_bytes()


def test_a_model_that_differs_is_found(tmp_path: Path) -> None:
    checkpoint = trained()
    path = tmp_path / "model.onnx"
    converted(checkpoint, path)
    images, _ = shapes.draw(256, 0, "test", progress=False)
    assert onnx_export.check(path, checkpoint, images) < 1e-4
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("fc3.weight"))
    changed = onnx.numpy_helper.to_array(weight) + 0.1 * np.eye(10, 84, dtype=np.float32)
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save_model(model, str(path))
    with pytest.raises(UserError, match="differs from the network"):
        onnx_export.check(path, checkpoint, images)


def test_the_documented_use_of_the_model_sees_what_predict_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = trained()
    (tmp_path / "data/export").mkdir(parents=True)
    converted(checkpoint, tmp_path / "data/export/model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 4), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", "PNG", exif=turned)  # what counts is what is in it
    monkeypatch.chdir(tmp_path)
    text = (PROJECT / "docs/predict.md").read_text()
    (code,) = (block for block in re.findall(r"(?:^    .*\n)+", text, re.MULTILINE) if "onnxruntime" in block)
    names: dict[str, Any] = {}
    exec(textwrap.dedent(code), names)
    (item,) = predict(checkpoint, ["photo.jpg"], torch.device("cpu"))
    assert isinstance(item, Prediction) and np.array_equal(names["image"], item.pixels)
    assert capsys.readouterr().out.strip() == checkpoint.description.class_names[item.probabilities.argmax()]


def test_export_and_register_and_serve(done: Repository) -> None:
    output = Repository(done.root / "docs").run("samebits", "export").stdout
    assert "../data/export/model.onnx: the same classes as the network on 100 test images of shapes" in output
    assert done.status() == ""
    failed = done.run("samebits", "export", "--output", "/proc/none/model.onnx", ok=False)
    assert failed.returncode == 1 and failed.stderr.startswith("error: /proc/none")

    done.run("samebits", "track")  # on a machine that is busy enough, a stage gives MLflow up
    first = done.run("samebits", "register", "shapes-lab").stdout
    assert "registered shapes-lab version 1" in first
    again = done.run("samebits", "register", "shapes-lab").stdout
    assert again.startswith("shapes-lab version 1 is this very checkpoint already")
    assert first.splitlines()[1] == again.splitlines()[1]
    bad = done.run("samebits", "register", "a/b", ok=False)
    assert bad.returncode == 1 and len(bad.stderr.splitlines()) == 1 and done.status() == ""

    (folder,) = (path.parent for path in (done.root / "mlartifacts").rglob("MLmodel"))
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert requirements and all("==" in line for line in requirements)
    assert not [path for path in folder.rglob("*") if path.suffix in {".pkl", ".pickle", ".py", ".pth", ".pt"}]
    described = (folder / "MLmodel").read_text()
    assert "samebits.checkpoint_md5" in described and "samebits.data_md5" in described and "float32" in described
    run_id = first.split("run ")[1].split()[0]
    assert run_id in described

    images, _ = shapes.draw(20, 5, "test", progress=False)
    (done.root / "images").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(done.root / f"images/{index:02}.png")
    predicted = json.loads(done.run("samebits", "predict", "images", "--json", "--top", "1").stdout)
    with serving(done, "shapes-lab", "1") as address:
        status, answer = ask(address, {"inputs": images.tolist()})
        assert status == 200
        answers = json.loads(answer)["predictions"]
        assert answers["predicted"] == [item["predicted"] for item in predicted]
        for row, item in zip(answers["probabilities"], predicted, strict=True):
            assert max(row) == pytest.approx(item["probability"], abs=1e-4)
        for bad_request in ({"inputs": [[1, 2]]}, {"inputs": "x"}, {"other": 1}, "no JSON"):
            status, answer = ask(address, bad_request)
            assert 400 <= status < 500 and answer
        for wrong in (images[:1] / 255, images[:1] + 0.5, images[:1] + 256.0, -1.0 - images[:1]):
            status, answer = ask(address, {"inputs": wrong.tolist()})
            assert 400 <= status < 500 and "pixels must be whole numbers from 0 to 255" in answer
        # MLflow's server itself fails on these two: it has to go on.
        assert ask(address, b"[" * 100_000)[0] == 500
        assert ask(address, {"inputs": images[:1].tolist()}, content_type=None)[0] == 500
        for right in (images[:1], images[:1] % 2, images[:1] * 0.0):
            assert ask(address, {"inputs": right.tolist()})[0] == 200


@contextmanager
def serving(repository: Repository, name: str, version: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    log = repository.root / "serve.log"
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{repository.root}/mlflow.db"}
    command = ("mlflow", "models", "serve", "-m", f"models:/{name}/{version}", "--env-manager", "local", "-p", port)
    process = repository.start(
        "env",
        *(f"{key}={value}" for key, value in environment.items()),
        "sh",
        "-c",
        f'exec "$@" >{log} 2>&1',
        "-",
        *command,
    )
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def ask(address: str, body: object, content_type: str | None = "application/json") -> tuple[int, str]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = requests.post(address, content, headers={"Content-Type": content_type}, timeout=120)
    return asked.status_code, asked.text
