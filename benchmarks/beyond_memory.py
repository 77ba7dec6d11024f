"""A training on 8 GB of prepared images in 2 GB of memory against one without limit: whole train stages, from a cold disk.

It takes root, a Linux with memory control groups, and 16 GB of disk in the temporary folder. Elsewhere there is no row.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import NUM_ROUNDS, Row, ratio, show_progress
from benchmarks.stages import choose, run

NUM_IMAGES = 1_310_000  # 8 GB
LIMIT_BYTES = 2_000_000_000
# The folder of all groups and the file of a group that holds its limit, in version 1 and 2 of the kernel's interface.
INTERFACES = {"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"}


@contextmanager
def limited_group() -> Iterator[Path]:
    """Yield a memory control group of LIMIT_BYTES. Raises OSError if none can be made."""
    usable = [(Path(root), name) for root, name in INTERFACES.items() if Path(root, "cgroup.procs").exists()]
    if not usable:
        raise OSError("this system has none")
    root, limit = usable[0]
    group = root / "samebits-bench"
    group.mkdir(exist_ok=True)
    try:
        (group / limit).write_text(str(LIMIT_BYTES))
        yield group
    finally:
        time.sleep(1)  # the last process is still leaving
        group.rmdir()


def train(clone: Path, group: Path | None) -> float:
    """Seconds of the train stage, from nothing, and with nothing of the disk in memory."""
    shutil.rmtree(clone / ".samebits", ignore_errors=True)
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    enter = f"echo $$ > {group}/cgroup.procs && " if group else ""
    return run(clone, "sh", "-c", f"{enter}exec {sys.executable} stages/train.py")


def rows() -> list[Row]:
    """Return the row of more images than memory."""
    try:
        with limited_group():
            pass
    except OSError as error:
        print(f"note: no memory control group can be made here ({error})", file=sys.stderr)
        return []
    seconds: dict[str, list[float]] = {"limited": [], "free": []}
    with tempfile.TemporaryDirectory() as folder, limited_group() as group:
        clone = Path(folder, "clone")
        run(Path.cwd(), "git", "clone", "--quiet", ".", str(clone))
        choose(clone, "linear", num_train=NUM_IMAGES, num_test=1_000)
        run(clone, sys.executable, "stages/prepare.py")
        checkpoints = set()
        for number in range(NUM_ROUNDS):
            for name, each in (("limited", group), ("free", None)):
                show_progress(f"{name}, round {number + 1} of {NUM_ROUNDS}")
                seconds[name].append(train(clone, each))
                checkpoints.add((clone / "data/model/checkpoint.safetensors").read_bytes())
        assert len(checkpoints) == 1
        show_progress("")
    return [ratio("linear on 8 GB of images: in 2 GB of memory / without limit", "free", *seconds.values())]
