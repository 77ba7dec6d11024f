"""From images to normalized tensors on disk: exact statistics, exact pixels, the same bytes everywhere, no half files."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
from safetensors import safe_open

from samebits import atomic, portability
from samebits.data import normalization, prepared, splits
from samebits.data.normalization import Normalization
from samebits.data.raw import RawSplit
from samebits.data.sources import shapes
from samebits.errors import UserError
from tests.conftest import Repository, copy_tree
from tests.test_cifar10 import NEEDS_MOUNT, as_nobody, listing, small_disk

KINDS = ("per_channel", "half", "none")
NUM_VALIDATION = 100
PROCESSOR_FEATURES = [name for name in __cpu_dispatch__ if __cpu_features__[name]]
# Of this process conftest has switched off those of AVX-512.
AVX512 = [name for name in portability.SETTINGS["NPY_DISABLE_CPU_FEATURES"].split() if name in __cpu_dispatch__]
FILES = ["dataset.json", "test/0000.part", "train/0000.part", "validation/0000.part"]


def random_images(num_images: int, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (num_images, 32, 32, 3), dtype=np.uint8)


def one_pixel_differs() -> np.ndarray:
    images = np.full((60, 32, 32, 3), 255, dtype=np.uint8)
    images[7, 8, 9] = 254
    return images


def all_values() -> np.ndarray:
    return np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)


IMAGES: dict[str, Callable[[], np.ndarray]] = {
    "random": lambda: random_images(50),
    "bright": lambda: random_images(50, 254, 256),
    "dark": lambda: random_images(50, 0, 2),
    "black and white": lambda: random_images(50, 0, 2) * np.uint8(255),
    "one pixel differs": one_pixel_differs,
    "every value": all_values,
    "drawn": lambda: shapes.draw(50, 0, "train")[0],
    "not square, not colour": lambda: random_images(50)[:, :7, :5, :1].copy(),
    "more than a chunk": lambda: random_images(1001),
}


def a_split(num_images: int, seed: int = 0) -> RawSplit:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8)
    return RawSplit(images, random.integers(0, 10, num_images))


def describe(images: np.ndarray) -> prepared.Description:
    return prepared.Description("random", tuple("abcdefghij"), (3, 32, 32), normalization.of_images("half", images))


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


# ---- normalization ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES)
def test_statistics_are_those_of_numpy(name: str) -> None:
    images = IMAGES[name]()
    x = images / 255  # float64
    moments = normalization.of_images("per_channel", images)
    np.testing.assert_allclose(moments.mean, x.mean(axis=(0, 1, 2)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(moments.std, x.std(axis=(0, 1, 2)), rtol=0, atol=1e-12)


def test_statistics_do_not_depend_on_the_order_of_the_images() -> None:
    images = random_images(2500)
    moments = normalization.of_images("per_channel", images)
    assert normalization.of_images("per_channel", images[::-1]) == moments
    assert normalization.of_images("per_channel", np.asfortranarray(images)) == moments


def test_half_and_none_are_fixed() -> None:
    assert normalization.of_images("half", random_images(2)) == Normalization((0.5,) * 3, (0.5,) * 3)
    assert normalization.of_images("none", random_images(2)) == Normalization((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", IMAGES)
def test_z_is_rounded_once_and_gives_the_pixels_back(name: str, kind: str) -> None:
    images = IMAGES[name]()
    moments = normalization.of_images(kind, images)
    # Other images as well: a test image may hold values that no training image has.
    everything = np.arange(256, dtype=np.uint8).repeat(images.shape[-1]).reshape(1, 16, 16, -1)
    for some in (images, everything):
        normalized = moments.apply(some)
        assert normalized.dtype == np.float16 and np.isfinite(normalized).all()
        mean, std = (np.array(values) for values in (moments.mean, moments.std))
        expected = ((some / 255 - mean) / std).astype(np.float16).transpose(0, 3, 1, 2)
        assert np.array_equal(normalized, expected)
        assert np.array_equal(moments.pixels(normalized), some)


@pytest.mark.parametrize("num_different", [0, 1])
def test_a_channel_that_never_varies_is_one_line(num_different: int) -> None:
    images = random_images(100)
    images[..., 1] = 17
    images[:num_different, 0, 0, 1] = 18  # float16 could not hold the other values
    with pytest.raises(UserError) as caught:
        normalization.of_images("per_channel", images)
    line = str(caught.value)
    assert "channel 1 " in line and "data.normalization" in line and "half or none" in line and "\n" not in line
    assert normalization.of_images("half", images).mean == (0.5,) * 3


# ---- the validation split --------------------------------------------------------------------------------------------


def uneven() -> RawSplit:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(4), [100, 51, 7, 2]))
    return RawSplit(np.arange(160, dtype=np.uint8).reshape(160, 1, 1, 1), labels)


def test_each_class_gives_its_share_and_both_parts_keep_the_order() -> None:
    whole = uneven()
    train, validation = splits.cut_validation(whole, 40, seed=0)
    # A quarter of 100, 51, 7 and 2: 25, 12.75, 1.75 and 0.5.
    assert np.bincount(validation.labels, minlength=4).tolist() == [25, 13, 2, 0]
    positions = [part.images[:, 0, 0, 0].tolist() for part in (train, validation)]
    assert positions == [sorted(positions[0]), sorted(positions[1])]
    assert sorted(positions[0] + positions[1]) == list(range(160))
    for part in (train, validation):
        assert np.array_equal(part.labels, whole.labels[part.images[:, 0, 0, 0]])


@pytest.mark.parametrize("num_validation", [1, 9, 10, 11, 99, 390])
def test_shares_of_equal_classes_differ_by_one_at_most(num_validation: int) -> None:
    whole = RawSplit(random_images(400), np.arange(400) % 10)
    train, validation = splits.cut_validation(whole, num_validation, seed=3)
    assert len(validation) == num_validation and len(train) == 400 - num_validation
    counts = np.bincount(validation.labels, minlength=10)
    assert counts.max() - counts.min() <= 1


def test_the_seed_decides_the_split() -> None:
    parts = [splits.cut_validation(uneven(), 40, seed)[1].images.tobytes() for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_no_validation_images_leave_all_for_training() -> None:
    train, validation = splits.cut_validation(uneven(), 0, seed=0)
    assert np.array_equal(train.images, uneven().images)
    assert len(validation) == 0 and validation.images.shape == (0, 1, 1, 1)


@pytest.mark.parametrize("num_validation", [391, 399, 400, 401, 10**9, 10**30])
def test_too_many_validation_images_are_one_line(num_validation: int) -> None:
    whole = RawSplit(random_images(400), np.arange(400) % 10)
    with pytest.raises(UserError) as caught:
        splits.cut_validation(whole, num_validation, seed=0)
    assert str(caught.value) == (
        f"params.yaml: data.num_validation is {num_validation}: must leave at least one training image of each class "
        "(400 images in 10 classes)"
    )


# ---- the stage -------------------------------------------------------------------------------------------------------


def copy_of(template: Path, root: Path) -> Repository:
    copy_tree(template, root)
    repository = Repository(root)
    repository.edit(lambda values: values["data"].update(num_validation=NUM_VALIDATION))
    return repository


@pytest.fixture(scope="module")
def result(fresh_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage writes on 400 drawn training images, 100 of them cut for validation, and 100 test images."""
    repository = copy_of(fresh_template, tmp_path_factory.mktemp("prepared") / "samebits")
    done = repository.run("python", "stages/prepare.py")
    assert done.stderr == ""
    assert done.stdout.startswith("shapes: 300 train, 100 validation, 100 test images; per_channel: mean (")
    assert done.stdout.count("\n") == 1
    return repository.root / "data"


