"""MLflow's page of this project's runs: its address, and a server that shows it if the store has none."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from contextlib import suppress
from pathlib import Path

from samebits.errors import UserError
from samebits.tracking.store import open_store, store_errors, tracking_uri, without_password

_NUM_PORTS = 10
# What the page shows beside name and time. MLflow keeps it in the experiment, as a view that an address can name.
_VIEW, _TAG = "samebits", "mlflow.sharedViewState.samebits"
_COLUMNS = [
    *("metrics.`accuracy`", "metrics.`loss`", "params.`recipe`", "params.`seed`"),
    *("attributes.`Version`", "attributes.`Dataset`", "attributes.`Source`"),
]


def show(root: Path, first_port: int) -> int:
    """Show the table of the runs of `root`: on the tracking server, or on one of our own until Ctrl-C. Return 0.

    Ours listens on this machine's first free port of those from `first_port`. Raises UserError if the store cannot be used.
    """
    print("MLflow starts ...", file=sys.stderr)  # which takes ten seconds
    uri = tracking_uri(root)
    with store_errors(root):
        store = open_store(root)
        view = {"selectedColumns": _COLUMNS, "columnOrder": _COLUMNS}
        store.client.set_experiment_tag(store.experiment_id, _TAG, json.dumps(view))
    page = f"#/experiments/{store.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={_VIEW}"
    if uri.startswith(("http://", "https://")):
        _open(f"{without_password(uri).rstrip('/')}/{page}")
    else:
        _serve(root, uri, _free_port(first_port), page)
    return 0


def _serve(root: Path, uri: str, port: int, page: str) -> None:
    """Run MLflow's server until Ctrl-C. Raises UserError if it ends by itself."""
    address = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    # Not as an argument, which every user of the machine can read: it may hold a password. No processes for GenAI's jobs.
    settings = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # the server must not outlive us
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "mlflow", "server", *address],
            cwd=root,
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends us, and we end all processes of the server
        )
        try:
            while server.poll() is None:
                if _answers(port):
                    _open(f"http://127.0.0.1:{port}/{page}")
                    print("Ctrl-C ends it.", flush=True)
                    server.wait()
                time.sleep(0.1)
            log.seek(0)
            raise UserError(f"MLflow's server has ended: {' '.join(log.read().split())[-300:]}")
        except KeyboardInterrupt:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # at once: its database is made for that
            server.wait()


def _free_port(first: int) -> int:
    ports = range(first, min(first + _NUM_PORTS, 65536))
    for port in ports:
        if not _answers(port):
            return port
    raise UserError(f"the ports {first} to {ports[-1]} are in use: choose another with --port")


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _open(address: str) -> None:
    print(f"tracking page: {address}", flush=True)
    if sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):  # not a browser in the terminal
        webbrowser.open(address)
