"""What a stage opens is what dvc.yaml says that it depends on: watched by an audit hook while the real stages run."""

import ast
import os
import re
from pathlib import Path

import pytest
import yaml

from samebits import params, parts, recipe_links
from tests.conftest import PROJECT, Repository

# Writes each file that the process opens or imports into a log; sitecustomize is imported before anything else.
WATCH = """
import os, sys
log = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
stage = os.environ.get("DVC_STAGE")
def is_comparing():
    "Whether the stage only compares files with what they were: reads them as stage/ does, by no import and no parser."
    frame = sys._getframe().f_back.f_back  # None: Python itself opens the script
    while frame and os.path.basename(frame.f_code.co_filename) in ("pathlib.py", "digests.py", "hashlib.py"):
        frame = frame.f_back
    return frame and frame.f_code.co_filename.endswith(("samebits/stage/inputs.py", "samebits/stage/changes.py", "samebits/parts.py"))
def watch(event, arguments):
    if event == "open" and stage and isinstance(arguments[0], (str, bytes)) and not is_comparing():
        os.write(log, os.fsencode(f"{stage}\\t{os.path.realpath(os.fsdecode(arguments[0]))}\\n"))
sys.addaudithook(watch)
"""
# What decides no output: recording and bookkeeping (a test below shows it), comparing with what was
# read, how a mistake is said, whose turn it is, how threads wait, when images are read.
EXEMPT = (
    *("src/samebits/tracking/", "src/samebits/repository/", "mlflow.db", "mlartifacts/"),
    *("src/samebits/__init__.py", "src/samebits/errors.py", "src/samebits/processes.py"),
    "src/samebits/read_ahead.py",
    # Checks and names parameters, which are dependencies themselves, and finds a part's module by its name.
    *("src/samebits/params.py", "src/samebits/parts.py", "src/samebits/quantities.py", "src/samebits/paths.py"),
    *(
        f"src/samebits/stage/{name}.py"
        for name in (
            "inputs",
            "changes",
            "records",
            "confirmation",
            "rank",
            "workers",
            "launching",
            "machines",
            "addresses",
        )
    ),
    *(".samebits/", ".git/", "params.yaml"),
)
# Of evaluate alone: it reads the pictures for its MLflow run, and forgets the resume points of the training.
EXEMPT_IN_EVALUATE = ("data/plots/", "src/samebits/training/resume.py")
# Code that only some values of params.yaml make a stage import.
CHOSEN_BY_PARAMETERS = ("data/decoding.py", "data/image_files.py", "data/images.py", "data/vision.py")