def test_the_stage_writes_these_files_and_no_others(result: Path) -> None:
    written = [name for name in listing(result) if (result / name).is_file() and name != ".gitignore"]
    assert written == ["plots/samples.png", *(f"prepared/{name}" for name in FILES), "raw/README.md"]


def test_statistics_are_of_the_training_images_alone_and_normalize_every_split(result: Path) -> None:
    whole = RawSplit(*shapes.draw(400, 0, "train"))
    train, validation = splits.cut_validation(whole, NUM_VALIDATION, seed=0)
    mean, std = ((train.images / 255).mean(axis=(0, 1, 2)), (train.images / 255).std(axis=(0, 1, 2)))
    found = prepared.read_description(result / "prepared").normalization
    np.testing.assert_allclose(found.mean, mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.std, std, rtol=0, atol=1e-12)
    parts = {"train": train, "validation": validation, "test": RawSplit(*shapes.draw(100, 0, "test"))}
    for name, part in parts.items():
        split = prepared.read_split(result / "prepared", name)
        z = ((part.images / 255 - mean) / std).transpose(0, 3, 1, 2)
        # Once rounded to 11 bits.
        np.testing.assert_allclose(split.images.double().numpy(), z, rtol=2**-11, atol=2**-24)
        assert np.array_equal(found.pixels(split.images.numpy()), part.images)
        assert np.array_equal(split.labels.numpy(), part.labels)
        assert len(split) == len(part)


