"""A portable result is the same on every x86-64 processor with AVX2: on emulated ones, and whatever the user's shell says."""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samebits import params, portability
from samebits.errors import UserError
from samebits.repository import dvc_lock
from tests.conftest import PROJECT, Repository, require_program

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the promise is for x86-64 processors")
PROCESSORS = ("Haswell", "Skylake-Client", "EPYC-Rome")  # Intel 2013 and 2015, AMD 2019
SETTINGS = params.load(PROJECT / "params.yaml")
LARGE = ("resnet", "speed")  # minutes for a step, if they are emulated
LIMITS = {
    "ATEN_CPU_CAPABILITY": "default",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}
# What else libraries decide by: threads, huge pages, a memory allocator's and the C library's settings, other kernels of OpenBLAS.
OTHERS = {
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-ERMS:glibc.malloc.hugetlb=1",
    "MKL_NUM_THREADS": "2",
    "OMP_NUM_THREADS": "2",
    "OPENBLAS_CORETYPE": "Nehalem",
    "OPENBLAS_NUM_THREADS": "2",
    "PYTHONHASHSEED": "7",
    "THP_MEM_ALLOC_ENABLE": "1",
}


def emulated(processor: str, folder: Path) -> Path:
    """Return a folder with a program `python` that runs on another processor."""
    require_program("qemu-x86_64", "qemu-user")
    program = folder / processor / "python"
    program.parent.mkdir(parents=True)
    program.write_text(
        f'#!/bin/sh\nexec qemu-x86_64 -cpu {processor} {shlex.quote(sys.executable)} "$@" 2> /dev/null\n'
    )
    program.chmod(0o755)
    return program.parent


def shrink(values: dict, recipe: str) -> None:
    """Make a recipe portable, and a matter of seconds."""
    values["recipe"] = recipe
    values["data"]["shapes"].update(num_train=40, num_test=20)
    settings = values["recipes"][recipe]
    settings["determinism"] = "portable"
    settings["train"].update(batch_size=min(4, settings["train"]["batch_size"]), report_every_steps=5, num_threads=1)
    settings["evaluate"]["num_threads"] = 1
    if recipe in LARGE:
        values["data"]["shapes"].update(num_train=8, num_test=8)


@pytest.fixture
def small(fresh: Repository, request: pytest.FixtureRequest, untracked: None) -> Repository:
    fresh.edit(lambda values: shrink(values, getattr(request, "param", "lab")))
    return fresh


def recorded(repository: Repository) -> dict[str, str]:
    return dvc_lock.read((repository.root / "dvc.lock").read_bytes(), "dvc.lock").hashes


def run_again(repository: Repository, **variables: str) -> dict[str, str]:
    """Run the pipeline once more, without what is known of it, and return the hashes of all that it writes."""
    path = variables.pop("PATH", "")
    variables["PATH"] = os.pathsep.join(filter(None, (path, repository.environment_of(("dvc",))["PATH"])))
    repository.run("dvc", "repro", "--force", "--no-run-cache", **variables)
    return recorded(repository)


def test_a_portable_result_names_no_processor(done: Repository) -> None:
    environment = json.loads((done.root / "metrics/environment.json").read_text())
    assert environment["processor"] == "portable" and environment["math_settings"] == portability.SETTINGS
    assert environment.keys() == {"device", "num_threads", "processor", "libraries", "math_settings"}
    assert not any("+" in version for version in environment["libraries"].values())


