"""The libraries that are installed, compared with those that the lock files pin."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from samebits.errors import listed
from samebits.health.check_result import CheckResult, note, ok, wrong
from samebits.paths import PINS

INSTALL = "run `pip install -e .`"
OTHER_PINS = "requirements.lock"


def check_pins(root: Path, lock: str) -> Iterator[CheckResult]:
    """Check the libraries of a lock file. A missing one is wrong, another version only if it decides numbers."""
    from samebits import runtime

    pins = runtime.pins(root / lock)
    differing, missing = [], []
    for pin in pins:
        try:
            installed = version(pin.name)
        except PackageNotFoundError:
            missing.append(f"{pin.name} is not installed")
            continue
        if not pin.specifier.contains(installed, prereleases=True):
            differing.append(f"{pin.name} is {installed}, not {str(pin.specifier).removeprefix('==')}")
    named = missing + differing
    if not named:
        yield ok(f"the {len(pins)} libraries of {lock} are installed as pinned")
    elif lock == PINS:
        yield wrong(f"{lock}, which decides numbers: {', '.join(named)}", INSTALL)
    else:
        what = f"{lock}, which decides no number: {len(named)} of {len(pins)} libraries differ: {listed(named)}"
        yield (wrong if missing else note)(what, INSTALL)


def check_torchvision() -> Iterator[CheckResult]:
    """Check that torchvision can be imported beside the installed PyTorch."""
    try:
        import samebits.data.vision  # noqa: F401
    except Exception as error:  # a torchvision that does not fit its PyTorch raises anything
        yield wrong(f"torchvision cannot be imported beside PyTorch ({' '.join(str(error).split())})", INSTALL)
    else:
        yield ok(f"torchvision {version('torchvision')} works beside PyTorch {version('torch')}")
