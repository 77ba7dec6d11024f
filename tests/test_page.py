"""The report page: everything in one file, shown by a real browser as a person would see it."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from samebits import checkpoint, results
from samebits.comparison import outcome
from samebits.data import prepared
from samebits.data.normalization import Normalization
from samebits.data.raw import RawSplit
from samebits.errors import UserError
from samebits.evaluation import predictions
from samebits.evaluation.metrics import summary
from samebits.evaluation.predictions import Predictions
from samebits.reporting import lineage, page
from tests.browser import Browser, chromium
from tests.conftest import Repository, copy_tree

LIMIT_BYTES = 3_000_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def result(done_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    root = tmp_path_factory.mktemp("page") / "samebits"
    copy_tree(done_template, root)
    return Repository(root)


def look_at(browser: Browser, path: Path) -> dict:
    """Look at a page at both widths, light and dark; give what the last look saw."""
    assert path.stat().st_size < LIMIT_BYTES
    backgrounds = set()
    for width in (400, 1280):
        for dark in (False, True):
            seen = browser.open(path, width, dark)
            assert seen["scroll"] <= width and seen["out"] == [], (width, seen["out"])
            assert seen["broken"] == 0 and seen["silent"] == 0
            assert browser.complaints() == []
            assert {address for address in browser.requested() if not address.startswith("data:")} == {path.as_uri()}
            backgrounds.add((dark, seen["background"]))
    assert len(backgrounds) == 2
    return seen


def test_a_result_on_one_page(result: Repository, browser: Browser) -> None:
    result.run("samebits", "track")  # on a machine that is busy enough, a stage gives MLflow up
    told = result.run("samebits", "report")
    assert told.stdout == "page: report.html\n" and told.stderr == ""
    seen = look_at(browser, result.root / "report.html")
    measured = json.loads((result.root / "metrics/evaluate.json").read_text())
    text = " ".join(seen["text"].split())
    commit = result.run("git", "rev-parse", "HEAD").stdout.strip()
    assert f"{100 * measured['accuracy']:.2f} % of 100 test images are classified right" in text
    for heading in ("Accuracy by class", "Confusion matrix", "Training curves", "How sure, how right", "Test images"):
        assert heading in text
    for expected in (
        "most confident mistakes",
        "least sure",
        "conv1.weight",
        "filter 6",
        "train.optimizer.learning_rate",
        commit,
    ):
        assert expected in text, expected
    md5s = {output.path: output.md5 for output in results.workspace(result.root).record.outputs}
    assert md5s["data/model/checkpoint.safetensors"] in text and md5s["data/prepared/dataset.json"] in text
    assert "libraries.torch" in text and "processor portable" in text and f"samebits verify {commit[:12]}" in text
    assert re.search(r"run in MLflow lab-seed0 \([0-9a-f]{32}\)", text)
    assert seen["images"] > 24 + 24
    assert "report.html" not in result.status()
    texts = re.findall(r"<text[^>]*>", (result.root / "report.html").read_text())
    assert len(texts) > 20 and "font-family" not in "".join(texts)  # which the page decides
    assert lineage.commands(results.workspace(result.root))[-1] == f"samebits verify {commit[:12]}"
    result.edit(lambda values: values.update(seed=1))
    assert "not in a commit yet" in lineage.commands(results.workspace(result.root))[0]
    result.run("git", "checkout", "--quiet", "params.yaml")


def test_a_comparison_beside_the_result(result: Repository, browser: Browser) -> None:
    root = result.root
    result.commit("A")
    result.run("git", "branch", "before")
    table = predictions.read((root / "data/evaluation/predictions.csv").read_bytes(), "")
    shifted = np.where(
        np.arange(len(table.labels))[:, None] < 40, np.roll(table.probabilities, 1, axis=1), table.probabilities
    )
    (root / "data/evaluation/predictions.csv").unlink()
    predictions.write(root / "data/evaluation/predictions.csv", replace(table, probabilities=shifted))
    result.run("dvc", "commit", "--force", "evaluate")
    result.commit("B")
    compared = outcome.compare(root, "before", "main", False)
    assert result.run("samebits", "compare", "before", "main", "--html").stderr == "page: comparison.html\n"
    seen = look_at(browser, root / "comparison.html")
    text = " ".join(seen["text"].split())
    assert compared.verdict in text and "Images that flipped" in text and "Now right" in text and "Now wrong" in text
    assert isinstance(compared, outcome.NetworkComparison)
    source = (root / "comparison.html").read_text()
    flips = compared.accuracy.only_a, compared.accuracy.only_b
    shown = re.findall(r'alt="Test image \d+, \w+: A says', source)
    assert flips[0] > 0 and len(shown) == sum(min(number, 12) for number in flips)
    told = result.run("samebits", "report", "main", "--against", "before", "--output", "other.html")
    assert told.stdout == "page: other.html\n"
    assert (root / "other.html").read_text() == source


def test_seeds_against_seeds_on_one_page(result: Repository, browser: Browser, tmp_path: Path) -> None:
    here = results.workspace(result.root)
    compared = outcome.compare_seeds([here] * 3, [here] * 4)
    page.write_comparison(compared, tmp_path / "seeds.html")
    text = " ".join(look_at(browser, tmp_path / "seeds.html")["text"].split())
    assert "Seeds against seeds" in text and compared.verdict in text and "A (3 seeds)" in text


def test_a_hundred_classes_of_large_noise_with_names_from_hell(
    result: Repository, browser: Browser, tmp_path: Path
) -> None:
    """As large as it gets: pictures that cannot be compressed, and a linear network over them."""
    root = tmp_path / "samebits"
    copy_tree(result.root, root)
    names = tuple(f"<b>& class {'é' * 30} {number}" for number in range(100))
    random = np.random.default_rng(0)
    labels = np.arange(1000, dtype=np.int64) % 99  # the last class has no image
    images = random.integers(0, 256, (1000, 60, 40, 3), dtype=np.uint8)
    description = prepared.Description("folder", names, (3, 60, 40), Normalization((0.5,) * 3, (0.25,) * 3))
    split = RawSplit(images, labels)
    for path in (*root.glob("data/prepared/*.json"), *root.glob("data/model/check*"), *root.glob("data/evaluation/*")):
        path.unlink()
    prepared.write(root / "data/prepared", description, {name: split for name in prepared.SPLITS})
    weights = {"fc.weight": torch.randn(100, 3 * 60 * 40), "fc.bias": torch.zeros(100)}
    recipe = {"recipe": "linear", "seed": 0, "model": {}, "train": {}}
    checkpoint.save(root / "data/model/checkpoint.safetensors", checkpoint.Checkpoint(weights, recipe, description))
    probabilities = random.dirichlet(np.ones(100), 1000).astype(np.float32)
    predictions.write(root / "data/evaluation/predictions.csv", Predictions(names, probabilities, labels))
    Repository(root).run("dvc", "commit", "--force")
    page.write_result(results.workspace(root), root / "report.html")
    seen = look_at(browser, root / "report.html")
    assert "<b>& class" in seen["text"] and "fc.weight" in seen["text"] and "no images" in seen["text"]
    assert summary.summarize(probabilities, labels, names)["accuracy"] < 0.05


def test_a_page_beside_the_code_changes_no_result(result: Repository) -> None:
    (result.root / "another.html").write_text("an earlier page")
    assert lineage.commands(results.workspace(result.root))[0].startswith("git checkout ")
    (result.root / "src/mine.py").write_text("")
    assert lineage.commands(results.workspace(result.root))[0].startswith("# not in a commit yet")
    (result.root / "src/mine.py").unlink()


def test_what_is_missing_is_one_line_and_leaves_the_page_as_it_was(result: Repository, tmp_path: Path) -> None:
    root = tmp_path / "samebits"
    copy_tree(result.root, root)
    (root / "report.html").write_text("before")
    shutil.rmtree(root / ".dvc/cache")
    (root / "data/model/checkpoint.safetensors").unlink()
    failed = Repository(root).run("samebits", "report", ok=False)
    (line,) = failed.stderr.splitlines()
    assert failed.returncode == 1 and line.startswith(
        "error: data/model/checkpoint.safetensors is not in the workspace"
    )
    assert (root / "report.html").read_text() == "before"
    failed = result.run("samebits", "report", "--output", "/proc/x.html", ok=False)
    assert failed.returncode == 1 and failed.stderr.startswith("error: /proc/x.html cannot be written: No such file")
    with pytest.raises(UserError, match="is a folder"):
        page.write_result(results.workspace(result.root), tmp_path)
