"""What computes: device, threads, determinism, memory, and the kind of machine that they form with the pinned libraries."""

import ctypes
import os
import platform
import sys
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils import deterministic

from samebits import paths, pins, portability
from samebits.errors import UserError

LOCK = Path(paths.PINS)  # in the working folder
# Instruction sets that change which kernels ATen, oneDNN or MKL choose, by their names in Linux.
_INSTRUCTION_SETS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16"),
)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # from glibc's malloc.h
# Settings of the mathematics libraries that change bits and are visible nowhere else.
_MATH_VARIABLES = (
    *("MKL_CBWR", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
)


def choose_device(name: str, determinism: str = "exact") -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`; `auto` is the CPU for a portable result.

    Raises UserError for `cuda` without a GPU, or for a portable result.
    """
    if determinism == "portable":
        if name == "cuda":
            raise UserError(
                "device is cuda, but the determinism of this recipe is portable, which GPUs cannot be: "
                "set device to auto or cpu, or determinism to exact in params.yaml"
            )
        name = "cpu"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but PyTorch finds no CUDA GPU here: set device to auto or cpu in params.yaml")
    return torch.device(name)


def make_deterministic(num_threads: int, determinism: str = "exact") -> None:
    """Fix what PyTorch would otherwise take from the machine or leave to chance: the number of threads and the kernels.

    With `determinism` fast a GPU uses the fastest kernels, and its bits vary. On a CPU it changes nothing. For a portable
    result, `portability.hold` must have run before PyTorch was imported.
    """
    # cuBLAS reads its workspace setting when it starts, and refuses deterministic products without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(num_threads)
    # Same as use_deterministic_algorithms, which would also import torch's compiler and take a second.
    torch.set_deterministic_debug_mode("default" if determinism == "fast" else "error")
    # Nothing reads such memory, so to fill it would only take time.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = determinism == "fast"


def require_precision(precision: str, device: torch.device) -> None:
    """Raise UserError if `device` is a processor on which `precision` is slower than float32."""
    if precision == "bfloat16" and device.type == "cpu" and not _has_fast_bfloat16():
        raise UserError(
            "precision is bfloat16, but this processor has no fast bfloat16 arithmetic (AVX-512 BF16, AMX or Arm BF16): "
            "set precision to float32 in this recipe of params.yaml, for train and evaluate"
        )


def _has_fast_bfloat16() -> bool:
    if platform.machine() in ("x86_64", "AMD64"):
        return "bfloat16" in _onednn_isa()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_memory() -> None:
    """Let glibc's allocator keep freed memory. Otherwise each step gets its memory from the system again, page by page.

    That would take a third of the speed recipe's time. Without glibc this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_TOP_PAD, 2**28)


def environment(device: torch.device, num_threads: int, is_portable: bool = False) -> dict[str, Any]:
    """Describe the kind of machine: exactly what decides bits besides code, parameters and data.

    A portable result has one kind, that of every x86-64 processor with AVX2.
    """
    if is_portable:
        return {
            "device": device.type,
            "num_threads": num_threads,
            "processor": "portable",
            "libraries": {pin.name: version(pin.name).partition("+")[0] for pin in pins.read(LOCK)},
            "math_settings": portability.SETTINGS,
        }
    description: dict[str, Any] = {
        "device": device.type,
        "num_threads": num_threads,
        "python": platform.python_version(),
        "libraries": {pin.name: version(pin.name) for pin in pins.read(LOCK)},
        "torch_build": torch.version.git_version,
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "aten_capability": torch.backends.cpu.get_cpu_capability(),
        "onednn_isa": _onednn_isa(),
        "math_settings": {name: os.environ[name] for name in _MATH_VARIABLES if name in os.environ},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        description["gpu"] = {
            "name": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "num_multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
        }
    return description


def _processor() -> dict[str, Any]:
    """Return vendor, model and instruction sets as Linux lists them; on other systems, what Python knows."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {"model": platform.processor() or platform.machine()}
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    names = {"vendor_id": "vendor", "cpu family": "family", "model": "model_number", "model name": "model"}
    names |= {"CPU implementer": "vendor", "CPU part": "model"}
    return {name: fields[key] for key, name in names.items() if key in fields} | {
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags]
    }


@cache
def _onednn_isa() -> str:
    """Return the instruction set that oneDNN really uses, which only the header of its verbose output says."""
    if not torch.backends.mkldnn.is_available():
        return "none"
    sys.stdout.flush()
    standard_output = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                torch.nn.functional.conv2d(torch.zeros(2, 16, 8, 8), torch.zeros(16, 16, 3, 3))
        finally:
            os.dup2(standard_output, 1)
            os.close(standard_output)
        file.seek(0)
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.partition("isa:")[2] for line in lines if "cpu,isa:" in line), "unknown")
