"""Real remotes for tests: a folder, an SSH server and an S3 server, each on this machine and only for the test."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dvc.config import Config

from tests.conftest import Repository, require_program

BUCKET = "results"


@dataclass(frozen=True)
class Remote:
    """A remote called team: how DVC is told of it, and how to look into it past DVC."""

    url: str
    names: Callable[[], list[str]]  # of files, as in files/md5/ab/cd...
    write: Callable[[str, bytes], None]
    settings: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)  # what each person sets for themselves

    def add_to(self, repository: Repository) -> None:
        """Do what whoever sets it up does by `dvc remote add` and `dvc remote modify`, and commit that."""
        with Config(str(repository.root / ".dvc")).edit() as values:
            values["remote"]["team"] = {"url": self.url, **self.settings}
            values["core"]["remote"] = "team"
        repository.commit("a remote for the team")
        self.log_in(repository)

    def log_in(self, repository: Repository) -> None:
        """Do what each person does in a clone of their own by `dvc remote modify --local`."""
        if self.secrets:
            with Config(str(repository.root / ".dvc")).edit("local") as values:
                values["remote"].setdefault("team", {}).update(self.secrets)

    def objects(self) -> list[str]:
        """Return the MD5s of the objects."""
        return ["".join(name.split("/")[-2:]) for name in self.names() if name.startswith("files/md5/")]

    def damage(self, md5: str) -> None:
        """Let an object hold something else, and less."""
        self.write(f"files/md5/{md5[:2]}/{md5[2:]}", b"damaged")


def clone(repository: Repository, name: str, remote: Remote | None = None) -> Repository:
    """Clone it as a colleague does."""
    root = repository.root.parent / name
    repository.run("git", "clone", "--quiet", str(repository.root), str(root))
    colleague = Repository(root)
    if remote:
        remote.log_in(colleague)
    return colleague


def folder(path: Path) -> Remote:
    """A folder, as on a network drive."""
    path.mkdir(parents=True, exist_ok=True)

    def names() -> list[str]:
        files = (file for file in path.rglob("*") if file.is_file())
        return [file.relative_to(path).as_posix() for file in files if not file.name.endswith(".tmp")]

    def write(name: str, content: bytes) -> None:
        (path / name).unlink(missing_ok=True)
        (path / name).write_bytes(content)

    return Remote(str(path), names, write, {"verify": "true"})


@contextmanager
def ssh(path: Path) -> Iterator[Remote]:
    """An sshd on a free port of this machine, with keys of its own."""
    require_program("sshd", "openssh-server")
    if not shutil.which("ssh-keygen"):
        require_program("ssh-keygen", "openssh-client")
    path.mkdir(parents=True)
    path.chmod(0o700)
    for name in ("host", "user", "stranger"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path / name)]
        subprocess.run(command, check=True)
    shutil.copy(path / "user.pub", path / "authorized")
    port = free_port()
    (path / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {path}/host\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {path}/authorized\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "UsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:  # where a server that is root goes before anybody has logged in
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = shutil.which("sshd") or "/usr/sbin/sshd"
    with (path / "log").open("wb") as log:
        process = subprocess.Popen([server, "-D", "-e", "-f", str(path / "config")], stderr=log)
    try:
        wait_for_port(port)
        inner = folder(path / "objects")
        settings = {"verify": "true", "port": str(port), "user": getpass.getuser()}
        yield Remote(
            f"ssh://127.0.0.1{path}/objects", inner.names, inner.write, settings, {"keyfile": str(path / "user")}
        )
    finally:
        process.terminate()
        process.wait()


@contextmanager
def s3() -> Iterator[Remote]:
    """moto's server, which speaks S3's protocol."""
    import boto3
    from moto.server import ThreadedMotoServer

    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        endpoint = f"http://127.0.0.1:{port}"
        secrets = {"access_key_id": "somebody", "secret_access_key": "secret"}
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="somebody",
            aws_secret_access_key="secret",
        )
        client.create_bucket(Bucket=BUCKET)

        def names() -> list[str]:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="store/")
            return [each["Key"].removeprefix("store/") for page in pages for each in page.get("Contents", [])]

        def write(name: str, content: bytes) -> None:
            client.put_object(Bucket=BUCKET, Key=f"store/{name}", Body=content)

        settings = {"verify": "true", "endpointurl": endpoint, "region": "us-east-1"}
        yield Remote(f"s3://{BUCKET}/store", names, write, settings, secrets)
    finally:
        server.stop()


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for_port(port: int, seconds: float = 60) -> None:
    """Wait until somebody listens on the port."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens on port {port}"
            time.sleep(0.1)
