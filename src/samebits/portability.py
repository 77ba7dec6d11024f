"""What makes a result the same on every x86-64 processor with AVX2 (Intel since 2013, AMD since 2015).

Mathematics libraries choose their kernels by the processor, and other kernels round in other places. All of them read the
choice from the environment when they start, so `hold` must run before they are imported.
"""

import os
import platform
import sys

SETTINGS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # MKL chooses by vendor too
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
# What would win over these settings, or changes how kernels round.
_OTHERS = (
    *("DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    *("MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS", "NPY_ENABLE_CPU_FEATURES"),
)


def hold() -> bool:
    """Hold the libraries to what all such processors have; tell whether this is one of them.

    Elsewhere nothing changes. A setting of the user's shell that differs is overridden, with a note on standard error.
    """
    before = {name: os.environ.pop(name) for name in (*SETTINGS, *_OTHERS) if name in os.environ}
    os.environ["NPY_DISABLE_CPU_FEATURES"] = SETTINGS["NPY_DISABLE_CPU_FEATURES"]
    if platform.machine() not in ("x86_64", "AMD64") or not _has_avx2():
        del os.environ["NPY_DISABLE_CPU_FEATURES"]
        os.environ.update(before)
        return False
    os.environ.update(SETTINGS)
    for name, value in before.items():
        if value != SETTINGS.get(name):
            print(
                f"note: {name} is {value} in your shell, but a portable result needs "
                f"{SETTINGS.get(name, 'it unset')}: this stage overrides yours",
                file=sys.stderr,
            )
    return True


def is_held() -> bool:
    """Tell whether this process is held to what all such processors have."""
    return all(os.environ.get(name) == value for name, value in SETTINGS.items())


def _has_avx2() -> bool:
    from numpy._core._multiarray_umath import __cpu_features__  # what CPUID says

    return bool(__cpu_features__["AVX2"] and __cpu_features__["FMA3"])