def test_the_tensors_are_float16_and_say_what_they_are(result: Path) -> None:
    recorded = json.loads((result / "prepared/dataset.json").read_text())
    for name, number in {"train": 300, "validation": 100, "test": 100}.items():
        path = result / f"prepared/{name}/0000.part"  # the only part, so the whole file
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["samebits"])
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
        assert images.shape == (number, 3, 32, 32) and images.dtype == torch.float16
        assert labels.shape == (number,) and labels.dtype == torch.int64
        description = prepared.Description.from_json(metadata)
        assert description == prepared.read_description(result / "prepared")
        assert description.source == "shapes" and description.class_names == shapes.CLASS_NAMES
        assert len(description.normalization.mean) == len(description.normalization.std) == 3
        assert recorded["num_images"][name] == number
        assert recorded["sha256"][name] == hashlib.sha256(path.read_bytes()).hexdigest()
        raw = description.normalization.pixels(images.numpy()).tobytes() + labels.numpy().astype("<i8").tobytes()
        assert recorded["raw_sha256"][name] == hashlib.sha256(raw).hexdigest()


# Processors that this one can stand for, and the number of threads.
MACHINES = {
    "AVX2, one thread": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "NPY_DISABLE_CPU_FEATURES": " ".join(AVX512),
        "OMP_NUM_THREADS": "1",
    },
    "no vectors, two threads": {
        "ATEN_CPU_CAPABILITY": "default",
        "NPY_DISABLE_CPU_FEATURES": " ".join([*PROCESSOR_FEATURES, *AVX512]),
        "OMP_NUM_THREADS": "2",
    },
}


@pytest.mark.parametrize("machine", MACHINES)
def test_other_processors_and_folders_write_the_same_bytes(
    machine: str, result: Path, fresh_template: Path, tmp_path: Path
) -> None:
    repository = copy_of(fresh_template, tmp_path / machine / "a clone")
    done = repository.run("python", "stages/prepare.py", **MACHINES[machine])
    assert done.stderr == ""  # NumPy would say there which feature it cannot disable
    assert digests(repository.root / "data/prepared") == digests(result / "prepared")
    assert digests(repository.root / "data/plots") == digests(result / "plots")


