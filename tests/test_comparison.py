"""`samebits compare` on real git and DVC repositories: what is compared, what is said, what is refused."""

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from samebits import paths
from samebits.comparison import outcome, predicted, selection
from samebits.comparison.outcome import NetworkComparison, SeedComparison
from samebits.errors import UserError
from samebits.evaluation import predictions
from samebits.evaluation.predictions import Predictions
from tests.conftest import Repository, built_once, copy_tree
from tests.test_folder import draw, fill, use_folder

PREDICTIONS = "data/evaluation/predictions.csv"
NUM_IMAGES = 400


def write_result(repository: Repository, seed: int, momentum: float, accuracy: float) -> None:
    """Put a result into the workspace: parameters, and predictions that are right with a probability of `accuracy`."""

    def change(values: dict) -> None:
        values["seed"] = seed
        values["recipes"]["lab"]["train"]["optimizer"]["momentum"] = momentum

    repository.edit(change)
    random = np.random.default_rng([seed, int(100 * accuracy)])
    names = tuple(predictions.read((repository.root / PREDICTIONS).read_bytes(), "").class_names)
    labels = np.arange(NUM_IMAGES) % len(names)
    answers = np.where(random.random(NUM_IMAGES) < accuracy, labels, (labels + 1) % len(names))
    probabilities = np.full((NUM_IMAGES, len(names)), 0.02, dtype=np.float32)
    probabilities[np.arange(NUM_IMAGES), answers] = 0.82
    (repository.root / PREDICTIONS).unlink()
    predictions.write(repository.root / PREDICTIONS, Predictions(names, probabilities, labels))


