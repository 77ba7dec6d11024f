"""How a stage runs: on the code beside it, with what it read at its start; a user's mistake is one line and exit code 1."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import samebits
from samebits.errors import UserError, as_one_line
from samebits.repository.git import GitError
from samebits.stage import confirmation
from samebits.stage.inputs import Inputs, Origin


def begin(script: str) -> Inputs:
    """Fix what the stage runs on whose file is `script`; to be called before it imports anything else of samebits."""
    with as_one_line():
        _require_code_beside(Path(script))
        return Inputs(script)
    raise AssertionError


def run(main: Callable[[Inputs], None], inputs: Inputs) -> None:
    """Run `main`, and end this process: well only if what the stage runs on is as it was at its start."""
    from samebits import runtime

    with as_one_line():
        runtime.check_pins()
        inputs.require_stages_before()
        main(inputs)
        inputs.require_unchanged()
    if "DVC_STAGE" in os.environ:
        confirmation.leave_behind(inputs)
    # At once: an edit from now on until DVC has read the files is one that only `confirmation` would see.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def origin(inputs: Inputs) -> Origin:
    """Return where the stage's code and parameters come from; a git that fails costs a warning, and is no answer."""
    try:
        return inputs.origin()
    except GitError as error:
        print(f"warning: the run will not say which commit it comes from: {error}", file=sys.stderr)
        return Origin(None, b"", os.environ.get("DVC_EXP_NAME"), is_dirty=True)


def repository_root() -> Path:
    """Return the root of the user's repository: also from a temporary experiment, whose working folder is a copy inside it."""
    return Path(os.environ.get("DVC_ROOT", Path.cwd())).resolve()


def scratch() -> Path:
    """Return where resume points lie: beside DVC's outputs, in no commit and no cache, shared by all experiments."""
    return repository_root() / ".samebits" / "resume"


def _require_code_beside(script: Path) -> None:
    expected = script.resolve().parents[1] / "src" / "samebits"
    found = Path(samebits.__file__).resolve().parent
    if found != expected:
        raise UserError(
            f"this stage would run the code in {found}, not the code beside it in {expected}; "
            "unset PYTHONPATH, or uninstall the other copy of samebits"
        )
