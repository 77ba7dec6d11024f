"""Several machines for one training: the same bits whoever comes, goes and dies. A machine is a network namespace here."""

import hashlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from torch.distributed import HashStore

from samebits import paths
from samebits.stage import addresses, machines
from samebits.training.parallel import num_computing
from tests.conftest import Repository, copy_tree, require_program, slow_down
from tests.test_cifar10 import NEEDS_MOUNT, small_disk
from tests.test_kill import points, wait_until

PORT = 29400
# Shifts the clock of a process by a year: CLOCK_REALTIME alone, as a wrong clock does.
WRONG_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
#define YEAR 31536000
int clock_gettime(clockid_t id, struct timespec *at) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, at);
    if (id == CLOCK_REALTIME) at->tv_sec -= YEAR;
    return failed;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec; at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


def in_shards(values: dict) -> None:
    """Train softmax regression in 8 shards, for some seconds."""
    values.update(recipe="linear", num_processes=1, checkpoint_every_seconds=0.25)
    values["recipes"]["linear"]["train"].update(num_shards=8, batch_size=16, num_epochs=60, report_every_steps=1000)


def ip(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


class Machine:
    """A clone of the project, with its prepared data, and a network namespace."""

    def __init__(self, repository: Repository, namespace: str, address: str, link: str = "") -> None:
        self.repository, self.namespace, self.address, self._link = repository, namespace, address, link

    def start(self, *command: str, num_processes: int = 1, **environment: str) -> "subprocess.Popen[str]":
        self.repository.edit(lambda values: values.update(num_processes=num_processes))
        variables = [f"{name}={value}" for name, value in environment.items()]
        return self.repository.start("ip", "netns", "exec", self.namespace, "env", *variables, *command)

    def train(self, num_processes: int = 1) -> "subprocess.Popen[str]":
        """Start the training as its first machine."""
        listen = f"{self.address}:{PORT}"
        return self.start("python", "stages/train.py", num_processes=num_processes, SAMEBITS_LISTEN=listen)

    def join(self, first: "Machine", num_processes: int = 1, **environment: str) -> "subprocess.Popen[str]":
        command = ("samebits", "join", f"{first.address}:{PORT}", "--wait", "600")
        return self.start(*command, num_processes=num_processes, **environment)

    def processes(self) -> list[psutil.Process]:
        """Return all processes in the namespace."""
        found = []
        for pid in ip("netns", "pids", self.namespace).stdout.split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def workers(self) -> list[psutil.Process]:
        found = []
        for each in self.processes():
            with suppress(psutil.NoSuchProcess):
                if each.cmdline()[-2:-1] == ["worker"]:
                    found.append(each)
        return found

    def is_silent(self) -> bool:
        """Tell whether nothing runs here, and no port is open."""
        listening = subprocess.run(
            ["ip", "netns", "exec", self.namespace, "cat", "/proc/net/tcp", "/proc/net/tcp6"],
            capture_output=True,
            text=True,
            check=True,
        )
        return not self.processes() and not re.findall(r" 0A ", listening.stdout)

    def cut(self) -> None:
        """Take this machine off the network."""
        ip("netns", "exec", self.namespace, "ip", "link", "set", "e0", "down")

    def mend(self) -> None:
        ip("netns", "exec", self.namespace, "ip", "link", "set", "e0", "up")

    def close_all_ports_but(self, port: int) -> None:
        """Put up a firewall: what wants to connect to another port gets no answer."""
        rules = ("add table inet f", "add chain inet f in { type filter hook input priority 0; }")
        drop = f'add rule inet f in iifname != "lo" tcp flags & (syn | ack) == syn tcp dport != {port} drop'
        nft = ("ip", "netns", "exec", self.namespace, "nft", "-f", "-")
        subprocess.run(nft, input="\n".join([*rules, drop]), text=True, check=True)

    def checkpoint(self) -> str:
        return hashlib.sha256((self.repository.root / paths.CHECKPOINT).read_bytes()).hexdigest()


@pytest.fixture
def network(prepared: Repository, tmp_path: Path) -> Iterator[list[Machine]]:
    """Three machines on one network, with prepared data; of which one can train."""
    require_program("ip", "iproute2")
    prepared.repro("prepare")
    prepared.edit(in_shards)
    names = [f"samebits{os.getpid()}{letter}" for letter in "abc"]
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.strip()}")
    try:
        inside = ("netns", "exec", names[0], "ip")
        ip(*inside, "link", "add", "bridge0", "type", "bridge")
        ip(*inside, "addr", "add", "10.77.0.1/24", "dev", "bridge0")
        found = [Machine(prepared, names[0], "10.77.0.1")]
        for number, name in enumerate(names[1:], start=2):
            ip("netns", "add", name)
            ip(*inside, "link", "add", f"v{number}", "type", "veth", "peer", "name", "e0", "netns", name)
            ip(*inside, "link", "set", f"v{number}", "master", "bridge0", "up")
            ip("netns", "exec", name, "ip", "addr", "add", f"10.77.0.{number}/24", "dev", "e0")
            ip("netns", "exec", name, "ip", "link", "set", "e0", "up")
            root = tmp_path / f"machine{number}"
            copy_tree(prepared.root, root)
            found.append(Machine(Repository(root), name, f"10.77.0.{number}"))
        for name in names:
            ip("netns", "exec", name, "ip", "link", "set", "lo", "up")
        ip(*inside, "link", "set", "bridge0", "up")
        yield found
    finally:
        for name in names:
            for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def expected(network: list[Machine]) -> str:
    """Return the hash of the checkpoint of one process that is never stopped. All trainings after it take their time."""
    first = network[0]
    process = first.start("python", "stages/train.py")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    shutil.rmtree(first.repository.root / ".samebits")
    for each in network:
        slow_down(each.repository, 0.05)
    return first.checkpoint()


