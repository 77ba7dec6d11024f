"""Recording what a stage does as an MLflow run, by a process of its own: MLflow may be slow, fail or hang, a stage never does."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import samebits
from samebits.stage.inputs import Origin
from samebits.tracking import runs
from samebits.tracking.content import RunContent
from samebits.tracking.store import quiet_mlflow

WAIT_SECONDS = 60.0
# Whoever interrupts a stage, or sees it fail, does not want to wait for its record.
WAIT_SECONDS_AFTER_FAILURE = 10.0


@dataclass(frozen=True)
class Open:
    """There will be something to record."""


@dataclass(frozen=True)
class Begin:
    """A training begins; `key` stands for all that decides its bits, so a run of it that was interrupted goes on."""

    origin: Origin
    parameters: Mapping[str, Any]
    data_md5: str
    environment: Mapping[str, Any]
    key: str
    process: Mapping[str, str] = field(default_factory=runs.process_tags)


@dataclass(frozen=True)
class Row:
    """A row of the history (`step` and numbers), reported at `timestamp` (milliseconds since 1970)."""

    timestamp: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Finish:
    """What came out, and where it comes from; for an evaluation also the `workspace` and those outputs that are `pictures`."""

    origin: Origin
    content: RunContent
    workspace: Path | None = None
    pictures: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class End:
    """The stage has ended: FINISHED, FAILED or KILLED."""

    status: str


Message = Open | Begin | Row | Finish | End


class Recorder:
    """Records `what` a stage does, such as "this training", in the tracking store of the DVC root `root`.

    Its process starts at once, so that it imports MLflow (2 s) while the stage imports PyTorch. Leaving the block after
    `finish` makes the run FINISHED, an exception FAILED, Ctrl-C or an exit KILLED.
    """

    def __init__(self, root: Path, what: str) -> None:
        quiet_mlflow()
        self._what = what
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._is_finished = False
        source = str(Path(samebits.__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "samebits.tracking", str(root.absolute()), what],
            stdin=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C ends the stage, and the end of its pipe this process
        )
        # A full pipe must not hold up the stage.
        self._sending = threading.Thread(target=self._send, daemon=True)
        self._sending.start()

    def __enter__(self) -> Self:
        self._messages.put(Open())
        return self

    def begin(self, message: Begin) -> None:
        """Open the run of a training; returns at once, as all others do."""
        self._messages.put(message)

    def report(self, values: Mapping[str, Any], **system: float) -> None:
        """Take a row of the history and facts about the machine."""
        self._messages.put(Row(int(time.time() * 1000), {**values, **system}))

    def finish(self, message: Finish) -> None:
        """Say what came out. Rows of its history that were not reported, those before a resume, are added."""
        self._is_finished = True
        self._messages.put(message)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and self._is_finished:
            self._end("FINISHED", WAIT_SECONDS)
        else:
            is_stopped = kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit)
            self._end("KILLED" if is_stopped else "FAILED", WAIT_SECONDS_AFTER_FAILURE)

    def _end(self, status: str, seconds: float) -> None:
        self._messages.put(End(status))
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            print(warning(self._what, f"not done after {seconds:.0f} s", status), file=sys.stderr)

    def _send(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            while True:
                message = self._messages.get()
                pickle.dump(message, pipe)
                pipe.flush()
                if isinstance(message, End):
                    return


def warning(what: str, reason: str, status: str) -> str:
    """Say that `what` was not recorded."""
    reassurance = "; the result itself is complete" if status == "FINISHED" else ""
    return f"warning: MLflow did not record {what} ({reason}){reassurance}"
