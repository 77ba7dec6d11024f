"""What computes: the account of the machine names all that decides bits and nothing else; mistakes are one line."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from samebits import pins, runtime
from samebits.errors import UserError
from tests.conftest import PROJECT

torch.set_num_threads(1)
CPU = torch.device("cpu")
# Settings of this process's own that would hide what the tests set.
SETTINGS = ("ONEDNN_", "DNNL_", "MKL_", "ATEN_", "OMP_", "NVIDIA_TF32", "TORCH_ALLOW_TF32")
MARK = "who-and-where"
PROGRAM = """
import json
import torch
from samebits import runtime

print(json.dumps(runtime.environment(torch.device("cpu"), 1), indent=2))
"""


def environment_of_another_process(folder: Path, **variables: str) -> str:
    """Return, as JSON text, how a fresh process in `folder` describes the machine: all that it prints, for oneDNN is not to be seen."""
    folder.mkdir()
    shutil.copy2(PROJECT / "compute.lock", folder)
    values = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    values |= {"PYTHONPATH": os.pathsep.join(sys.path)} | variables
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=folder, env=values, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> str:
    return environment_of_another_process(tmp_path_factory.mktemp("usual") / "repository")


def test_the_account_is_the_same_for_everybody_everywhere_and_always(usual: str, tmp_path: Path) -> None:
    folder = tmp_path / MARK
    names = ("USER", "LOGNAME", "HOSTNAME", "HOME", "TMPDIR")
    variables = {name: str(tmp_path) if name == "TMPDIR" else MARK for name in names}
    other = environment_of_another_process(folder, PYTHONHASHSEED="7", OMP_NUM_THREADS="2", **variables)
    assert other == usual
    for name in (MARK, str(tmp_path), str(PROJECT), str(Path.home()) + "/", sys.prefix):
        assert name not in other
    assert not re.search(rf"\b{re.escape(platform.node() or MARK)}\b", other)


def test_the_account_names_what_decides_bits(usual: str) -> None:
    account = json.loads(usual)
    assert account["device"] == "cpu" and account["num_threads"] == 1
    assert account["python"] == platform.python_version()
    assert account["libraries"] == {pin.name: version(pin.name) for pin in pins.read(PROJECT / "compute.lock")}
    assert {"torch", "numpy"} <= account["libraries"].keys()
    assert account["aten_capability"]
    assert account["onednn_isa"] not in ("", "unknown")
    assert account["processor"]["model"]
    if platform.machine() == "x86_64":
        assert "sse4_2" in account["processor"]["instruction_sets"]
    assert account["math_settings"] == {}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the settings are those of x86 processors")
def test_settings_that_change_bits_change_the_account(usual: str, tmp_path: Path) -> None:
    before = json.loads(usual)
    has_avx512 = "avx512f" in before["processor"]["instruction_sets"]
    settings = {
        "ONEDNN_MAX_CPU_ISA": "AVX2" if has_avx512 else "SSE41",
        "ATEN_CPU_CAPABILITY": "avx2" if has_avx512 else "default",
        "MKL_CBWR": "COMPATIBLE",
    }
    after = json.loads(environment_of_another_process(tmp_path / "other", **settings))
    assert {key for key in before if before[key] != after[key]} == {"onednn_isa", "aten_capability", "math_settings"}
    assert after["math_settings"] == {"MKL_CBWR": "COMPATIBLE"}


def test_threads_and_settings_are_part_of_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    one, two = (runtime.environment(CPU, num_threads) for num_threads in (1, 2))
    assert one | {"num_threads": 2} == two != one
    for name in ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"):
        monkeypatch.setenv(name, "1")
        assert runtime.environment(CPU, 1)["math_settings"][name] == "1"


def test_auto_takes_a_gpu_where_there_is_one() -> None:
    assert runtime.choose_device("cpu") == CPU
    assert runtime.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^device is cuda, but .* set device to auto or cpu in params\.yaml$"):
        runtime.choose_device("cuda")


def lock(folder: Path, text: str) -> Path:
    path = folder / "compute.lock"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_installed_libraries_are_the_pinned_ones(tmp_path: Path) -> None:
    pins.require(PROJECT / "compute.lock")
    numpy, pillow = version("numpy"), version("pillow")
    text = f"# what decides numbers\n\nnumpy=={numpy}\n   \n  Pillow=={pillow}  # pictures\n#numpy==0.1"
    pins.require(lock(tmp_path, text))
    assert [str(pin) for pin in pins.read(tmp_path / "compute.lock")] == [f"numpy=={numpy}", f"Pillow=={pillow}"]


def test_a_build_of_the_pinned_version_is_that_version(tmp_path: Path) -> None:
    pins.require(lock(tmp_path, f"torch=={version('torch').partition('+')[0]}\n"))  # such as 2.13.0+cpu


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("torch=={torch}\nnumpy==1.0.3\n", ["numpy is {numpy}", "compute.lock says numpy==1.0.3", "pip install"]),
        ("numpy=={numpy}.1\n", ["numpy is {numpy},", "numpy=={numpy}.1"]),
        ("no-such-library==2.0\n", ["no-such-library is not installed", "no-such-library==2.0"]),
        ("<<<<<<< HEAD\nnumpy==1.0.3\n", ["compute.lock", "name==version", "Expected package name"]),
        ("numpy==\n", ["compute.lock", "name==version"]),
    ],
)
def test_a_library_of_another_version_is_named(text: str, words: list[str], tmp_path: Path) -> None:
    versions = {name: version(name) for name in ("numpy", "torch")}
    path = lock(tmp_path, text.format(**versions))
    with pytest.raises(UserError) as caught:
        pins.require(path)
    line = str(caught.value)
    assert line.isprintable()
    for word in words:
        assert word.format(**versions) in line


def test_a_missing_lock_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^compute\.lock is not there: .*$"):
        pins.require(tmp_path / "compute.lock")


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts back what make_deterministic changes in this process."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    before: Any = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(before[0])
    torch.use_deterministic_algorithms(before[1])
    torch.backends.cudnn.benchmark = before[2]


def test_make_deterministic(as_before: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    torch.backends.cudnn.benchmark = True
    torch.use_deterministic_algorithms(False)
    for num_threads in (2, 1):
        runtime.make_deterministic(num_threads)
        assert torch.get_num_threads() == num_threads
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # the user's own choice stands
    runtime.make_deterministic(1)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


PRECISION = """
import torch
from samebits import runtime
from samebits.errors import UserError
for precision in ("float32", "bfloat16"):
    try:
        runtime.require_precision(precision, torch.device("cpu"))
    except UserError as error:
        print(f"{precision}: {error}")