def newest(machine: Machine) -> str:
    return max((path.name for path in points(machine.repository)), default="")


def wait_for_a_point(first: Machine, process: "subprocess.Popen[str]") -> None:
    before = newest(first)
    assert wait_until(lambda: newest(first) > before, process, 180), process.communicate()[0]


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    assert wait_until(lambda: bool(condition()), process, 180), process.communicate()[0]


def end(process: "subprocess.Popen[str]") -> str:
    return process.communicate(timeout=900)[0]


@pytest.mark.long
@pytest.mark.usefixtures("cold")
def test_machines_come_and_go_and_the_bits_stay(network: list[Machine], tmp_path: Path) -> None:
    require_program("cc", "gcc")
    (tmp_path / "clock.c").write_text(WRONG_CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "clock.so", tmp_path / "clock.c", "-ldl"], check=True)
    first, second, third = network
    hashed = expected(network)

    training = first.train()
    wait_for_a_point(first, training)
    helper = second.join(first, num_processes=2, LD_PRELOAD=str(tmp_path / "clock.so"))
    wait_for(lambda: len(second.workers()) == 2, training)
    wait_for_a_point(first, training)

    second.cut()  # the first goes on alone, and the second with it when it is back
    wait_for(lambda: not second.workers(), training)
    wait_for_a_point(first, training)
    second.mend()
    wait_for(second.workers, training)
    wait_for_a_point(first, training)

    second.workers()[0].kill()  # it joins again
    wait_for(lambda: not second.workers(), training)
    wait_for(second.workers, training)
    wait_for_a_point(first, training)

    added = third.join(first)  # with it four processes compute
    wait_for(third.workers, training)
    another = third.join(first)  # which has nothing to do as yet
    wait_for_a_point(first, training)

    for each in second.processes():  # as if it had no power
        each.suspend()
    wait_for_a_point(first, training)
    wait_for(lambda: len(third.workers()) == 1, training)
    wait_for_a_point(first, training)
    for each in second.processes():
        each.kill()
    assert end(helper)

    os.killpg(added.pid, signal.SIGINT)
    told = end(training)
    assert training.returncode == 0 and first.checkpoint() == hashed
    assert "Traceback" not in told and "this machine trains alone" in told, told
    assert added.wait() == 130 and another.wait() == 0
    assert end(another).splitlines()[-1] == f"note: the training at {first.address}:{PORT} has ended"
    assert all(each.is_silent() for each in network)


@pytest.mark.long
@pytest.mark.usefixtures("cold")
def test_the_end_of_the_first_machine_is_the_end_of_all(network: list[Machine]) -> None:
    first, second, _ = network
    hashed = expected(network)
    for number, signal_number in enumerate((signal.SIGINT, signal.SIGKILL)):
        training = first.train(2)
        helper = second.join(first, 2)
        wait_for(second.workers, training)
        wait_for_a_point(first, training)
        os.killpg(training.pid, signal_number)
        assert "Traceback" not in end(training)
        assert training.returncode == (130, -signal.SIGKILL)[number]
        if signal_number == signal.SIGINT:
            assert end(helper).splitlines()[-1].endswith("has ended") and helper.returncode == 0
            assert first.is_silent() and second.is_silent()
    wait_for(lambda: not second.workers(), helper)
    training = first.train()  # it takes up the work, and the second, which has waited, helps again
    wait_for(second.workers, training)
    end(training)
    assert first.checkpoint() == hashed
    assert "Traceback" not in end(helper) and helper.returncode == 0
    assert first.is_silent() and second.is_silent()


