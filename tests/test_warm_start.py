"""That the programs of most tests start with their libraries loaded, and with what a test puts in front of them."""

import sys
from pathlib import Path

import pytest

from tests.conftest import Repository

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks by Linux's means")
IS_WARM = "import sys; print('torch' in sys.modules, sys.dont_write_bytecode, sys.pycache_prefix)"


def test_programs_start_warm_whatever_a_test_has_imported(tmp_path: Path) -> None:
    import sklearn  # noqa: F401 (it sets variables that OpenMP reads)

    repository = Repository(tmp_path)
    values = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": "/none"}
    assert repository.run("python", "-c", IS_WARM, **values).stdout == "True True /none\n"
    assert repository.run("python", "-c", IS_WARM, MPLBACKEND="svg", **values).stdout == "False True /none\n"


def test_sitecustomize_is_imported_before_the_program(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; print('torch' in sys.modules)\n")
    assert Repository(tmp_path).run("python", "-c", "print(2)", PYTHONPATH=str(tmp_path)).stdout == "True\n2\n"
