"""A tracking server as a team has one: `mlflow server` on PostgreSQL, each on this machine and only for the test."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.remotes import free_port, wait_for_port


def program(name: str) -> str | None:
    """Find a program of PostgreSQL, which Debian keeps out of PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(installed[-1]) if installed else shutil.which(name)


@contextmanager
def postgresql() -> Iterator[str]:
    """Run PostgreSQL as an unprivileged user, which it insists on; give the address of an empty database."""
    initdb, postgres = program("initdb"), program("postgres")
    assert initdb and postgres
    folder = Path(tempfile.mkdtemp(prefix="samebits-postgresql-", dir="/tmp"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        as_user = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    data, port = folder / "data", free_port()
    options = ["--pgdata", str(data), "--username", "mlflow", "--auth", "trust", "--no-sync", "--encoding", "UTF8"]
    subprocess.run([*as_user, initdb, *options], check=True, capture_output=True, cwd=folder)
    serve = [postgres, "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        command = [*as_user, *serve, "-c", f"unix_socket_directories={folder}"]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        wait_for_port(port, seconds=300)
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # its fast way to end
        process.wait()
        shutil.rmtree(folder)
        (folder.parent / f"{folder.name}.log").unlink()


@dataclass
class TrackingServer:
    """A server that can be killed and started again, at one address."""

    database: str
    artifacts: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def uri(self) -> str:
        """What MLFLOW_TRACKING_URI has to be."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        store = ["--backend-store-uri", self.database, "--artifacts-destination", self.artifacts.as_uri()]
        command = [sys.executable, "-m", "mlflow", "server", *address, *store]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        # No processes for GenAI's jobs, each of which imports MLflow.
        environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.artifacts.parent.mkdir(parents=True, exist_ok=True)
        with (self.artifacts.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.artifacts.parent, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 600
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None
                time.sleep(0.2)

    def kill(self) -> None:
        """Kill it with all its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextmanager
def tracking_server(database: str, folder: Path) -> Iterator[TrackingServer]:
    """Run a server that keeps runs in `database` and artifacts in `folder`."""
    server = TrackingServer(database, folder / "artifacts", free_port())
    try:
        server.start()
        yield server
    finally:
        server.kill()
