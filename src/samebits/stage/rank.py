"""Which of a training's processes this one is."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WORKER = "worker"  # the first argument of those that the launcher starts; the second says where they meet
# The first argument of the launcher of a further machine; the next are the first machine's address and the seconds to wait for it.
JOIN = "join"
LAUNCHER = "SAMEBITS_LAUNCHER"  # the process number of the launcher
PREPARED = "SAMEBITS_PREPARED"  # the signatures of the prepared data that the launcher has compared with those of other machines
COPIES = "SAMEBITS_COPIES"  # the variable by which the launcher names the folder of `prepared.shared_copies`
_LATER_SECONDS = 3


def is_worker() -> bool:
    """Tell whether the launcher of this stage has started this process."""
    return sys.argv[1:2] == [WORKER]


def is_first() -> bool:
    """Tell whether this process reports and writes: the first of the workers, or the only process."""
    return not is_worker() or os.environ["RANK"] == "0"


def launcher() -> int:
    """Return the process number of the launcher, or of this process if it is the only one."""
    return int(os.environ[LAUNCHER]) if is_worker() else os.getpid()


def meeting_place() -> str:
    """Return where the workers meet: the path of a file, or HOST:PORT if other machines may join."""
    return sys.argv[2]


@contextmanager
def mistakes_after_the_first() -> Iterator[None]:
    """Let the first process end before the others if all meet the same mistake: the launcher repeats what another one says."""
    try:
        yield
    except SystemExit as ending:
        if ending.code == 1 and not is_first():
            time.sleep(_LATER_SECONDS)
        raise


def copies() -> Path | None:
    """Return the folder of the copies that all workers of this machine map; None if this process maps one of its own."""
    return Path(os.environ[COPIES]) if is_worker() and COPIES in os.environ else None