"""


def precision_errors(isa: str) -> str:
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    return subprocess.run(
        [sys.executable, "-c", PRECISION], env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="limits the instruction sets of x86 processors")
def test_a_processor_without_fast_bfloat16_is_told_what_to_set() -> None:
    (line,) = precision_errors("AVX2").splitlines()
    assert line.startswith("bfloat16: ") and "set precision to float32" in line
    if "bfloat16" in runtime._onednn_isa():
        assert precision_errors("DEFAULT") == ""


FAULTS = """
import resource
import torch
from samebits import runtime
def use():
    return [torch.ones(16_000_000) for _ in range(4)]
for keep in (False, True):
    if keep:
        runtime.keep_memory()
    for _ in range(5):
        use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        use()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_memory_that_was_freed_is_used_again() -> None:
    without, kept = map(
        int, subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True).stdout.split()
    )
    assert kept < 1000 < without / 10


def test_waiting_threads_leave_the_cores_to_others() -> None:
    script = "import os, samebits; print(os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for chosen, expected in (({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")):  # the user's choice stands
        done = subprocess.run([sys.executable, "-c", script], env=environment | chosen, capture_output=True, text=True)
        assert done.stdout == f"{expected}\n"


def test_fast_determinism_leaves_kernels_to_the_gpu(as_before: None) -> None:
    runtime.make_deterministic(1, "fast")
    assert torch.backends.cudnn.benchmark and not torch.are_deterministic_algorithms_enabled()
    runtime.make_deterministic(1, "exact")
    assert not torch.backends.cudnn.benchmark and torch.are_deterministic_algorithms_enabled()