def test_the_real_stage_prepares_cifar10(fresh: Repository) -> None:
    folder = os.environ.get("SAMEBITS_TEST_DATA")
    if not folder:
        pytest.skip("SAMEBITS_TEST_DATA does not name a folder that holds CIFAR-10")
    fresh.edit(lambda values: values["data"].update(source="cifar10"))
    fresh.run("python", "stages/prepare.py", SAMEBITS_DATA=str(Path(folder).resolve()))
    description = prepared.read_description(fresh.root / "data/prepared")
    assert [round(value, 4) for value in description.normalization.mean] == [0.4914, 0.4822, 0.4465]
    assert [round(value, 4) for value in description.normalization.std] == [0.2470, 0.2435, 0.2616]
    assert len(prepared.read_split(fresh.root / "data/prepared", "test")) == 10_000
    assert listing(fresh.root / "data/raw") == ["README.md"]


# ---- whole or not at all ---------------------------------------------------------------------------------------------

# Writes a data set of grey images again and again; the system kills it in a file longer than it may write.
WRITING = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from samebits.data import normalization, prepared, raw
if sys.argv[2:]:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
grey = raw.RawSplit(np.full((4000, 32, 32, 3), 77, dtype=np.uint8), np.arange(4000) % 10)
moments = normalization.of_images("half", grey.images)
description = prepared.Description("grey", tuple("abcdefghij"), (3, 32, 32), moments)
while True:
    prepared.write(Path(sys.argv[1]), description, dict.fromkeys(prepared.SPLITS, grey))
"""


def start_writing(folder: Path, *max_bytes: str) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", WRITING, str(folder), *max_bytes], env=environment)


def test_a_process_killed_in_the_middle_of_a_file_leaves_the_old_one(tmp_path: Path) -> None:
    part = a_split(20)
    prepared.write(tmp_path, describe(part.images), dict.fromkeys(prepared.SPLITS, part))
    before = digests(tmp_path)
    assert start_writing(tmp_path, "1000000").wait(timeout=60) == -signal.SIGXFSZ
    assert {name: digest for name, digest in digests(tmp_path).items() if name in FILES} == before


def test_a_killed_write_leaves_no_half_file(tmp_path: Path) -> None:
    grey = RawSplit(np.full((4000, 32, 32, 3), 77, dtype=np.uint8), np.arange(4000) % 10)
    moments = normalization.of_images("half", grey.images)
    description = prepared.Description("grey", tuple("abcdefghij"), (3, 32, 32), moments)
    parts = dict.fromkeys(prepared.SPLITS, grey)
    prepared.write(tmp_path / "reference", description, parts)
    expected = digests(tmp_path / "reference")
    sizes = {name: (tmp_path / "reference" / name).stat().st_size for name in FILES}
    folder = tmp_path / "killed"

    def unfinished() -> list[str]:
        found = []
        for root, _, names in os.walk(folder):  # which does not mind folders that come and go
            for path in (Path(root) / name for name in names):
                name = path.relative_to(folder).as_posix()
                with suppress(FileNotFoundError):
                    if path.stat().st_size not in (0, sizes.get(name)):
                        found.append(name)
        return found

    process = start_writing(folder)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline and process.poll() is None, "never seen in the middle"
            if unfinished():
                process.send_signal(signal.SIGSTOP)  # stopped, it cannot finish before the kill arrives
                os.waitid(os.P_PID, process.pid, os.WSTOPPED)
                if unfinished():
                    break
                process.send_signal(signal.SIGCONT)
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    assert unfinished()
    for name in FILES:
        if (folder / name).exists():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected[name]
    # The next one does not mind what was left.
    prepared.write(folder, description, parts)
    assert {name: digest for name, digest in digests(folder).items() if name in FILES} == expected


@contextmanager
def refused_beyond(num_bytes: int) -> Iterator[None]:
    """Have the system refuse to write more into one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_system_refuses_leaves_the_old_file(tmp_path: Path) -> None:
    parts = {"train": a_split(20), "validation": a_split(10), "test": a_split(20)}
    prepared.write(tmp_path, describe(parts["train"].images), parts)
    before = digests(tmp_path)
    with refused_beyond(100_000), pytest.raises(UserError) as caught:
        prepared.write(tmp_path, describe(parts["train"].images), parts | {"train": a_split(20, 9)})
    line = str(caught.value)
    assert str(tmp_path / "train") in line and "too large" in line and "\n" not in line
    assert digests(tmp_path) == before


