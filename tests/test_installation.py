"""`make install`: libraries that are what they were when they were pinned, with uv or pip."""

import hashlib
import re
import shutil
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pip
import pytest

from hashes import update
from tests.conftest import PROJECT, Repository, require_program

PIN = re.compile(r"^(\S+)==(\S+)(?: ;.*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def normalized(name: str) -> str:
    """Return a package's name as the package index writes it."""
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()


@pytest.mark.parametrize("name", ["build", "product", "dev"])
def test_every_pin_has_its_hashes(name: str) -> None:
    text = (PROJECT / f"hashes/{name}.txt").read_text()
    hashed = {found[1]: found[2] for found in PIN.finditer(text)}
    assert len(hashed) == len(re.findall(r"^\S+==", text, re.MULTILINE))
    pinned = {normalized(pin.partition("==")[0]): pin.partition("==")[2] for pin in update.pinned()[name]}
    assert pinned.items() <= hashed.items(), "run `make hashes`"


def test_pins_of_all_files_agree() -> None:
    versions: dict[str, set[str]] = {}
    for name in ("build", "product", "dev"):
        for found in PIN.finditer((PROJECT / f"hashes/{name}.txt").read_text()):
            versions.setdefault(found[1], set()).add(found[2])
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def wheel(folder: Path, name: str, version: str) -> Path:
    """Write a package under the name of another."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('somebody else wrote this')\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_a_package_that_was_tampered_with_is_refused(installer: str, tmp_path: Path) -> None:
    root, index = tmp_path / "a clone", tmp_path / "index"
    index.mkdir()
    shutil.copytree(PROJECT / "hashes", root / "hashes")
    for name in ("Makefile", "pyproject.toml", "compute.lock", "requirements.lock"):
        shutil.copy2(PROJECT / name, root)
    locked = root / "hashes/build.txt"
    for name, version, _ in PIN.findall(locked.read_text()):
        fake = wheel(index, name, version)
    venv.create(root / ".venv")
    if installer == "uv":
        require_program("uv", "pip install uv")
    else:  # the copy of a package is there sooner than what `python -m venv` installs
        base = str(root / ".venv")
        packages = sysconfig.get_path("purelib", "venv", {"base": base, "platbase": base})
        shutil.copytree(Path(pip.__file__).parent, Path(packages) / "pip")
    only_here = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": index.as_uri()}
    only_here |= {"UV_NO_CONFIG": "1", "UV_FIND_LINKS": str(index), "UV_NO_CACHE": "1", "UV_OFFLINE": "1"}
    make = ("make", "install", f"PYTHON={sys.executable}", *(["UV="] if installer == "pip" else []))

    def install() -> tuple[str, bool]:
        done = Repository(root).run(*make, ok=False, **only_here)
        assert done.returncode != 0 and not (root / ".venv/installed").exists()
        assert f"with {installer}" in done.stdout
        return done.stderr, any((root / ".venv").rglob(f"{name}-{version}.dist-info"))

    said, is_installed = install()
    assert (
        re.search("hash(es)? (mismatch|do not match)|do not match the hash", said, re.IGNORECASE) and not is_installed
    )
    locked.write_text(f"{name}=={version} --hash=sha256:{hashlib.sha256(fake.read_bytes()).hexdigest()}\n")
    assert install()[1]  # and then the next library is not to be had


def test_the_build_of_pytorch_that_is_installed_stays(tmp_path: Path) -> None:
    shutil.copy2(PROJECT / "Makefile", tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/torch").write_text("cpu\n")
    repository = Repository(tmp_path)
    for given in ([], ["TORCH=cpu"]):
        assert "whl/cpu" in repository.run("make", "--print-data-base", "help", *given).stdout
    refused = repository.run("make", "install", "TORCH=cu130", ok=False)
    assert refused.returncode != 0
    assert ".venv has PyTorch's cpu build: remove it to install cu130" in refused.stderr