@pytest.mark.long  # it waits for two minutes
def test_a_firewall_between_the_processes_is_one_line_and_the_first_goes_on(network: list[Machine]) -> None:
    require_program("nft", "nftables")
    first, second, _ = network
    hashed = expected(network)
    for each in (first, second):
        each.close_all_ports_but(PORT)
    training = first.train()
    wait_for_a_point(first, training)
    told = end(second.join(first))
    assert "Traceback" not in told and "error: the processes of this machine and of the others do not reach" in told
    assert "does a firewall let through all ports between them?" in told.splitlines()[-1]
    told = end(training)
    assert training.returncode == 0 and first.checkpoint() == hashed
    assert "Traceback" not in told


@pytest.mark.slow
@pytest.mark.usefixtures("cold")
def test_60_kills_at_random_of_workers_agents_and_machines_cost_no_bit(network: list[Machine]) -> None:
    chance, first = random.Random(0), network[0]
    num_in_all = int(os.environ.get("SAMEBITS_TEST_KILLS", "60"))
    for each in network:
        each.repository.edit(lambda values: values["recipes"]["linear"]["train"].update(num_epochs=8 * num_in_all))
    hashed = expected(network)
    training = first.train()
    helpers = {each: each.join(first, chance.choice((1, 2, 4))) for each in network[1:]}
    num_kills = {"worker": 0, "agent": 0, "link": 0, "first": 0}
    while sum(num_kills.values()) < num_in_all:
        before = newest(first)
        if not wait_until(lambda before=before: newest(first) > before, training, 300):
            break
        time.sleep(chance.uniform(0, 3))
        kind, victim = chance.choice(list(num_kills)), chance.choice(network[1:])
        if kind == "worker":
            if not (workers := chance.choice(network).workers()):
                continue
            chance.choice(workers).kill()
        elif kind == "agent":
            os.killpg(helpers[victim].pid, signal.SIGKILL)
            end(helpers[victim])
            assert wait_until(lambda victim=victim: not victim.processes(), training, 60)
            helpers[victim] = victim.join(first, chance.choice((1, 2, 4)))
        elif kind == "link":
            victim.cut()
            time.sleep(chance.uniform(0, 2 * machines.LOST_SECONDS))
            victim.mend()
        else:
            os.killpg(training.pid, signal.SIGKILL)
            end(training)
            assert psutil.wait_procs(first.processes(), 60)[1] == []
            training = first.train(chance.choice((1, 2, 4)))
        num_kills[kind] += 1
        print(f"{time.strftime('%X')} {num_kills} after step {int(newest(first).split('.')[0]):,}", flush=True)
        for each, helper in helpers.items():
            if helper.poll() is not None:
                print(f"{each.namespace} ended: {end(helper)}", flush=True)
                helpers[each] = each.join(first, chance.choice((1, 2, 4)))
    told = end(training)
    assert training.returncode == 0 and first.checkpoint() == hashed, told
    assert sum(num_kills.values()) == num_in_all
    for helper in helpers.values():
        end(helper)
    assert all(each.is_silent() for each in network)


@pytest.fixture
def pair(prepared: Repository, tmp_path: Path) -> tuple[Repository, Repository]:
    """Two clones with prepared data, whose training in shards takes its time."""
    prepared.repro("prepare")
    prepared.edit(in_shards)
    slow_down(prepared, 0.05)
    copy_tree(prepared.root, tmp_path / "other")
    return prepared, Repository(tmp_path / "other")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def refusal(repository: Repository, address: str) -> str:
    """Return the one line by which `samebits join` refuses."""
    refused = repository.run("samebits", "join", address, ok=False)
    assert refused.returncode == 1, refused.stderr
    (line,) = refused.stderr.splitlines()
    return line


@contextmanager
def disk_that_is_full(folder: Path) -> Iterator[None]:
    """Put what `folder` holds on a file system that has no room for more, as long as the block lasts."""
    size = sum(path.stat().st_size + 8192 for path in folder.rglob("*"))
    away = folder.with_name("away")
    folder.rename(away)
    with small_disk(folder, str(size)):
        shutil.copytree(away, folder, dirs_exist_ok=True)
        yield
    folder.rmdir()
    away.rename(folder)


