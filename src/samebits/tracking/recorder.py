"""Recording a stage as an MLflow run, in a process of its own: MLflow may be slow, fail or hang, the stage never does."""

import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import samebits
from samebits.tracking.run_content import RunContent
from samebits.tracking.runs import OpenRun, close_abandoned, log_rows, now, open_run, process_tags, record
from samebits.tracking.store import Store, open_store, quiet_mlflow, short

WAIT_SECONDS = 60.0
WAIT_SECONDS_AFTER_FAILURE = 10.0  # a user who interrupts a stage, or sees it fail, does not want to wait
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from samebits.tracking.recorder import write; write(*sys.argv[2:])"
)

Messages = SimpleQueue[tuple[Any, ...]]  # from the stage to the process that writes: a kind, and its values


class Recorder:
    """Records what a stage does, called `what` in messages, in the tracking store of the DVC root `root`.

    Its process starts at once and imports MLflow (2 s) while the stage imports PyTorch. Leaving the block after `finish`
    makes the run FINISHED, an exception FAILED, Ctrl-C or an exit KILLED.
    """

    def __init__(self, root: Path, what: str) -> None:
        quiet_mlflow()
        self._what = what
        self._messages: Messages = SimpleQueue()
        self._is_finished = False
        source = str(Path(samebits.__file__).resolve().parents[1])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, source, str(root.absolute()), what],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C ends the stage; the end of the pipe then ends this process
        )
        threading.Thread(target=self._send, daemon=True).start()  # a full pipe must not stop the stage

    def __enter__(self) -> Self:
        self._messages.put(("open",))
        return self

    def begin(self, content: RunContent) -> None:
        """Open the run of a training. Returns at once, like the other methods."""
        self._messages.put(("begin", content, process_tags()))

    def report(self, row: Mapping[str, Any], **system: float) -> None:
        """Log a row of the history (`step` and numbers) and measurements of the machine."""
        self._messages.put(("row", now(), {**row, **system}))

    def finish(self, content: RunContent) -> None:
        """Complete the run. Rows of the history that were not reported, those before a resume, are added."""
        self._is_finished = True
        self._messages.put(("finish", content))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status, seconds = "FINISHED", WAIT_SECONDS
        if kind or not self._is_finished:
            is_stopped = kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit)
            status, seconds = "KILLED" if is_stopped else "FAILED", WAIT_SECONDS_AFTER_FAILURE
        self._messages.put(("end", status))
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            print(_warning(self._what, f"not done after {seconds:.0f} s", status), file=sys.stderr)

    def _send(self) -> None:
        assert self._process.stdin is not None
        message: tuple[Any, ...] = ("",)
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            while message[0] != "end":
                message = self._messages.get()
                pickle.dump(message, pipe)
                pipe.flush()


def write(root: str, what: str) -> None:
    """Be the process of a Recorder: write to the store of `root` what standard input says, until it ends."""
    gc.disable()  # MLflow's import makes a million objects and no garbage: saves 0.5 s, and as much at the end
    os.nice(5)  # the stage goes first
    messages: Messages = SimpleQueue()
    ended: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_receive, args=(messages, ended), daemon=True).start()
    try:
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (2 s, in which the stage imports PyTorch)

        messages.get()  # "open": the stage has begun its work
        store = open_store(Path(root))
        close_abandoned(store)
        _write_run(store, messages)
    except BaseException as error:
        print(_warning(what, short(error), ended.get()), file=sys.stderr, flush=True)
    os._exit(0)  # without visiting each of MLflow's objects


def _receive(messages: Messages, ended: "SimpleQueue[str]") -> None:
    """Take in messages at once, however busy the main thread is; at the end tell how the stage ended."""
    message: tuple[Any, ...] = ()
    try:
        while message[:1] != ("end",):
            message = pickle.load(sys.stdin.buffer)
            messages.put(message)
    except (EOFError, pickle.UnpicklingError):
        if not message:
            os._exit(0)  # the stage ended before there was anything to record
        message = ("end", "KILLED")  # it did not live to say how it ended
        messages.put(message)
    ended.put(message[1])


def _write_run(store: Store, messages: Messages) -> None:
    opened: OpenRun | None = None
    finished: RunContent | None = None
    status = ""
    rows: list[tuple[int, dict[str, Any]]] = []
    while not status:
        match messages.get():
            case ("begin", content, process):
                opened = open_run(store, content, process)
            case ("row", timestamp, values):
                rows.append((timestamp, values))
            case ("finish", content):
                finished = content
            case ("end", status):
                pass
        if opened and (status or messages.empty()):  # else more rows go in the same call
            log_rows(store, opened, rows)
            rows.clear()
    if finished and status == "FINISHED":
        record(store, finished, opened)
    elif opened:
        store.client.set_terminated(opened.run_id, status)


def _warning(what: str, reason: str, status: str) -> str:
    reassurance = "; the result itself is complete" if status == "FINISHED" else ""
    return f"warning: MLflow did not record {what} ({reason}){reassurance}"