def test_neither_the_shell_nor_tracking_changes_a_bit(done: Repository) -> None:
    usual = (done.root / "dvc.lock").read_bytes()
    assert len(recorded(done)) == 17
    one_core = ("taskset", "--cpu-list", "0") if shutil.which("taskset") else ()
    off = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "TQDM_DISABLE": "1"}
    said = done.run(*one_core, "dvc", "repro", "--force", "--no-run-cache", **LIMITS, **OTHERS, **off)
    assert (done.root / "dvc.lock").read_bytes() == usual
    assert said.stderr.count("warning: MLflow did not record") == 2
    notes = [line for line in said.stderr.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2 * len(LIMITS)  # of train and of evaluate
    assert "MKL_CBWR is AVX2 in your shell" in said.stderr


def test_other_processors_are_told_and_get_an_exact_result(tmp_path: Path) -> None:
    program = "import os; from samebits import portability; print(portability.hold(), 'MKL_CBWR' in os.environ)"
    for processor, expected in (("Nehalem", "False False"), ("Haswell", "True True")):
        python = emulated(processor, tmp_path) / "python"
        values = {name: value for name, value in os.environ.items() if name not in portability.SETTINGS}
        done = subprocess.run([python, "-c", program], cwd=PROJECT, env=values, capture_output=True, text=True)
        assert done.stdout == f"{expected}\n"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("train", "precision", "bfloat16"), ("evaluate", "num_threads", 2), ("train", "num_threads", 2)],
)
def test_what_cannot_be_portable_is_refused(section: str, key: str, value: object) -> None:
    values = params.read((PROJECT / "params.yaml").read_bytes(), "params.yaml")
    values["recipes"]["lab"][section][key] = value
    with pytest.raises(
        UserError,
        match=rf"recipes\.lab: determinism is portable, so {section} needs precision float32 and num_threads 1",
    ):
        params.parse(json.dumps(values).encode(), "params.yaml")


def test_a_portable_result_is_made_on_the_cpu(small: Repository) -> None:
    small.edit(lambda values: values.update(device="cuda"))
    small.run("dvc", "repro", "prepare")
    failed = small.run("python", "stages/train.py", ok=False)
    assert failed.returncode == 1 and "which GPUs cannot be" in failed.stderr and len(failed.stderr.splitlines()) == 1


@pytest.mark.long
@pytest.mark.parametrize("small", SETTINGS.recipes, indirect=True)
def test_every_processor_records_the_same_result(small: Repository, tmp_path: Path) -> None:
    usual = run_again(small)
    for processor in PROCESSORS:
        assert run_again(small, PATH=str(emulated(processor, tmp_path))) == usual, processor


@pytest.mark.long
def test_every_processor_resizes_the_same(small: Repository, tmp_path: Path) -> None:
    """Photographs of other sizes and formats, as a folder holds them."""
    generator = np.random.default_rng(0)
    for place, suffix in enumerate(("png", "jpg", "jpg", "png") * 4):
        path = tmp_path / f"images/{'train' if place < 12 else 'test'}/{'ab'[place % 2]}/{place}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (30 + 7 * place, 90 - place, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((120, 70 + place)).save(path)
    small.edit(lambda values: values["data"].update(source="folder", path=str(tmp_path / "images")))
    usual = run_again(small)
    for processor in PROCESSORS:
        assert run_again(small, PATH=str(emulated(processor, tmp_path))) == usual, processor


@pytest.mark.long
@pytest.mark.parametrize("missing", ["ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA"])
def test_the_emulated_processors_tell_a_missing_setting(missing: str, tmp_path: Path) -> None:
    """Without MKL's setting Intel and AMD differ. Emulation knows no AVX-512, so it cannot tell the others, nor that of numpy."""
    weights = set(first_steps(missing, tmp_path))
    assert (len(weights) > 1) == (missing == "MKL_CBWR")


def first_steps(missing: str, folder: Path) -> Iterator[str]:
    program = (
        "from samebits import portability; portability.SETTINGS.pop('{}', None); portability.hold(); "
        "from pathlib import Path; from samebits import golden, params; "
        "print(golden.measure(params.load(Path('params.yaml')).recipes['lab'], 0)['weights_sha256'])"
    )
    values = {name: value for name, value in os.environ.items() if name not in portability.SETTINGS}
    for processor in ("Haswell", "EPYC-Rome"):
        command = [emulated(processor, folder) / "python", "-c", program.format(missing)]
        yield subprocess.run(command, cwd=PROJECT, env=values, capture_output=True, text=True, check=True).stdout