@NEEDS_MOUNT
def test_a_machine_without_room_for_its_copy_says_so_and_the_first_goes_on(pair: tuple[Repository, Repository]) -> None:
    first, other = pair
    address = f"127.0.0.1:{free_port()}"
    training = first.start("python", "stages/train.py", SAMEBITS_LISTEN=address)
    try:
        assert wait_until(lambda: bool(points(first)), training, 120), training.communicate()[0]
        with disk_that_is_full(other.root / "data/prepared"):
            line = refusal(other, address)
        assert "could not be copied: No space left on device" in line and "make room there" in line
        before = points(first)
        assert wait_until(lambda: points(first) != before, training, 60)
    finally:
        os.killpg(training.pid, signal.SIGTERM)
        told, _ = training.communicate()
    assert "Traceback" not in told


def test_a_machine_whose_bits_would_be_others_is_refused_by_name(pair: tuple[Repository, Repository]) -> None:
    first, other = pair
    address = f"127.0.0.1:{free_port()}"
    training = first.start("python", "stages/train.py", SAMEBITS_LISTEN=address)
    try:
        assert wait_until(lambda: bool(points(first)), training, 120), training.communicate()[0]
        other.edit(lambda values: values.update(seed=1, num_processes=2, checkpoint_every_seconds=5))
        loop = other.root / "src/samebits/training/loop.py"
        loop.write_text(loop.read_text().replace("network.train()", "network.eval()"))
        shutil.rmtree(other.root / "data/prepared/train")
        line = refusal(other, address)
        assert line.startswith("error: this machine would compute other bits than the first one (seed 0 → 1, data/")
        assert re.search(r"data/prepared/train \w{7} → absent, src/samebits/training/loop.py \w{7} → \w{7}\)", line)
        with socket.create_server(("127.0.0.1", 0)) as held:
            address = f"127.0.0.1:{held.getsockname()[1]}"
            taken = first.run("python", "stages/train.py", ok=False, SAMEBITS_LISTEN=address)
        assert taken.stderr.splitlines() == [
            f"error: cannot listen at {address} (Address already in use): "
            "SAMEBITS_LISTEN must name an address of this machine and a free port"
        ]
    finally:
        os.killpg(training.pid, signal.SIGTERM)
        training.communicate()


def test_a_first_machine_that_is_not_there_is_one_line(pair: tuple[Repository, Repository]) -> None:
    _, other = pair
    port = free_port()
    assert refusal(other, f"127.0.0.1:{port}").startswith(
        f"error: 127.0.0.1:{port}: no training listens there, or not yet"
    )
    assert refusal(other, "nowhere.invalid:1") == "error: nowhere.invalid:1: this name is not known here"
    assert refusal(other, "127.0.0.1") == (
        "error: the first machine is '127.0.0.1': must be HOST:PORT, such as 192.168.1.10:29400"
    )
    assert refusal(other, "a..b:1") == (
        "error: the first machine is 'a..b:1': must be HOST:PORT, such as 192.168.1.10:29400"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert (
            refusal(other, f"127.0.0.1:{port}")
            == f"error: 127.0.0.1:{port}: what answers there is no training of samebits"
        )
    other.edit(lambda values: values["recipes"]["linear"]["train"].pop("num_shards"))
    assert refusal(other, "127.0.0.1:1").startswith("error: recipe linear trains in one process")


def test_a_firewall_that_lets_nothing_through_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "ANSWER_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as opened:
        for _ in range(2):  # the queue is full then, and Linux drops what comes after
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(server.getsockname())
        with pytest.raises(
            addresses.LostError, match=r"nothing answers within 1 seconds: .* does a firewall let it through"
        ):
            addresses.find(addresses.Address("127.0.0.1", server.getsockname()[1]))


def test_nothing_but_the_named_address_is_open() -> None:
    port = free_port()
    store, _ = addresses.listen(addresses.Address("127.0.0.1", port))
    listening = [each.laddr for each in psutil.Process().net_connections() if each.status == psutil.CONN_LISTEN]
    assert [each.ip for each in listening if each.port == port] == ["127.0.0.1"] and store


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (1, [1], [0, 1]),
        (1, [1, 1], [0, 1]),
        (1, [1, 1, 1], [0, 1, 2, 3]),
        (2, [4, 8], [0, 1, 2]),
        (8, [8], [0]),
        (1, [8], [0, 1]),
    ],
)
def test_only_machines_that_compute_are_called(own: int, others: list[int], expected: list[int]) -> None:
    store = HashStore()
    first = machines.First(store, None, {}, own, 8, lambda: [Path(f"{time.monotonic()}.point")])
    for number, num_processes in enumerate(others, start=1):
        store.add("machines", 1)
        store.set(f"machine {number}", f'[{num_processes}, 1, "name"]')
    first.next_rendezvous()
    assert first._members == expected


def test_a_power_of_two_computes() -> None:
    assert [num_computing(number, 8) for number in (0, 1, 2, 3, 4, 7, 8, 100)] == [0, 1, 2, 2, 4, 4, 8, 8]
