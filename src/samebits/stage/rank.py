"""Which of a training's processes this one is."""

import os
import sys
from pathlib import Path

WORKER = "worker"  # the first argument of those that the launcher starts; the second is the file by which they meet
COPIES = "SAMEBITS_COPIES"  # the variable by which the launcher names the folder of `prepared.shared_copies`


def is_worker() -> bool:
    """Tell whether the launcher of this stage has started this process."""
    return sys.argv[1:2] == [WORKER]


def is_first() -> bool:
    """Tell whether this process reports and writes: the first of the workers, or the only process."""
    return not is_worker() or os.environ["RANK"] == "0"


def meeting_place() -> str:
    """Return where the workers meet, as PyTorch's `init_process_group` takes it.

    It is a file. A port would be open to everybody who reaches this machine, and workers unpickle what they get.
    """
    return f"file://{sys.argv[2]}"


def copies() -> Path | None:
    """Return the folder of the copies that all workers of this machine map; None for the only process."""
    return Path(os.environ[COPIES]) if is_worker() else None
