"""Many image files, decoded by up to eight processes, in order and in constant memory."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from math import prod

from samebits.data import images
from samebits.data.images import FileImage, UnreadableImage
from samebits.errors import UserError
from samebits.processes import end_with

_FILES_PER_TASK = 64
_BYTES_PER_TASK = 2**22  # of decoded images
_MAX_PROCESSES = 8  # each may hold one very large image

# For each file the image, or why there is none.
Outcome = FileImage | str


def decode(paths: Sequence[str], image_shape: tuple[int, int, int]) -> Iterator[Outcome]:
    """Read each file of `paths` as `images.read` does for `image_shape` (channels, height, width), on up to eight cores.

    Only a few files ahead are held in memory. Raises UserError if a process is killed.
    """
    size = max(1, min(_FILES_PER_TASK, _BYTES_PER_TASK // prod(image_shape)))
    if len(paths) <= size:
        yield from _read(paths, image_shape)
        return
    # Not threads: for small images most of the time is Python's. loky's processes do not run the main module again.
    from joblib import cpu_count
    from joblib.externals.loky import ProcessPoolExecutor

    num_processes = min(cpu_count(), _MAX_PROCESSES)
    with ProcessPoolExecutor(num_processes, initializer=end_with, initargs=(os.getpid(),)) as executor:
        parts = (paths[start : start + size] for start in range(0, len(paths), size))
        tasks = (executor.submit(_read, part, image_shape) for part in parts)
        try:
            waiting: deque[Future[list[Outcome]]] = deque(islice(tasks, 4 * num_processes))
            while waiting:
                yield from waiting.popleft().result()
                waiting.extend(islice(tasks, 1))
        except BrokenProcessPool:
            raise UserError("a process that reads images was killed: is there enough memory?") from None


def _read(paths: Sequence[str], image_shape: tuple[int, int, int]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for path in paths:
        try:
            outcomes.append(images.read(path, image_shape))
        except UnreadableImage as error:
            outcomes.append(str(error))
    return outcomes
