"""Which of a training's processes this one is."""

import os
import sys

WORKER = "worker"  # the argument of those that the launcher starts


def is_worker() -> bool:
    """Tell whether the launcher of this stage has started this process."""
    return sys.argv[1:] == [WORKER]


def is_first() -> bool:
    """Tell whether this process reports and writes: the first of the workers, or the only process."""
    return not is_worker() or os.environ["RANK"] == "0"
