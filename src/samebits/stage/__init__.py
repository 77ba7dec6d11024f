"""How a stage runs: on the code beside it, with what it read at its start; a user's mistake is one line and exit code 1."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import samebits
from samebits import pins, portability, processes
from samebits.errors import UserError, as_one_line
from samebits.paths import PINS, SCRATCH
from samebits.stage import changes, confirmation, rank, records
from samebits.stage.inputs import Inputs

if TYPE_CHECKING:
    import torch

    from samebits import params


def begin(script: str) -> Inputs:
    """Fix what the stage in the file `script` runs on; call it before anything else of samebits is imported."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # each report at once, also through a pipe
    with as_one_line():
        expected = Path(script).resolve().parents[1] / "src" / "samebits"
        found = Path(samebits.__file__).resolve().parent
        if found != expected:
            raise UserError(
                f"this stage would run the code in {found}, not the code beside it in {expected}; "
                "unset PYTHONPATH, or uninstall the other copy of samebits"
            )
        inputs = Inputs(script)
        pins.require(Path(PINS))
        recipe = inputs.settings.chosen
        if recipe.determinism == "portable" and hasattr(recipe, inputs.stage):  # prepare is exact on every processor
            portability.hold()
    return inputs


def run(main: Callable[[Inputs], None], inputs: Inputs) -> None:
    """Run `main` and end this process, with exit code 0 only if what the stage runs on is as it was at its start."""
    with rank.mistakes_after_the_first(), as_one_line():
        records.require_stages_before(inputs)
        main(inputs)
        outputs = confirmation.hash_outputs(inputs)
        changes.require_none(inputs)  # after the hashes, so that they are of what the stage wrote
    if "DVC_STAGE" in os.environ:
        confirmation.leave_behind(inputs, outputs)
    # At once: only `confirmation` would see an edit from now on until DVC has read the files.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def set_up_torch(
    settings: "params.Params", section: "params.Train | params.Evaluate"
) -> "tuple[torch.device, dict[str, Any]]":
    """Make PyTorch compute as the settings say; return the device and the description of this kind of machine.

    Raises UserError if the machine has no such device or cannot compute with that precision.
    """
    from samebits import runtime

    determinism = settings.chosen.determinism
    device = runtime.choose_device(settings.device, determinism)
    is_portable = determinism == "portable" and portability.is_held()
    if determinism == "portable" and not is_portable:
        print(
            "note: this is no x86-64 processor with AVX2, so the result is exact, not portable: the same bits only on this kind of machine",
            file=sys.stderr,
        )
    runtime.require_precision(section.precision, device)
    runtime.make_deterministic(section.num_threads, determinism)
    runtime.keep_memory()
    return device, runtime.environment(device, section.num_threads, is_portable)


def num_workers(settings: "params.Params", device: "torch.device") -> int:
    """Return how many mini-batches evaluate computes at once; `auto` is cores / num_threads, and on a GPU one."""
    if device.type != "cpu":
        return 1
    if settings.num_processes != "auto":
        return settings.num_processes
    return max(1, processes.num_cores() // settings.chosen.evaluate.num_threads)


def repository_root() -> Path:
    """Return the root of the user's repository, also in a temporary experiment, whose working folder is a copy inside it."""
    return Path(os.environ.get("DVC_ROOT", Path.cwd())).resolve()


def scratch() -> Path:
    """Return the folder of resume points, shared by all experiments; it is no output of DVC and in no commit."""
    return repository_root() / SCRATCH / "resume"
