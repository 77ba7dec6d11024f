"""The user's own images: divided by content, refused with one line where they are no data set, a dependency of prepare."""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from samebits import params, quickstart
from samebits.data import normalization, prepared
from samebits.data.raw import RawDataset, RawSplit, mapped
from samebits.data.sources import folder
from samebits.errors import UserError
from tests.conftest import PROJECT, Repository
from tests.test_honest_dependencies import definitions, opened, undeclared

CLASSES = ("ant", "bee", "cat")


def draw(path: Path, number: int) -> None:
    """Draw a picture of an odd size that no other number gives."""
    random = np.random.default_rng(number)
    height, width = random.integers(10, 60, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def fill(root: Path, part: str = "train", each: int = 20, start: int = 0) -> None:
    for label, name in enumerate(CLASSES):
        for index in range(each):
            draw(root / part / name / f"{start + index}.png", 1000 * label + start + index)


def settings(**changes: object) -> params.Data:
    values = yaml.safe_load((PROJECT / "params.yaml").read_text())["data"]
    own = {key: changes.pop(key) for key in list(changes) if key in params.Folder.model_fields}
    return params.Data.model_validate(
        values | {"source": "folder", "image_size": 16} | changes | {"folder": values["folder"] | own}
    )


def read(root: Path, **changes: object) -> RawDataset:
    return folder.read(settings(path=str(root), **changes), Path())


def contents(split: RawSplit) -> set[bytes]:
    return {image.tobytes() for image in split.images[:]}


def test_the_layout_of_imagefolder(tmp_path: Path) -> None:
    for part, start in (("train", 0), ("validation", 100), ("test", 200)):
        fill(tmp_path, part, 4, start)
    (tmp_path / "train/bee/deeper").mkdir()
    shutil.move(tmp_path / "train/bee/0.png", tmp_path / "train/bee/deeper/0.png")
    raw = read(tmp_path)
    assert raw.class_names == CLASSES and raw.validation is not None
    for split in (raw.train, raw.validation, raw.test):
        assert split.images.shape == (12, 16, 16, 3)
        assert np.bincount(split.labels).tolist() == [4, 4, 4]
    assert len(set(raw.train.labels[:8])) > 1  # mixed, so that the first images show several classes


@pytest.mark.parametrize("name", ["val", "valid"])
def test_other_names_of_the_validation_images(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, each=15)
    fill(tmp_path, name, 4, 100)
    fill(tmp_path, "extra", 1, 200)
    raw = read(tmp_path, validation_percent=20)
    assert raw.validation is not None and len(raw.validation) == 12 and len(raw.train) + len(raw.test) == 45
    assert "ignored extra: the folders that count are train, validation, valid, val, test" in capfd.readouterr().err
    fill(tmp_path, "validation", 4, 300)
    with pytest.raises(UserError, match=f"has the folders validation and {name}, which all hold validation images"):
        read(tmp_path)


def test_added_images_move_none_between_splits(tmp_path: Path) -> None:
    fill(tmp_path, each=60)
    before = read(tmp_path, validation_percent=20)
    assert before.validation is not None
    parts = [contents(split) for split in (before.train, before.validation, before.test)]
    assert sum(map(len, parts)) == 180
    for part, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
        assert abs(len(part) - 180 * share) < 5 * (180 * share * (1 - share)) ** 0.5
    fill(tmp_path, each=60, start=500)
    for name in CLASSES:  # other names, other folders: the content decides
        (tmp_path / f"train/{name}/sub").mkdir()
        shutil.move(tmp_path / f"train/{name}/3.png", tmp_path / f"train/{name}/sub/renamed.png")
    after = read(tmp_path, validation_percent=20)
    assert after.validation is not None
    for part, split in zip(parts, (after.train, after.validation, after.test), strict=True):
        assert part < contents(split)
    other_seed = read(tmp_path, validation_percent=20, seed=1)
    assert contents(other_seed.test) != contents(after.test)


def test_the_order_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    fill(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "other/place")
    one, other = read(tmp_path / "one"), read(tmp_path / "other/place")
    assert np.array_equal(one.train.images[:], other.train.images[:])
    assert np.array_equal(one.train.labels, other.train.labels)


def test_copies_across_train_and_test_are_refused_unless_allowed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path)
    shutil.copy(tmp_path / "train/ant/1.png", tmp_path / "train/ant/copy.png")
    shutil.copy(tmp_path / "train/ant/2.png", tmp_path / "train/bee/copy.png")
    read(tmp_path)
    noted = capfd.readouterr().err
    assert "twice in one class, 1 in all" in noted and "in two classes, 1 in all" in noted
    fill(tmp_path, "test", 3, 100)
    shutil.copy(tmp_path / "train/cat/5.png", tmp_path / "test/cat/other.png")
    with pytest.raises(
        UserError, match=r"^the same file in two of training.*cat/(5|other)\.png = .*duplicates to allow"
    ):
        read(tmp_path)
    assert len(read(tmp_path, duplicates="allow").test) == 10
    assert "the same file in two of training" in capfd.readouterr().err


