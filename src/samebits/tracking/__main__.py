"""The process that records what a stage does: `Recorder` starts it and tells it what to write."""

import gc
import os
import pickle
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, Queue

from samebits.tracking import content, runs
from samebits.tracking.errors import short
from samebits.tracking.recorder import Begin, End, Finish, Message, Row, warning
from samebits.tracking.store import Store, open_store

FLUSH_SECONDS = 3.0


def main() -> None:
    """Open the store of the DVC root that is named, and write there what standard input says until it ends."""
    gc.disable()  # MLflow's import makes a million objects and no garbage: 0.5 s, and as much again at the end
    os.nice(5)  # the stage goes first
    root, what = Path(sys.argv[1]), sys.argv[2]
    inbox = _Inbox()
    inbox.start()
    try:
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (takes two seconds, in which the stage does the same)

        inbox.messages.get()
        store = open_store(root)
        runs.close_abandoned(store)
        _record(store, inbox.messages)
    except BaseException as error:
        inbox.join()  # to say it when the stage has ended
        print(warning(what, short(error), inbox.status), file=sys.stderr, flush=True)
    os._exit(0)  # without a look at each of MLflow's objects


class _Inbox(threading.Thread):
    """What the stage says, received at once, however busy the main thread is; at the end `status` says how the stage ended."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.messages: Queue[Message] = Queue()
        self.status = "KILLED"  # unless the stage says something else before it is gone

    def run(self) -> None:
        message: Message | None = None
        with suppress(EOFError, pickle.UnpicklingError):
            while not isinstance(message, End):
                message = pickle.load(sys.stdin.buffer)
                self.messages.put(message)
        if message is None:
            os._exit(0)  # the stage has ended before there was anything to record
        if isinstance(message, End):
            self.status = message.status
        else:
            self.messages.put(End(self.status))


def _record(store: Store, messages: "Queue[Message]") -> None:
    opened: runs.Opened | None = None
    finish: Finish | None = None
    rows: list[Row] = []
    due = 0.0
    while True:
        try:
            message = messages.get(timeout=max(0.0, due - time.monotonic()) if rows else None)
        except Empty:
            message = None
        match message:
            case Begin():
                description = runs.describe(
                    message.origin, message.parameters, message.data_md5, message.environment, message.key
                )
                opened = runs.open_training(store, description, message.process)
            case Row():
                due = due if rows else time.monotonic() + FLUSH_SECONDS
                rows.append(message)
                continue
            case Finish():
                finish = message
                continue
        if opened:
            runs.log_rows(store, opened, [(row.timestamp, row.values) for row in rows])
        rows.clear()
        if isinstance(message, End):
            break
    if finish and message.status == "FINISHED":
        content.record(store, _completed(finish), finish.origin, opened)
    elif opened:
        store.client.set_terminated(opened.run_id, message.status)


def _completed(finish: Finish) -> content.RunContent:
    if finish.workspace is None:
        return finish.content
    pictures = {path.name: (finish.workspace / path).read_bytes() for path in finish.pictures}
    return replace(finish.content, pictures=pictures, outputs=content.outputs_of_workspace(finish.workspace))


if __name__ == "__main__":
    main()