def test_a_refused_write_to_an_open_file_says_to_which(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    atomic.write_text(path, "old")
    with refused_beyond(1000), pytest.raises(OSError, match="too large") as caught:
        atomic.write_text(path, "new" * 1000)
    assert caught.value.filename == str(path)
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@NEEDS_MOUNT
def test_a_full_disk_is_one_line_and_leaves_nothing(fresh: Repository) -> None:
    with small_disk(fresh.root / "data/prepared", "1m") as folder:
        done = fresh.run("python", "stages/prepare.py", ok=False)
        assert done.returncode == 1 and done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: data/prepared/train could not be written: ")
        assert "No space left on device" in line
        assert listing(folder) == []


# ---- read again ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mine(result: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(result / "prepared", tmp_path / "prepared"))


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda old: b"",
    "first half": lambda old: old[: len(old) // 2],
    "last byte missing": lambda old: old[:-1],
    "a byte more": lambda old: old + b"\0",
    "zeros": lambda old: bytes(len(old)),
    "something else": lambda old: b"\x80\x02hello" * 10,
}


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".part")])
@pytest.mark.parametrize("spoil", SPOILS)
def test_a_damaged_split_is_named(name: str, spoil: str, mine: Path) -> None:
    path = mine / name
    path.write_bytes(SPOILS[spoil](path.read_bytes()))
    with pytest.raises(UserError) as caught:
        prepared.read_split(mine, path.parent.name)
    assert str(caught.value).startswith(f"{path} is damaged (") and "\n" not in str(caught.value)
    assert str(caught.value).endswith("): remove it and run `dvc repro`")