def test_broken_files_are_skipped_if_that_is_wanted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, each=15)
    whole = read(tmp_path)
    broken = [f"train/{name}/broken{number}.png" for name in CLASSES for number in range(4)]
    for name in broken:
        (tmp_path / name).write_text("x")
    with pytest.raises(
        UserError, match=r"^12 of 57 images are unusable: .*, \.\.\.: .* or set data\.folder\.broken to skip"
    ):
        read(tmp_path)
    raw = read(tmp_path, broken="skip")
    assert raw.skipped == tuple(broken) and whole.skipped == ()
    assert contents(raw.train) == contents(whole.train) and contents(raw.test) == contents(whole.test)
    assert "note: skipped 12 of 57 images: train/ant/broken0.png is not an image" in capfd.readouterr().err
    for path in (tmp_path / "train/ant").glob("[0-9]*.png"):
        path.write_text("x")
    with pytest.raises(UserError, match=r"and the skipped files leave no training image of ant \(0 in all\)"):
        read(tmp_path, broken="skip")


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: shutil.rmtree(root / name)


def keep_one(root: Path) -> None:
    for path in sorted((root / "train/bee").iterdir())[1:]:
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    {
        "nothing there": (remove(""), "is not a folder"),
        "no train": (remove("train"), "has no folder train"),
        "one class": (lambda root: [remove("train/ant")(root), remove("train/bee")(root)], "holds 1 class folders"),
        "empty class": (lambda root: (root / "train/dog").mkdir(), "train/dog holds no image"),
        "one image": (keep_one, r"leave no (test|training) image of bee \(1 in all\)"),
        "case": (lambda root: draw(root / "train/Bee/x.png", 77), "Bee and bee .* differ only in case"),
        "newline": (lambda root: draw(root / "train/a\nb/x.png", 77), r"a\\nb cannot be the name of a class"),
        "broken": (
            lambda root: [(root / f"train/cat/{index}.png").write_text("x") for index in (1, 2)],
            r"2 of 60 images are unusable: train/cat/\d\.png is not an image.*, train/cat/\d\.png is not an image",
        ),
        "test lacks a class": (lambda root: draw(root / "test/ant/x.png", 77), "test has no folder for bee, cat"),
        "test knows more": (
            lambda root: [draw(root / f"test/{name}/x.png", 77) for name in (*CLASSES, "dog")],
            "test has a folder for dog",
        ),
    }.values(),
)
def test_what_is_no_data_set_is_one_line(spoil: Callable[[Path], object], expected: str, tmp_path: Path) -> None:
    root = tmp_path / "images"
    fill(root)
    spoil(root)
    with pytest.raises(UserError) as caught:
        read(root)
    assert re.search(expected, str(caught.value)) and "\n" not in str(caught.value)


