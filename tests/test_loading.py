"""`samebits.load`: what it returns of each kind of result, what it costs, and the page and the notebook that show it."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
import yaml
from nbclient import NotebookClient
from PIL import Image, ImageOps

import samebits
from samebits import results, tracking
from samebits.data.sources import shapes
from samebits.errors import UserError
from samebits.repository import git
from tests.conftest import PROJECT, Repository

TEXT = (PROJECT / "docs/python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```\n", TEXT, re.DOTALL)
NOTEBOOK = PROJECT / "docs/explore.ipynb"


def call_experiment_faster(repository: Repository) -> None:
    """Give the experiment of `known` the name that the documentation uses."""
    ((reference, commit),) = git.references(repository.root, "refs/exps/??/*/slower").items()
    repository.run("git", "update-ref", reference.replace("slower", "faster"), commit)
    repository.run("git", "update-ref", "-d", reference)


def run_ids(repository: Repository) -> dict[float, str]:
    """Return the ids of the runs in MLflow by their momentum."""
    store = tracking.open_store(repository.root)
    runs = store.client.search_runs([store.experiment_id])
    return {float(run.data.params["train.optimizer.momentum"]): run.info.run_id for run in runs}


def test_a_list_of_files_that_leads_out_of_its_folder_is_refused(done: Repository) -> None:
    path = "data/prepared/test"
    listing = b'[{"md5": "0123456789abcdef0123456789abcdef", "relpath": "../../out"}]'
    md5, recorded = f"{hashlib.md5(listing).hexdigest()}.dir", results.workspace(done.root).md5(path)
    place = done.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(listing)
    lock = done.root / "dvc.lock"
    lock.write_text(lock.read_text().replace(recorded, md5))
    done.commit("a stranger's")
    stranger = results.find(done.root, "HEAD")
    with pytest.raises(UserError, match=r"lists \.\./\.\./out, which is not in that folder"), stranger.copied(path):
        pass


def test_each_kind_of_result(known: Repository) -> None:
    before = known.status()
    run_id = run_ids(known)[0.7]  # that of a result which was never committed
    found = {name: samebits.load(name, known.root / "docs") for name in (None, "main", "slower", run_id)}
    momenta = {name: each.parameters["train"]["optimizer"]["momentum"] for name, each in found.items()}
    assert momenta == {None: 0.9, "main": 0.9, "slower": 0.8, run_id: 0.7}
    assert len({each.metrics["loss"] for each in found.values()}) == 3
    images, labels = shapes.draw(100, 0, "test", progress=False)
    for result in found.values():
        assert (result.test_images == images).all()
        assert result.class_names == shapes.CLASS_NAMES
        table = result.predictions
        assert list(table["true"]) == [shapes.CLASS_NAMES[label] for label in labels]
        assert (table["true"] == table["predicted"]).mean() == pytest.approx(result.metrics["accuracy"])
        assert list(table["true"].cat.categories) == list(shapes.CLASS_NAMES)
        assert result.history["step"].iloc[-1] == 100 and result.history["train_loss"].notna().all()

        network = result.network()
        with torch.inference_mode():
            logits = network(torch.from_numpy(result.normalization.apply(images)).float())
        evaluated = table.filter(like="probability_").to_numpy()
        np.testing.assert_allclose(logits.softmax(1).numpy(), evaluated, rtol=0, atol=1e-5)
        predicted = result.predict(images[:3])
        assert list(predicted["predicted"]) == list(table["predicted"][:3])
        np.testing.assert_allclose(predicted.filter(like="probability_"), evaluated[:3], rtol=0, atol=1e-5)
    assert known.status() == before


def test_results_of_earlier_versions_have_their_test_images_in_one_file(done: Repository) -> None:
    path, part = done.root / "dvc.lock", done.root / "data/prepared/test/0000.part"
    today = path.read_text()
    lock = yaml.safe_load(today)
    for entry in (*lock["stages"]["prepare"]["outs"], *lock["stages"]["evaluate"]["deps"]):
        if entry["path"] == "data/prepared/test":
            entry |= {"path": "data/prepared/test.safetensors", "md5": hashlib.md5(part.read_bytes()).hexdigest()}
    path.write_text(yaml.safe_dump(lock))
    done.commit("the same, as an earlier version recorded it")
    path.write_text(today)
    done.commit("today")
    earlier, now = (samebits.load(name, done.root) for name in ("HEAD~1", "HEAD"))
    assert earlier.revision.test_images() != now.revision.test_images()
    assert np.array_equal(earlier.test_images, now.test_images)
    done.run("samebits", "report", "HEAD~1", "--against", "HEAD")


def test_images_are_treated_as_by_the_command(done: Repository) -> None:
    result, folder = samebits.load(root=done.root), done.root / "images"
    folder.mkdir()
    pixels = shapes.draw(3, 5, "test", progress=False)[0]
    turned, clear, grey = folder / "a.jpg", folder / "b.png", folder / "c.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[0]).resize((90, 40)).save(turned, exif=exif)
    Image.fromarray(np.dstack([pixels[1], pixels[1][..., 0]])).save(clear)
    Image.fromarray(pixels[2][..., 0]).save(grey)

    files = result.predict(folder)
    assert list(files.index) == [str(path) for path in (turned, clear, grey)]
    told = done.run("samebits", "predict", "images", "--csv", "--top", "1").stdout.splitlines()[1:]
    assert [line.split(",")[2] for line in told] == list(files["predicted"])
    opened = result.predict(Image.open(path) for path in (turned, clear, grey))
    assert list(opened.index) == [0, 1, 2] and (opened.to_numpy() == files.to_numpy()).all()
    arrays = [np.asarray(ImageOps.exif_transpose(Image.open(turned))), np.asarray(Image.open(clear))]
    arrays += [np.asarray(Image.open(grey))[..., None]]
    assert (result.predict([*arrays[:2], grey, arrays[2]]).to_numpy() == files.to_numpy()[[0, 1, 2, 2]]).all()
    assert result.predict(arrays[0]).shape == result.predict(str(grey)).shape == (1, 11)

    (folder / "empty").mkdir()
    (folder / "text.png").write_text("no image")
    for images, words in (
        ([], "there is no image"),
        (folder / "empty", f"{folder}/empty holds no image"),
        ([turned, folder / "text.png"], f"{folder}/text.png is not an image"),
        (folder / "none.png", "none.png cannot be read"),
        (pixels / 255, r"image 0 is float64 \(32, 32, 3\): pass a path, a Pillow image, or an array uint8"),
        (torch.zeros(1, 3, 32, 32), "image 0 is Tensor: pass"),
        ([grey, Image.new("CMYK", (4, 4))], "image 1 cannot be used .*: convert it to RGB"),
        (np.zeros((4, 4, 5), np.uint8), "image 0 cannot be used"),
    ):
        with pytest.raises(UserError, match=words):
            result.predict(images)


def test_mistakes_and_lost_outputs(done: Repository, tmp_path: Path) -> None:
    root, lock = done.root, done.root / "dvc.lock"
    first = done.run("git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    for name, words in (
        ("nowhere", f"nowhere is no revision of {root}"),
        (first, f"{first[:7]} has no dvc.lock: it is from before the first result"),
        ("0" * 32, f"mlflow.db has no run {'0' * 32}"),
    ):
        with pytest.raises(UserError, match=words):
            samebits.load(name, root)
    with pytest.raises(UserError, match=f"{tmp_path} is in no git repository"):
        samebits.load(root=tmp_path)

    result = samebits.load("main", root)
    cached = result.revision.cache.path(result.revision.md5("data/model/history.csv") or "")
    cached.unlink()
    with pytest.raises(UserError, match=r"data/model/history.csv of main \(.*\) is neither in DVC's cache nor on its"):
        _ = result.history
    done.run("dvc", "remote", "add", "--default", "team", "http://127.0.0.1:9/nobody")
    with pytest.raises(
        UserError, match=r"on its remote \(the remote team .* cannot be used: .*, then try again\): run"
    ):
        _ = result.history
    assert result.metrics["accuracy"] > 0

    recorded = yaml.safe_load(lock.read_text())
    del recorded["stages"]["evaluate"]
    lock.write_text(yaml.safe_dump(recorded))
    with pytest.raises(
        UserError, match=r"workspace records no complete result \(metrics/evaluate.json\): run `dvc repro`"
    ):
        samebits.load(root=root)


def test_loading_imports_no_library_that_it_does_not_need(done: Repository) -> None:
    program = """
