"""The processes of a training, all of them this stage's script, which PyTorch's elastic agent starts, on one machine or on several.

The process that DVC started only launches and waits. The first worker reports and writes, as a training in one process does;
what the others print is kept, and shown if it says why they failed.
"""

import json
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samebits import core_locks, paths, portability
from samebits.errors import UserError, as_one_line, listed
from samebits.repository import dvc_lock
from samebits.stage import changes, rank
from samebits.stage.inputs import Inputs
from samebits.stage.rank import COPIES, WORKER, is_first, is_worker

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
    from torch.distributed.elastic.rendezvous import RendezvousHandler

    from samebits import params
    from samebits.stage import addresses

MAX_RESTARTS = 3  # in a row without a new resume point
LISTEN = "SAMEBITS_LISTEN"
_POLL_SECONDS = 0.1


def start(inputs: Inputs, script: str) -> None:
    """Start the processes of the stage, wait for them, and end with them; return in a worker, and if one process is enough."""
    if is_worker():
        _follow_parent()
        if not is_first():
            os.environ.pop("DVC_STAGE", None)  # what DVC records is the business of the first
        return
    settings = inputs.settings
    if settings.chosen.train.num_shards > 1:
        os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"  # what PyTorch's connections complain of is said here
    with as_one_line():
        is_shared = _is_shared(settings)
        number = num_processes(settings)
        if sys.argv[1:2] == [rank.JOIN]:
            if not is_shared:
                raise UserError(f"recipe {settings.recipe} trains in one process: see num_shards in docs/scale.md")
            with _ended_by_signals():
                _join(inputs, script, number, sys.argv[2], float(sys.argv[3]))
        elif number > 1 or (is_shared and os.environ.get(LISTEN)):
            with _ended_by_signals():
                _lead(inputs, script, number)
        else:
            if os.environ.get(LISTEN):
                print(f"note: recipe {settings.recipe} trains in one process, so no machine can help", file=sys.stderr)
            return
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@contextmanager
def _copies() -> Iterator[None]:
    """Copy the prepared images once for all processes of this machine. Elsewhere than on Linux each copies them for itself."""
    from samebits.data import prepared

    if sys.platform != "linux":
        yield
        return
    with prepared.shared_copies(Path(paths.PREPARED), prepared.TRAINED_ON) as copies:
        os.environ[COPIES] = str(copies)
        yield


