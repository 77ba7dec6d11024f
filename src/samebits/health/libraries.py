"""The libraries that are installed, compared with those that the lock files pin."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from samebits import pins
from samebits.errors import listed
from samebits.health.check_result import CheckResult, note, ok, wrong
from samebits.paths import PINS

INSTALL = "run `pip install -e .`"
OTHER_PINS = "requirements.lock"


def check_pins(root: Path, lock: str) -> Iterator[CheckResult]:
    """Check the libraries of a lock file. A missing one is wrong, another version only if it decides numbers."""
    wanted = pins.read(root / lock)
    found = pins.differing(wanted)
    missing = [f"{pin.name} is not installed" for pin, has in found if has is None]
    others = [f"{pin.name} is {has}, not {str(pin.specifier).removeprefix('==')}" for pin, has in found if has]
    named = missing + others
    if not named:
        yield ok(f"the {len(wanted)} libraries of {lock} are installed as pinned")
    elif lock == PINS:
        yield wrong(f"{lock}, which decides numbers: {', '.join(named)}", INSTALL)
    else:
        what = f"{lock}, which decides no number: {len(named)} of {len(wanted)} libraries differ: {listed(named)}"
        yield (wrong if missing else note)(what, INSTALL)


def check_torchvision() -> Iterator[CheckResult]:
    """Check that torchvision can be imported beside the installed PyTorch."""
    try:
        import samebits.data.vision  # noqa: F401
    except Exception as error:  # a torchvision that does not fit its PyTorch raises anything
        yield wrong(f"torchvision cannot be imported beside PyTorch ({' '.join(str(error).split())})", INSTALL)
    else:
        yield ok(f"torchvision {version('torchvision')} works beside PyTorch {version('torch')}")
