"""The process that writes an evaluation's run: `EvaluationRecord` starts it and tells it at the end what to write."""

import gc
import json
import sys
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from samebits.tracking import results, runs
from samebits.tracking.attempt import WAIT_SECONDS, Attempt
from samebits.tracking.store import open_store


def main() -> None:
    """Open the store of the DVC root that is named, then write there the evaluation that standard input gives."""
    gc.disable()  # MLflow's import makes a million objects and no garbage: 0.5 s, and as much again at the end
    root, workspace = map(Path, sys.argv[1:])
    messages: SimpleQueue[dict[str, Any]] = SimpleQueue()
    attempt = Attempt("this evaluation", lambda: _write(root, workspace, messages))
    attempt.start()
    if message := sys.stdin.read():  # nothing where the evaluation has failed
        messages.put(json.loads(message))
        attempt.wait(WAIT_SECONDS, "; the result itself is complete")
    gc.freeze()


def _write(root: Path, workspace: Path, messages: "SimpleQueue[dict[str, Any]]") -> None:
    store = open_store(root)
    runs.close_abandoned(store)
    message = messages.get()
    pictures = {Path(path).name: Path(path).read_bytes() for path in message.pop("pictures")}
    outputs = results.outputs_of_workspace(workspace)
    result = results.RunContent(pictures=pictures, outputs=outputs, **message)
    results.write(store, result, runs.origin_of_workspace(workspace))


if __name__ == "__main__":
    main()