def num_processes(settings: "params.Params") -> int:
    """Return how many processes of this machine train; `auto` is as many as the cores have threads for. On a GPU it is one.

    Raises UserError if the machine has no such device.
    """
    if not _is_shared(settings):
        return 1
    if settings.num_processes != "auto":
        return settings.num_processes
    train = settings.chosen.train
    at_most = max(1, len(core_locks.cores()) // train.num_threads)
    return min(train.num_shards, 1 << at_most.bit_length() - 1)


def _is_shared(settings: "params.Params") -> bool:
    """Tell whether several processes may share the training out."""
    if settings.chosen.train.num_shards == 1:
        return False
    from samebits import runtime

    return runtime.choose_device(settings.device, settings.chosen.determinism).type == "cpu"


def signatures(inputs: Inputs) -> str:
    """Return the signatures of the prepared data that were read, as text."""
    return json.dumps({path: file.signature for path, file in inputs.data.items()})


def _terms(inputs: Inputs) -> dict[str, dict[str, Any]]:
    """Return all that decides bits, by name: MD5s of files and folders, and values."""
    from samebits import runtime

    os.environ[rank.PREPARED] = signatures(inputs)
    recipe = inputs.settings.chosen
    device = runtime.choose_device(inputs.settings.device, recipe.determinism)
    is_portable = recipe.determinism == "portable" and portability.is_held()
    environment = runtime.environment(device, recipe.train.num_threads, is_portable)
    values = inputs.parameters(inputs.stage) | dvc_lock.flat(environment)
    return {"files": inputs.dependencies, "values": json.loads(json.dumps(values))}


def _differences(there: dict[str, dict[str, Any]], here: dict[str, dict[str, Any]]) -> list[changes.Change]:
    files = changes.between(there["files"], here["files"])
    short = [changes.Change(each.what, each.before[: changes.DIGITS], each.after[: changes.DIGITS]) for each in files]
    return changes.between(there["values"], here["values"]) + short


def _lead(inputs: Inputs, script: str, number: int) -> None:
    """Train with this machine and, if the user opens it to them, with others."""
    from torch.distributed import HashStore, Store

    from samebits.stage import addresses, machines, scratch

    address, terms = None, {}
    store: Store = HashStore()
    # On one machine nothing leaves it: otherwise the processes would listen at the address of the machine's name.
    interface = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if text := os.environ.get(LISTEN):
        address, terms = addresses.parse(text, LISTEN), _terms(inputs)
        store, interface = addresses.listen(address)
        print(f"note: other machines can help: `samebits join {address}`", file=sys.stderr)

    def points() -> list[Path]:
        return sorted(scratch().glob("*/*.point"))

    num_shards = inputs.settings.chosen.train.num_shards
    first = machines.First(store, address, terms, number, num_shards, points)
    restarts, before = 0, points()
    try:
        with _copies():
            while failure := _run(first, script, number, interface, str(address or ""), shown=1):
                restarts, before = (restarts + 1 if points() == before else 1), points()
                if restarts > MAX_RESTARTS or changes.since_start(inputs):
                    raise UserError(f"{failure.reason}: run `dvc repro`, which goes on from the last resume point")
                print(f"note: {failure.reason}; starting again from the last resume point", file=sys.stderr)
    finally:
        first.close()


def _join(inputs: Inputs, script: str, number: int, address_text: str, wait_seconds: float) -> None:
    """Help the first machine until it has ended the training, or does not answer for longer than `wait_seconds`."""
    from samebits.stage import addresses, machines

    address = addresses.parse(address_text, "the first machine")
    terms = _terms(inputs)
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            _help(address, terms, script, number)
            deadline = time.monotonic() + wait_seconds
        except machines.OverError:
            print(f"note: the training at {address} has ended", file=sys.stderr)
            return
        except addresses.LostError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(machines.BEAT_SECONDS)


def _help(address: "addresses.Address", terms: dict[str, dict[str, Any]], script: str, number: int) -> None:
    """Help the first machine until it does not answer any more, or a process was killed here."""
    from samebits.stage import addresses, machines

    interface = addresses.find(address)
    joined = machines.Joined(address, number)
    if differences := _differences(joined.terms, terms):
        raise UserError(
            f"this machine would compute other bits than the first one ({listed(differences)}): it needs the same commit, "
            "parameters, prepared data (`dvc repro prepare` or `dvc pull`) and kind of machine"
        )
    with _copies():
        joined.enter()
        print(f"note: this machine helps {address} from its next resume point on", file=sys.stderr)
        try:
            while True:
                failure = _run(joined, script, number, interface, str(address), shown=0)
                if failure and failure.is_killed:
                    print(f"note: {failure.reason}; joining again", file=sys.stderr)
                    return
        except addresses.LostError:
            return
        finally:
            joined.leave()


@dataclass(frozen=True)
class Failure:
    """Why processes have to start again; `is_killed` if one of this machine was killed."""

    reason: str
    is_killed: bool = False


def _run(
    machine: "RendezvousHandler", script: str, number: int, interface: str | None, meeting_place: str, shown: int
) -> Failure | None:
    """Run the processes of this machine, of which the first `shown` print what they print; return why they have failed, if so."""
    os.environ[rank.LAUNCHER] = str(os.getpid())
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)

    from torch.distributed import DistError
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std

    logging.disable()  # the agent's own account of what happens: it is said here
    with tempfile.TemporaryDirectory(prefix="samebits-") as logs:
        arguments = (script, WORKER, meeting_place or f"{logs}/store")
        # No restarts: a mistake of the user or a bug would only come again.
        spec = WorkerSpec("train", number, machine, entrypoint=sys.executable, args=arguments, max_restarts=0)
        redirects = dict.fromkeys(range(shown, number), Std.ALL)
        agent = LocalElasticAgent(spec, DefaultLogsSpecs(logs, redirects=redirects), exit_barrier_timeout=_POLL_SECONDS)
        try:
            result = agent.run()
            return _failure(list(result.failures.values()), number, Path(logs), shown) if result.is_failed() else None
        except DistError:
            return Failure("a machine no longer answers")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a signal end this process, as the agent's handlers, which stay, do not."""
    from torch.distributed.elastic.multiprocessing import SignalException

    try:
        yield
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        sys.exit(128 + error.sigval)


def _failure(failures: "list[ProcessFailure]", number: int, logs: Path, shown: int) -> Failure:
    """Return which workers were killed or did not answer. Exit with 1, saying why, if one has failed by itself."""
    ended = {failure.local_rank: failure.exitcode for failure in failures}
    if failed := [rank for rank, code in ended.items() if code > 0 and code != os.EX_TEMPFAIL]:
        if min(failed) >= shown:  # else it has said it
            lines = next(logs.rglob(f"{failed[0]}/stderr.log")).read_text(errors="replace").splitlines(keepends=True)
            is_mistake = lines and lines[-1].startswith("error: ")  # gloo may have complained before it
            sys.stderr.writelines(lines[-1:] if is_mistake else lines)
        sys.exit(ended[min(failed)])
    lost = [str(failure.message) for failure in failures if failure.exitcode == os.EX_TEMPFAIL]
    told = lost[0] if lost else "SIGTERM"
    # The agent ends the others by SIGTERM when one has ended, and one that does not react by SIGKILL.
    killed = [rank for rank, code in ended.items() if code not in (os.EX_TEMPFAIL, -signal.SIGTERM)]
    if killed and "Timed out" not in told:
        return Failure(f"training process {killed[0] + 1} of {number} was killed (signal {-ended[killed[0]]})", True)
    return Failure(f"a training process ended or does not answer ({told.splitlines()[0]})")


def _follow_parent() -> None:
    """Let this process end with the launcher, also if that is killed; by Linux's means."""
    from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

    _prctl_pr_set_pdeathsig(signal.SIGTERM)
    try:
        os.kill(int(os.environ[rank.LAUNCHER]), 0)
    except ProcessLookupError:  # it was killed before
        sys.exit(os.EX_TEMPFAIL)