@pytest.fixture
def cut(mine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the prepared training images in parts of 500,000 bytes, of which the last is smaller."""
    whole = (mine / "train/0000.part").read_bytes()
    monkeypatch.setattr(prepared, "PART_BYTES", 500_000)
    pieces = (whole[start : start + 7_000] for start in range(0, len(whole), 7_000))
    assert prepared.write_parts(mine / "train", pieces) == hashlib.sha256(whole).hexdigest()
    parts = sorted((mine / "train").iterdir())
    assert [path.name for path in parts] == ["0000.part", "0001.part", "0002.part", "0003.part"]
    assert [path.stat().st_size for path in parts] == [500_000] * 3 + [len(whole) - 1_500_000]
    assert b"".join(path.read_bytes() for path in parts) == whole
    return mine


def test_parts_of_a_split_are_read_as_one(cut: Path, result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with prepared.shared_copies(cut, ["train"]) as copies:
        in_parts = [prepared.read_split(cut, "train"), prepared.read_split(cut, "train", copies)]
    in_parts.append(prepared.look_at(cut / "train"))
    monkeypatch.undo()
    whole = prepared.read_split(result / "prepared", "train")
    shutil.copy(result / "prepared/train/0000.part", cut / "train.safetensors")  # as earlier versions wrote it
    for split in (*in_parts, prepared.look_at(cut / "train.safetensors")):
        assert split.images.equal(whole.images) and split.labels.equal(whole.labels)


@pytest.mark.parametrize("name", ["0000.part", "0002.part", "0003.part"])
def test_a_missing_damaged_or_additional_part_is_named(name: str, cut: Path) -> None:
    part = cut / "train" / name
    added = cut / "train/0004.part"
    shutil.copy(part, added)
    with pytest.raises(UserError) as caught:
        prepared.read_split(cut, "train")
    assert str(caught.value) == f"{added} is no part of the prepared images: remove it and run `dvc repro`"
    added.unlink()
    os.truncate(part, 100_000)
    with pytest.raises(UserError, match=r"is damaged \(100,000 bytes instead of [\d,]+\): remove it and run") as caught:
        prepared.look_at(cut / "train")
    assert str(caught.value).startswith(f"{part} ")
    part.unlink()
    with pytest.raises(UserError) as caught, prepared.shared_copies(cut, ["train"]):
        pass
    assert str(caught.value) == f"{part} is not there: run `dvc repro`"


@NEEDS_MOUNT
def test_a_disk_without_room_for_the_copy_is_one_line(result: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2500k") as disk:
        shutil.copytree(result / "prepared/train", disk / "train")
        with pytest.raises(UserError, match=f"{disk}/train could not be copied: No space left on device") as caught:
            prepared.read_split(disk, "train")
        assert "make room there" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"\xff", b'{"normalization": 1}'])
def test_a_damaged_description_is_named(content: bytes, mine: Path) -> None:
    path = mine / "dataset.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        prepared.read_description(mine)
    assert str(caught.value).startswith(f"{path} is damaged (") and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is damaged"):
        prepared.require_written(mine, {"test": ""})


def test_missing_files_are_named(mine: Path) -> None:
    (mine / "dataset.json").unlink()
    (mine / "train/0000.part").unlink()
    shutil.rmtree(mine / "validation")
    for name, what in {"train": "train/0000.part", "validation": "validation"}.items():
        with pytest.raises(UserError) as caught:
            prepared.read_split(mine, name)
        assert str(caught.value) == f"{mine / what} is not there: run `dvc repro`"
    with pytest.raises(UserError) as caught:
        prepared.read_description(mine)
    assert str(caught.value) == f"{mine / 'dataset.json'} is not there: run `dvc repro`"


def test_a_split_that_may_not_be_read_is_not_called_missing(mine: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:  # not pytest's own, which an unprivileged user cannot enter
        Path(folder).chmod(0o755)
        shutil.copytree(mine / "test", Path(folder) / "test")
        path = Path(folder) / "test/0000.part"
        path.chmod(0)
        with as_nobody(), pytest.raises(PermissionError) as caught:
            prepared.read_split(Path(folder), "test")
        assert caught.value.filename in (path, str(path))


def test_folders_in_place_of_files_are_named(mine: Path) -> None:
    for name in ("train/0000.part", "dataset.json"):
        (mine / name).unlink()
        (mine / name).mkdir()
    with pytest.raises(UserError, match=r"train/0000\.part is damaged"):
        prepared.read_split(mine, "train")
    with pytest.raises(UserError, match=r"dataset\.json is damaged"):
        prepared.read_description(mine)


MAPPING = """
import sys
from pathlib import Path
from samebits.data import prepared
split = prepared.read_split(Path(sys.argv[1]), "test", Path(sys.argv[2]))
print(*[line for line in Path("/proc/self/maps").read_text().splitlines() if "(deleted)" in line], sep="\\n")
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="files without a name are found in Linux's /proc")
def test_processes_map_one_copy_that_no_edit_reaches(mine: Path) -> None:
    path = mine / "test/0000.part"
    expected = prepared.read_split(mine, "test").images.clone()
    with prepared.shared_copies(mine, ["test"]) as copies:
        (copy,) = copies.iterdir()
        assert copy.stat().st_nlink == 0 and sorted(digests(mine)) == sorted(FILES)
        done = Repository(mine).run("python", "-c", MAPPING, str(mine), str(copies))
        assert f" {copy.stat().st_ino} " in done.stdout
        split = prepared.read_split(mine, "test", copies)
        path.write_bytes(b"other")
        assert split.images.equal(expected)
        with pytest.raises(UserError, match=r"test changed while the training was starting: run `dvc repro`"):
            prepared.read_split(mine, "test", copies)
    assert not copies.exists() and split.images.equal(expected)
