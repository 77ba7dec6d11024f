"""The network beyond this project: as an ONNX file, and as an MLflow model that a real server offers."""

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from samebits import models, params
from samebits.checkpoint import Checkpoint
from samebits.data import shapes
from samebits.errors import UserError
from samebits.prediction import onnx_export
from samebits.prediction.trained import Trained
from tests.conftest import Repository
from tests.test_predict import expected, trained


def converted(checkpoint: Checkpoint, path: Path) -> onnxruntime.InferenceSession:
    onnx.save_model(onnx_export.convert(Trained(checkpoint, "0" * 32, None)), str(path))
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("recipe", ["lab", "linear"])
def test_the_onnx_model_takes_raw_pixels_of_any_number_of_images(recipe: str, tmp_path: Path) -> None:
    checkpoint = trained((3, 20, 24), ("größer", "b", "c"))
    model = {"name": recipe, "initialization": "he"}
    weights = models.build(params.Model.model_validate(model), (3, 20, 24), 3, seed=1).state_dict()
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


def test_export_and_register_and_serve(done: Repository) -> None:
    output = done.run("samebits", "export").stdout
    assert "data/export/model.onnx: the same classes as the network on 100 test images of shapes" in output
    assert done.status() == ""
    failed = done.run("samebits", "export", "--output", "/proc/none/model.onnx", ok=False)
    assert failed.returncode == 1 and failed.stderr.startswith("error: /proc/none")

    for name in ("mlflow.db", "mlflow.db.lock"):  # a copy's database still names the original's artifacts
        (done.root / name).unlink(missing_ok=True)
    done.run("samebits", "track")
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
    assert "samebits.checkpoint_md5" in described and "samebits.data_md5" in described and "uint8" in described
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
        assert ask(address, {"inputs": images[:1].tolist()})[0] == 200


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


def ask(address: str, body: object) -> tuple[int, str]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