def test_hidden_files_and_other_files_are_passed_over_with_a_note(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path)
    for name in ("train/ant/.DS_Store", "train/ant/Thumbs.db", "train/readme.md", "train/.git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    raw = read(tmp_path)
    assert len(raw.train) + len(raw.test) == 60
    line = capfd.readouterr().err
    assert "1 hidden" in line and "1 .db" in line and "1 outside of a class" in line


def test_num_validation_is_for_the_other_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.num_validation is 5: must be 0"):
        read(tmp_path, num_validation=5)


def test_streamed_files_are_those_of_safetensors_itself(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2500, 9, 7, 3), dtype=np.uint8)
    file = tempfile.TemporaryFile(dir=tmp_path)  # noqa: SIM115
    file.write(images.tobytes())
    on_disk = mapped(file, images.shape)
    assert on_disk.shape == images.shape and np.array_equal(on_disk[10:20], images[10:20])
    assert np.array_equal(on_disk[np.array([7, 3])], images[[7, 3]])
    labels = random.integers(0, 2, 2500)
    found = normalization.of_images("per_channel", on_disk)
    assert found == normalization.of_images("per_channel", images)
    description = prepared.Description("folder", ("größer", 'a"b'), (3, 9, 7), found)
    empty = RawSplit(images[:0], labels[:0])
    splits = {"train": RawSplit(on_disk, labels), "validation": empty, "test": empty}
    prepared.write(tmp_path, description, splits)
    assert "skipped" not in (tmp_path / prepared.DESCRIPTION).read_text()
    for name in prepared.SPLITS:
        path = tmp_path / name / "0000.part"
        with safe_open(path, framework="np") as file:
            save_file(load_file(path), tmp_path / "again", file.metadata())
        assert path.read_bytes() == (tmp_path / "again").read_bytes()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest in (tmp_path / prepared.DESCRIPTION).read_text()


def use_folder(repository: Repository, path: str) -> None:
    repository.edit(lambda values: values["data"].update(source="folder", path=path, image_size=20))


def test_an_absolute_path_is_a_dependency(fresh: Repository, tmp_path: Path) -> None:
    images = tmp_path / "images"
    fill(images)
    use_folder(fresh, str(images))
    assert fresh.repro("prepare") == ["prepare"]
    assert fresh.repro("prepare") == []
    (images / "train/ant/0.png").unlink()
    assert fresh.repro("prepare") == ["prepare"]
    draw(images / "train/ant/0.png", 0)
    assert fresh.repro("prepare") == []  # what was there before comes from the cache
    draw(images / "train/ant/1.png", 99)
    assert fresh.repro("--dry", "prepare") == ["prepare"]
    draw(images / "train/ant/1.png", 1)
    assert fresh.repro("--dry", "prepare") == []
    draw(images / "train/ant/new.png", 98)
    assert fresh.repro("--dry", "prepare") == ["prepare"]


def test_a_folder_tracked_by_dvc_works_in_temporary_experiments(fresh: Repository) -> None:
    fill(fresh.root / "data/images")
    use_folder(fresh, "data/images/")  # as a shell completes it
    (fresh.root / "data/images/train/ant/broken.png").touch()
    fresh.run("dvc", "add", "--quiet", "data/images")
    fresh.commit("own images")
    skip = ("-S", "+data.folder.broken=skip")
    output = fresh.run("dvc", "exp", "run", "--temp", "--name", "own", *skip, "prepare").stdout
    assert "Running stage 'prepare'" in output
    described = fresh.run("dvc", "get", ".", "data/prepared/dataset.json", "--rev", "own", "--out", "own.json")
    assert described.returncode == 0
    values = json.loads((fresh.root / "own.json").read_text())
    assert "ant" in values["class_names"] and values["skipped"] == ["train/ant/broken.png"]


def test_a_folder_that_does_not_exist_is_one_line(fresh: Repository) -> None:
    use_folder(fresh, "/nowhere/images")
    with pytest.raises(UserError, match=r"params\.yaml: data\.path is /nowhere/images, which does not exist"):
        quickstart.run(fresh.root)
    failed = fresh.run("dvc", "repro", ok=False)
    assert "[Errno 2]" in failed.stderr and "/nowhere/images" in failed.stderr


def test_every_file_that_prepare_opens_is_declared(fresh: Repository, tmp_path: Path) -> None:
    fill(tmp_path / "images", each=50)  # enough for several processes
    use_folder(fresh, str(tmp_path / "images"))
    files = opened(fresh, tmp_path / "watch", "linear", "prepare")
    assert {f"src/samebits/data/{name}.py" for name in ("decoding", "image_files", "images")} <= files["prepare"]
    assert undeclared("prepare", definitions(fresh, "linear")["prepare"], files["prepare"]) == set()


def test_the_other_sources_depend_on_nothing_there(done: Repository) -> None:
    (done.root / "data/raw/cifar-10-batches-py").mkdir()
    (done.root / "data/raw/cifar-10-batches-py/data_batch_1").touch()
    (done.root / "data/raw/cifar-10-python.tar.gz").touch()
    assert done.repro() == []
    assert done.status() == ""