@pytest.fixture(scope="session")
def family_template(done_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experiments slow-0 to slow-2 and fast-0 to fast-2, which differ in momentum and seed; main is slow with seed 0."""

    def build(root: Path) -> None:
        copy_tree(done_template, root)
        repository = Repository(root)
        for name, momentum, accuracy in (("fast", 0.8, 0.75), ("slow", 0.9, 0.55)):
            for seed in (2, 1, 0):
                write_result(repository, seed, momentum, accuracy + 0.01 * seed)
                repository.run("dvc", "exp", "save", "--force", "--name", f"{name}-{seed}")
        repository.commit("slow, seed 0")

    return built_once(tmp_path_factory, "family", build)


@pytest.fixture(scope="module")
def family(family_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    root = tmp_path_factory.mktemp("family") / "samebits"
    copy_tree(family_template, root)
    return Repository(root)


def refused(repository: Repository, *arguments: str) -> str:
    """Run a comparison that has to fail with one line and exit code 2; give the line."""
    failed = repository.run("samebits", "compare", *arguments, ok=False)
    assert failed.returncode == 2 and failed.stdout == ""
    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def refusal(repository: Repository, a: str, b: str, with_seeds: bool = False) -> str:
    """Return the one line with which a comparison is refused."""
    with pytest.raises(UserError) as error:
        outcome.compare(repository.root, a, b, with_seeds)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_two_networks_in_every_form(family: Repository) -> None:
    before = family.status(), (family.root / "dvc.lock").read_bytes(), (family.root / PREDICTIONS).read_bytes()
    shown = family.run("samebits", "compare", "main", "fast-0")
    assert "B differs in: train.optimizer.momentum 0.9 → 0.8" in shown.stdout
    assert "On these 400 images network B is right on " in shown.stdout
    assert "Whether the change caused it, one training per side cannot tell: run more seeds." in shown.stdout
    assert "accuracy, %" in shown.stdout and "p (Holm)" in shown.stdout and "crescent" in shown.stdout

    values = json.loads(family.run("samebits", "compare", "main", "fast-0", "--json").stdout)
    assert values["kind"] == "networks" and values["verdict"] in shown.stdout
    accuracy = values["accuracy"]
    assert accuracy["only_b"] - accuracy["only_a"] == pytest.approx(NUM_IMAGES * accuracy["difference"]["value"])
    assert accuracy["difference"]["low"] > 0 and accuracy["is_significant"] and accuracy["p"] < 0.05
    assert len(values["per_class"]) == 10 and values["a"]["parameters"]["train.optimizer.momentum"] == "0.9"

    markdown = family.run("samebits", "compare", "main", "fast-0", "--markdown").stdout
    assert "| accuracy, %" in markdown and "<details>" in markdown and markdown.startswith("**On these 400 images")
    assert before == (
        family.status(),
        (family.root / "dvc.lock").read_bytes(),
        (family.root / PREDICTIONS).read_bytes(),
    )


def test_worse_is_an_exit_code(family: Repository) -> None:
    compared = ("samebits", "compare", "fast-0", "slow-0", "--json")
    assert family.run(*compared, "--fail-if-worse", ok=False).returncode == 1
    assert family.run(*compared, "--fail-if-worse", "50").returncode == 0
    assert family.run("samebits", "compare", "slow-0", "fast-0", "--fail-if-worse").returncode == 0
    for points in ("-3", "300", "nan", "few"):
        wrong = family.run(*compared, "--fail-if-worse", points, ok=False)
        assert wrong.returncode == 2 and wrong.stdout == "" and len(wrong.stderr.splitlines()) == 1
        assert "percentage points" in wrong.stderr or points in ("-3", "few")


def test_groups_of_seeds_by_pattern(family: Repository) -> None:
    compared = outcome.compare(family.root, "slow-*", "fast-?", False)
    assert isinstance(compared, SeedComparison)
    assert [result.revision.name for result in compared.a] == ["slow-0", "slow-1", "slow-2"]
    assert compared.accuracy.p is not None and compared.accuracy.p < 0.05
    assert compared.verdict.startswith("B is better by ") and compared.differences == [
        "train.optimizer.momentum 0.9 → 0.8"
    ]
    assert not outcome.is_worse(compared, 0)
    turned = outcome.compare(family.root, "fast-*", "slow-*", False)
    assert turned.verdict.startswith("B is worse by ") and outcome.is_worse(turned, 0)
    assert not outcome.is_worse(turned, 60)


def test_groups_of_seeds_found_by_themselves(family: Repository) -> None:
    compared = outcome.compare(family.root, "main", "fast-1", True)
    assert isinstance(compared, SeedComparison)
    assert [predicted.seed(result.revision) for result in compared.a] == ["0", "1", "2"]
    assert compared.a[0].revision.name == "main"  # and not slow-0, the same training once more
    assert [result.revision.name for result in compared.b] == ["fast-0", "fast-1", "fast-2"]
    assert "with --seeds they are one group" in refusal(family, "slow-0", "slow-1", True)


def test_too_few_seeds_are_said_to_be_too_few(family: Repository) -> None:
    compared = outcome.compare(family.root, "slow-0", "fast-*", False)
    assert "1 training against 3 are too few" in compared.verdict and not outcome.is_worse(compared, 0)


def test_two_seeds_of_one_recipe_never_speak_of_a_recipe(family: Repository) -> None:
    compared = outcome.compare(family.root, "slow-0", "slow-1", False)
    assert isinstance(compared, NetworkComparison) and compared.differences == []
    assert "nothing but the seed" in compared.verdict and "recipe" not in compared.verdict


def test_the_workspace_is_compared_as_it_is_recorded(family: Repository) -> None:
    compared = outcome.compare(family.root, "fast-0", "workspace", False)
    main = outcome.compare(family.root, "fast-0", "main", False)
    assert isinstance(compared, NetworkComparison) and isinstance(main, NetworkComparison)
    assert compared.accuracy == main.accuracy and compared.verdict == main.verdict


def test_the_workspace_is_no_part_of_the_group_of_its_commit(family: Repository, tmp_path: Path) -> None:
    copy_tree(family.root, tmp_path / "samebits")
    repository = Repository(tmp_path / "samebits")
    repository.run("dvc", "exp", "apply", "fast-0")
    compared = outcome.compare(repository.root, "main", "workspace", True)
    assert isinstance(compared, SeedComparison)
    assert [[predicted.seed(each.revision) for each in group] for group in (compared.a, compared.b)] == [
        ["0", "1", "2"],
        ["0", "1", "2"],
    ]
    assert compared.b[0].revision.name == "workspace"


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("main", "main"), "are the same result"),
        (("main", "no-such-name"), "no-such-name is no revision of"),
        (("nothing-*", "main"), "no experiment's name matches nothing-*"),
        (("*", "main"), "is no group of seeds: "),
        (("slow-*", "slow-*"), "have slow-0"),
        (("slow-*", "slow-1"), "have slow-1"),
    ],
)
def test_a_choice_that_makes_no_sense_is_one_line(
    family: Repository, arguments: tuple[str, str], expected: str
) -> None:
    assert expected in refusal(family, *arguments)


def test_a_revision_without_a_result_is_one_line(family: Repository, fresh: Repository) -> None:
    assert "main has no dvc.lock" in refused(fresh, "main", "workspace").replace(f" ({head(fresh)})", "")
    family.run("git", "branch", "--force", "old", "main")
    lock = yaml.safe_load((family.root / "dvc.lock").read_text())
    lock["stages"]["evaluate"]["outs"] = [o for o in lock["stages"]["evaluate"]["outs"] if o["path"] != PREDICTIONS]
    commit_file(family, "without", "dvc.lock", yaml.safe_dump(lock))
    assert f"records no {PREDICTIONS}" in refusal(family, "main", "without")
    # evaluate has not run since the training: its predictions are of another network.
    lock = yaml.safe_load((family.root / "dvc.lock").read_text())
    (checkpoint,) = [out for out in lock["stages"]["train"]["outs"] if out["path"].endswith(".safetensors")]
    checkpoint["md5"] = "0" * 32
    commit_file(family, "half", "dvc.lock", yaml.safe_dump(lock))
    assert "records no complete result (evaluate): run `dvc repro`" in refusal(family, "main", "half")


def test_other_classes_and_other_test_sets_are_refused(family: Repository) -> None:
    table = predictions.read((family.root / PREDICTIONS).read_bytes(), "")
    names = ("dodecahedron", *table.class_names[1:])
    fewer = {"probabilities": table.probabilities[:300], "labels": table.labels[:300]}
    for name, change, expected in (
        ("classes", {"class_names": names}, "have different classes: disc, dodecahedron"),
        ("order", {"class_names": table.class_names[::-1]}, "different classes by their order"),
        ("shifted", {"labels": np.roll(table.labels, 1)}, "have different test sets"),
        ("fewer", fewer, "have different test sets: 400 images and 300"),
    ):
        save_predictions(family, f"other-{name}", replace(table, **change))
        assert expected in refusal(family, "main", f"other-{name}")


@pytest.mark.usefixtures("untracked")
def test_own_images_are_told_apart_whatever_else_differs(fresh: Repository, tmp_path: Path) -> None:
    images = tmp_path / "images"
    use_folder(fresh, str(images))
    for part in ("train", "test"):
        fill(images, part, 8, 10 if part == "test" else 0)
    for name, learning_rate in (("main", 0.001), ("replaced", 0.002)):
        if name == "replaced":  # by others of the same names, so that counts, classes and order stay
            for number, path in enumerate(sorted(images.rglob("*.png"))):
                draw(path, 10_000 + number)
        fresh.edit(
            lambda values, rate=learning_rate: values["recipes"]["lab"]["train"]["optimizer"].update(learning_rate=rate)
        )
        fresh.repro()
        fresh.run("git", "checkout", "--quiet", "-B", name)
        fresh.commit(name)
    assert "have different test sets" in refused(fresh, "main", "replaced")
    first, other = (selection.find(fresh.root, name) for name in ("main", "replaced"))
    expected = ["train.optimizer.learning_rate 0.001 → 0.002", str(images), paths.DATASET]
    assert predicted.differences(first, other) == expected

    a, b = predicted.load(first), predicted.load(other)
    assert (a.predictions.labels == b.predictions.labels).all() and a.description != b.description
    predicted.require_same_test([a, replace(b, test_sha256=a.test_sha256)])
    # Results of earlier versions have no such hash.
    a, b = replace(a, test_sha256=None), replace(b, test_sha256=None)
    with pytest.raises(UserError, match=r"^main .* may have different test images.*Run `dvc repro` with this version"):
        predicted.require_same_test([a, b])
    with pytest.raises(UserError, match="have different test sets"):  # normalized the same way, so their files decide
        predicted.require_same_test([a, replace(b, description=a.description)])
    for source, seed, is_same in (("cifar10", "7", True), ("shapes", "0", True), ("shapes", "7", False)):
        pair = [replace(each, description=replace(each.description, source=source)) for each in (a, b)]
        pair[1] = replace(pair[1], parameters=pair[1].parameters | {"data.seed": seed})
        with contextlib.nullcontext() if is_same else pytest.raises(UserError, match="have different test sets"):
            predicted.require_same_test(pair)


def test_what_is_missing_comes_from_the_remote_or_is_named(family: Repository, tmp_path: Path) -> None:
    root = tmp_path / "samebits"
    copy_tree(family.root, root)
    repository = Repository(root)
    repository.run("dvc", "remote", "add", "--default", "team", str(tmp_path / "remote"))
    repository.run("dvc", "push", "--all-branches")
    expected = outcome.compare(root, "fast-0", "main", False).verdict
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    (md5,) = [out["md5"] for out in lock["stages"]["evaluate"]["outs"] if out["path"] == PREDICTIONS]
    cached = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    cached.chmod(0o644)
    cached.unlink()
    (root / PREDICTIONS).unlink()
    assert outcome.compare(root, "fast-0", "main", False).verdict == expected
    assert not (root / PREDICTIONS).exists()
    cached.unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "remote")
    assert "neither in DVC's cache nor on its remote" in refusal(repository, "fast-0", "main")
    assert "run `dvc pull` or `dvc repro`" in refusal(repository, "fast-0", "workspace")


@pytest.mark.parametrize(
    "damage, expected",
    [
        (lambda lines: lines[:3] + lines[4:], "has no row for image 2"),
        (lambda lines: [*lines, lines[3]], "has several rows for image 2"),
        (lambda lines: [*lines[:2], lines[2].rpartition(",")[0] + ",nan", *lines[3:]], "of image 1 is no number"),
        (lambda lines: [*lines[:2], lines[2].rpartition(",")[0] + ",", *lines[3:]], "of image 1 is no number"),
        (lambda lines: [*lines[:2], lines[2].rpartition(",")[0] + ",1.5", *lines[3:]], "of image 1 is no number"),
        (lambda lines: [*lines[:2], lines[2].rpartition(",")[0] + ",1.0", *lines[3:]], "not its most probable class"),
        (
            lambda lines: [*lines[:2], lines[2].replace(lines[2].split(",")[1], "yeti", 1)],
            "'yeti' is none of its classes",
        ),
        (lambda lines: lines[:1], "has no rows"),
        (
            lambda lines: ["index,true", *(",".join(line.split(",")[:2]) for line in lines[1:])],
            "is none of its classes",
        ),
        (lambda lines: ["a,b", "1,2"], "is not a table of predictions"),
        (lambda lines: [], "is not a table of predictions"),
        (lambda lines: [*lines, "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16"], "is not a table of predictions"),
        (lambda lines: [*lines[:2], lines[2].replace("1,", "1.5,", 1), *lines[3:]], "is not a table of predictions"),
    ],
)
def test_damaged_predictions_are_one_line(family: Repository, damage, expected: str) -> None:
    lines = (family.root / PREDICTIONS).read_text().splitlines()
    with pytest.raises(UserError, match=f"^the table.*{expected}") as error:
        predictions.read("\n".join(damage(lines)).encode(), "the table")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="not a table"):
        predictions.read(b"index,true,predicted\n\xff\xfe,a,b\n", "the table")


def test_predictions_are_read_back_as_they_were(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(3), 50).astype(np.float32)
    labels, names = random.integers(0, 3, 50), ("NA", "nan", "a, b")
    predictions.write(tmp_path / "table.csv", Predictions(names, probabilities, labels))
    table = predictions.read((tmp_path / "table.csv").read_bytes(), "")
    assert table.class_names == names
    assert (table.probabilities == probabilities).all() and (table.labels == labels).all()


def head(repository: Repository) -> str:
    return repository.run("git", "rev-parse", "--short=7", "HEAD").stdout.strip()


def commit_file(repository: Repository, branch: str, path: str, content: str) -> None:
    """Make a branch on which one file is otherwise, without touching the workspace."""
    clone = repository.root.parent / f"clone-{branch}"
    repository.run("git", "clone", "--quiet", str(repository.root), str(clone))
    (clone / path).write_text(content)
    other = Repository(clone)
    other.commit(branch)
    other.run("git", "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}")
    shutil.rmtree(clone)


def save_predictions(repository: Repository, branch: str, table: Predictions) -> None:
    """Make a branch whose recorded predictions are others, and put them into DVC's cache."""
    import hashlib

    path = repository.root.parent / "predictions.csv"
    predictions.write(path, table)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    cached = repository.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    cached.parent.mkdir(parents=True, exist_ok=True)
    lock = yaml.safe_load((repository.root / "dvc.lock").read_text())
    for out in lock["stages"]["evaluate"]["outs"]:
        if out["path"] == PREDICTIONS:
            out |= {"md5": md5, "size": path.stat().st_size}
    path.rename(cached)
    commit_file(repository, branch, "dvc.lock", yaml.safe_dump(lock))
