"""How a stage runs: on the code beside it, with checked parameters; a user's mistake is one line and exit code 1."""

import gc
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import samebits
from samebits import params, runtime
from samebits.errors import UserError, as_one_line


def run(main: Callable[[params.Params], None], script: str) -> None:
    """Run `main` with the checked params.yaml of the working folder, as the stage whose file is `script`."""
    with as_one_line():
        _require_code_beside(Path(script))
        settings = params.load(Path("params.yaml"))
        runtime.check_pins()
        main(settings)
    gc.freeze()  # else Python looks for garbage in all of torch once more before it ends: 0.5 s


def repository_root() -> Path:
    """The root of the user's repository: also from a temporary experiment, whose working folder is a copy inside it."""
    return Path(os.environ.get("DVC_ROOT", Path.cwd())).resolve()


def scratch() -> Path:
    """Where resume points lie: beside DVC's outputs, in no commit and no cache, shared by all experiments."""
    return repository_root() / ".samebits" / "resume"


def loaded_code() -> dict[str, str]:
    """Give the SHA-256 of each file of samebits that this process has imported; tracking and git decide no bits."""
    package = Path(samebits.__file__).parent
    files = {Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    code = {str(file.relative_to(package)): file for file in files if file.is_relative_to(package)}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in sorted(code.items())
        if not name.startswith(("tracking", "repository"))
    }


def _require_code_beside(script: Path) -> None:
    expected = script.resolve().parents[1] / "src" / "samebits"
    found = Path(samebits.__file__).resolve().parent
    if found != expected:
        raise UserError(
            f"this stage would run the code in {found}, not the code beside it in {expected}; "
            "unset PYTHONPATH, or uninstall the other copy of samebits"
        )
