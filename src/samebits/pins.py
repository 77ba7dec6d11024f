"""The libraries that a lock file pins, compared with those that are installed. Imports none of them: one may be missing."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from samebits.errors import UserError


def read(lock: Path) -> list[Requirement]:
    """Read a lock file, one `name==version` a line. Raises UserError if it is missing or says anything else."""
    try:
        lines = [line.partition("#")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise UserError(f"{lock.name} is not there: restore it with `git checkout {lock.name}`") from None
    try:
        return [Requirement(line) for line in lines if line]
    except InvalidRequirement as error:
        raise UserError(f"{lock.name} must say name==version on each line: {str(error).splitlines()[0]}") from None


def differing(pins: list[Requirement]) -> list[tuple[Requirement, str | None]]:
    """Return the pins that the installed libraries do not meet, each with the installed version; None if it is not installed."""
    found = [(pin, _installed(pin.name)) for pin in pins]
    return [(pin, has) for pin, has in found if has is None or not pin.specifier.contains(has, prereleases=True)]


def require(lock: Path) -> None:
    """Raise UserError if a library is not installed in the version that `lock` pins."""
    for pin, has in differing(read(lock)):
        what = f"{pin.name} is {has or 'not installed'}, but {lock.name} says {pin}"
        raise UserError(f"{what}: run `pip install -e .` again")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
