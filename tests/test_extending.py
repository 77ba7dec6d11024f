"""docs/extending.md, word for word: its files are written, its sections added and its commands run in a real repository."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import yaml

from samebits.data.sources import shapes
from tests.conftest import PROJECT, Repository

TEXT = (PROJECT / "docs/extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`([\w/.]+)`:\n\n```python\n(.*?)```\n", TEXT, re.DOTALL))
RECIPE, STAGE = re.findall(r"```yaml\n(.*?)```\n", TEXT, re.DOTALL)
COMMANDS = [
    [line.removeprefix("$ ") for line in block.splitlines()]
    for block in re.findall(r"```console\n(.*?)```\n", TEXT, re.DOTALL)
]


def run(repository: Repository, lines: list[str]) -> str:
    """Run lines of a shell; return what the last printed."""
    output = ""
    for command in (part for line in lines for part in line.split(" && ")):
        # As after `pip install -e .` in the clone: the command runs the code of the repository.
        output = repository.run(*shlex.split(command), PYTHONPATH=str(repository.root / "src")).stdout
    return output


def test_the_tutorial(done: Repository, tmp_path: Path) -> None:
    assert len(FILES) == len(re.findall("```python", TEXT)) == 7
    for name, content in FILES.items():
        (done.root / name).write_text(content, encoding="utf-8")
    for tool in (["format", "--check"], ["check"]):
        done.run("ruff", *tool, *FILES)
    params = done.root / "params.yaml"
    params.write_text(params.read_text() + RECIPE)

    # A recipe with a network, an optimizer, a schedule, an augmentation and a metric of its own leaves the lab's result as it is.
    assert "up to date" in run(done, COMMANDS[0])
    measured = yaml.safe_load(done.run("dvc", "exp", "show", "--json").stdout)
    assert "balanced_accuracy" in str(measured) and "perceptron" in str(measured)

    # What is new is tested by being there.
    shutil.copytree(PROJECT / "tests", done.root / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    suites = ("tests/test_models.py", "tests/test_optimizers.py", "tests/test_augmentation.py")
    new = "every and (perceptron or lion or steps or brightness)"
    tested = done.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *suites, "-k", new, PYTHONPATH="src")
    assert "4 passed" in tested.stdout

    archive = {
        f"{split}_{kind}": array
        for split, number in (("train", 200), ("test", 50))
        for kind, array in zip(("images", "labels"), shapes.draw(number, 0, split, progress=False), strict=True)
    }
    (done.root / "archive").mkdir()
    np.savez(done.root / "archive/images.npz", **archive)
    run(done, COMMANDS[1])

    pipeline = done.root / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("\nplots:\n", f"\n{STAGE}\nplots:\n"))
    assert "confidence" in run(done, COMMANDS[2])
    assert not re.search("^(prepare|train|evaluate):", done.run("dvc", "status").stdout, re.MULTILINE)
