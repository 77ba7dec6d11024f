"""Write the hashes of all pinned libraries again, for every system and Python that has them: `make hashes`."""

import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
# Machines take these from different indexes, as CPU or CUDA builds of one version: no hash fits all.
WITHOUT_HASH = ("torch", "torchvision")
# That of `python -m venv` may be years old, and take three times as long to install the product.
PIP = "pip==26.3"


def pinned() -> dict[str, list[str]]:
    """Return for each file of hashes what it has to hold, without what those need in turn."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = [line for name in ("compute.lock", "requirements.lock") for line in (ROOT / name).read_text().splitlines()]
    pins = [line for line in lines if line and not line.startswith("#") and line.split("==")[0] not in WITHOUT_HASH]
    return {
        "build": [*project["build-system"]["requires"], PIP],
        "product": pins,
        "dev": project["project"]["optional-dependencies"]["dev"],
    }


def write(name: str, requirements: Iterable[str], constraints: Iterable[Path]) -> None:
    """Write the file `name` with the hashes of `requirements` and of all that they need."""
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes"]
    command += ["--no-annotate", "--custom-compile-command=make hashes", f"--output-file={FOLDER / name}.txt", "-"]
    command += [f"--constraint={path}" for path in constraints]
    subprocess.run(command, input="\n".join(requirements), text=True, check=True)


if __name__ == "__main__":
    written: list[Path] = []
    for name, requirements in pinned().items():
        write(name, requirements, written)
        written.append(FOLDER / f"{name}.txt")