def opened(repository: Repository, folder: Path, recipe: str, *stages: str) -> dict[str, set[str]]:
    """Run stages, by default all, with `recipe`; give the files below the repository that each stage opened."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WATCH)
    log = folder / "log"
    repository.edit(lambda values: values.update(recipe=recipe))
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    # What Python has compiled before would be opened in place of the code.
    compiled = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(folder / "none")}
    repository.run("dvc", "repro", "--force", *stages, PYTHONPATH=path, WATCH_LOG=str(log), **compiled)
    files: dict[str, set[str]] = {}
    for line in log.read_text().splitlines():
        stage, path = line.split("\t")
        if path.startswith(f"{repository.root}/") and "/." not in path.removeprefix(f"{repository.root}/data"):
            files.setdefault(stage, set()).add(path.removeprefix(f"{repository.root}/"))
    return files


def definitions(repository: Repository, recipe: str) -> dict[str, dict]:
    """Return the stages of dvc.yaml as DVC resolves them, with the targets of links in place of folders of links."""
    source = yaml.safe_load((repository.root / "params.yaml").read_text())["data"]["source"]
    text = (repository.root / "dvc.yaml").read_text().replace("${data.source}", source).replace("${recipe}", recipe)
    stages = yaml.safe_load(text)["stages"]
    for definition in stages.values():
        definition["deps"] = [each for path in definition["deps"] for each in followed(repository.root, path)]
    return stages


def followed(root: Path, path: str) -> list[str]:
    links = sorted((root / path).iterdir()) if path.startswith("recipes/") else []
    return [str(link.resolve().relative_to(root.resolve())) for link in links] or [path]


def is_only_a_docstring(path: Path) -> bool:
    """Whether a file is the __init__ of a package in which nothing happens."""
    if path.name != "__init__.py":
        return False
    return all(
        isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) for each in ast.parse(path.read_text()).body
    )


def undeclared(stage: str, definition: dict, files: set[str]) -> set[str]:
    """Return the files that a stage opened and does not declare."""
    declared = [*definition["deps"]]
    for kind in ("outs", "metrics", "plots"):
        declared += [entry if isinstance(entry, str) else next(iter(entry)) for entry in definition.get(kind, [])]
    exempt = EXEMPT + (EXEMPT_IN_EVALUATE if stage == "evaluate" else ())
    return {
        name
        for name in files
        if "__pycache__" not in name
        and "." in Path(name).name  # a folder is opened to make a rename in it durable
        and not is_only_a_docstring(PROJECT / name)
        and not name.startswith(exempt)
        and not any(name == each or name.startswith(f"{each}/") for each in declared)
        and name not in ("dvc.yaml", "dvc.lock")  # for the MLflow run
    }


@pytest.mark.parametrize("recipe", ["lab", "linear"])
def test_every_file_that_a_stage_opens_is_declared(recipe: str, done: Repository, tmp_path: Path) -> None:
    stages = definitions(done, recipe)
    files = opened(done, tmp_path / "watch", recipe)
    assert set(files) == set(stages)
    for stage, definition in stages.items():
        assert undeclared(stage, definition, files[stage]) == set(), stage
        # The check is worth something only where each declared file of code that is opened turns it red when missing.
        for dependency in definition["deps"]:
            without = definition | {"deps": [each for each in definition["deps"] if each != dependency]}
            is_opened = any(name == dependency or name.startswith(f"{dependency}/") for name in files[stage])
            assert bool(undeclared(stage, without, files[stage])) == is_opened, dependency
            if dependency.startswith("src/samebits/") and not dependency.endswith(CHOSEN_BY_PARAMETERS):
                assert is_opened, f"{stage} depends on {dependency}, which it never opens"


def test_what_no_bit_depends_on_makes_nothing_stale(done: Repository) -> None:
    """A new part, an edit of one that the recipe does not use, a new recipe that shares a network, checks of parameters."""
    package = done.root / "src/samebits"
    for kind in parts.KINDS.values():
        (package / kind.folder / "new.py").write_text('"""A part that no recipe uses yet."""\n')
    for name in (
        "models/speed.py",
        "training/optimizers/muon.py",
        "evaluation/metrics/top_k.py",
        "params.py",
        "parts.py",
    ):
        with (package / name).open("a") as file:
            file.write("\n# An edit.\n")
    done.edit(lambda values: values["recipes"].update(twin=values["recipes"]["lab"]))
    done.run("samebits", "link", PYTHONPATH="src")
    assert (done.root / "recipes/twin/train/sgd.py").resolve() == package / "training/optimizers/sgd.py"
    pyproject = done.root / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("line-length = 120", "line-length = 100"))
    assert "up to date" in done.run("dvc", "status").stdout
    assert done.repro() == []
    done.run("python", "-m", "samebits.gate.lock_check")


@pytest.mark.parametrize(
    ("edited", "stages"),
    [
        ("models/lab.py", ["train", "evaluate"]),
        ("training/optimizers/sgd.py", ["train"]),
        ("evaluation/metrics/summary.py", ["evaluate"]),
    ],
)
def test_an_edit_of_a_part_runs_the_stages_that_use_it(edited: str, stages: list[str], done: Repository) -> None:
    with (done.root / "src/samebits" / edited).open("a") as file:
        file.write("\n# An edit.\n")
    assert done.repro("--dry") == stages


def test_a_link_that_a_recipe_no_longer_needs_is_told(tmp_path: Path) -> None:
    recipes = {"lab": params.load(PROJECT / "params.yaml").recipes["lab"]}
    recipe_links.create(tmp_path, recipes)
    assert recipe_links.unnamed(tmp_path, recipes) == []
    (tmp_path / "recipes/lab/train/adamw.py").symlink_to("../../../src/samebits/training/optimizers/adamw.py")
    assert recipe_links.unnamed(tmp_path, recipes) == [Path("recipes/lab/train/adamw.py")]


def test_the_recipes_link_what_they_use() -> None:
    recipes = params.load(PROJECT / "params.yaml").recipes
    assert recipe_links.missing(PROJECT, recipes) == {}
    links = {path.relative_to(PROJECT) for path in (PROJECT / "recipes").rglob("*") if path.is_symlink()}
    assert links == {link for name, recipe in recipes.items() for link in recipe_links.expected(name, recipe)}


def test_a_new_data_source_makes_nothing_stale(done: Repository) -> None:
    (done.root / "src/samebits/data/sources/npz.py").write_text('"""A data source that nobody uses yet."""\n')
    assert done.repro() == []
    folder = done.root / "src/samebits/data/sources/folder.py"
    folder.write_text(folder.read_text() + "\n# Another source than the one in use.\n")
    assert done.repro() == []
    shapes = done.root / "src/samebits/data/sources/shapes.py"
    shapes.write_text(shapes.read_text() + "\n# The source in use.\n")
    assert done.repro("--dry") == ["prepare"]


def test_only_one_module_imports_torchvision() -> None:
    importing = re.compile(r"^\s*(import|from) torchvision", re.MULTILINE)
    files = [path for folder in ("src", "stages") for path in (PROJECT / folder).rglob("*.py")]
    assert [path.name for path in files if importing.search(path.read_text())] == ["vision.py"]