import sys
before = set(sys.modules)
import samebits
print(set(sys.modules) - before)
result = samebits.load()
print(result, result.metrics["accuracy"], result.parameters["recipe"], len(result.class_names))
print({"torch", "pandas", "mlflow", "numpy"} & set(sys.modules))
"""
    # Not a program of the tests, which starts warm.
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, cwd=done.root, env=done.environment(), capture_output=True, text=True, check=True)
    accuracy = samebits.load(root=done.root).metrics["accuracy"]
    assert output.stdout == f"{{'samebits'}}\n<result workspace> {accuracy} lab 10\nset()\n" and output.stderr == ""


def test_every_block_of_the_page_runs(
    known: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call_experiment_faster(known)
    monkeypatch.chdir(known.root)
    Image.new("RGB", (70, 50), "red").save("photo.jpg")
    assert len(BLOCKS) == len(re.findall("```python", TEXT)) == 5
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
    plt.close("all")
    assert names["probabilities"].shape == (8, 10)
    output = capsys.readouterr()
    assert "nowhere is no revision of" in output.out and output.err == ""
    # The table of the page names all that there is.
    public = {name for name in dir(names["result"]) if not name.startswith("_")} - {"revision"}
    assert public == set(re.findall(r"^\| `(\w+)", TEXT, re.MULTILINE))


def test_the_notebook(known: Repository, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # What is in git holds no outputs, and so no picture of CIFAR-10.
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    call_experiment_faster(known)
    folder = {"metadata": {"path": str(known.root / "docs")}}
    client = NotebookClient(notebook, timeout=300, startup_timeout=300, resources=folder)
    client.extra_arguments = ["--log-level=ERROR"]  # it would warn that other users could listen to its ports
    client.execute(env=known.environment() | {"JUPYTER_RUNTIME_DIR": str(tmp_path)})
    assert capfd.readouterr() == ("", "")
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"display_data", "execute_result"}, outputs
    pictures = [len([each for each in cell.outputs if "image/png" in each.get("data", {})]) for cell in cells]
    assert pictures == [0, 0, 1, 1, 1, 1, 1, 2]  # filters of both results
