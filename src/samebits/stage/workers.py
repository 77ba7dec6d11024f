"""The processes of a training, all of them this stage's script, which PyTorch's elastic agent starts, on one machine or on several.

The process that DVC started only launches and waits. The first worker reports and writes, as a training in one process does;
what the others print is kept, and shown if it says why they failed.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samebits import paths, portability, processes
from samebits.errors import UserError, as_one_line, listed
from samebits.repository import dvc_lock
from samebits.repository.digests import md5_of
from samebits.stage import changes, launching, rank
from samebits.stage.inputs import Inputs

if TYPE_CHECKING:
    from samebits import params
    from samebits.stage import addresses

MAX_RESTARTS = 3  # in a row without a new resume point
LISTEN = "SAMEBITS_LISTEN"


def start(inputs: Inputs, script: str) -> None:
    """Start the processes of the stage, wait for them, and end with them; return in a worker, and if one process is enough."""
    if rank.is_worker():
        launching.follow_parent()
        if not rank.is_first():
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
            with launching.ended_by_signals():
                _join(inputs, script, number, sys.argv[2], float(sys.argv[3]))
        elif number > 1 or (is_shared and os.environ.get(LISTEN)):
            with launching.ended_by_signals():
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
        os.environ[rank.COPIES] = str(copies)
        yield


def num_processes(settings: "params.Params") -> int:
    """Return how many processes of this machine train; `auto` is cores / num_threads, rounded down to a power of two. On a GPU it is one.

    Raises UserError if the machine has no such device.
    """
    if not _is_shared(settings):
        return 1
    if settings.num_processes != "auto":
        return settings.num_processes
    train = settings.chosen.train
    at_most = max(1, processes.num_cores() // train.num_threads)
    return min(train.num_shards, 1 << at_most.bit_length() - 1)


def _is_shared(settings: "params.Params") -> bool:
    """Tell whether several processes may share the training out."""
    if settings.chosen.train.num_shards == 1:
        return False
    from samebits import runtime

    return runtime.choose_device(settings.device, settings.chosen.determinism).type == "cpu"


def signatures(inputs: Inputs) -> str:
    """Return a text that stands for the signatures of the prepared data that were read."""
    return md5_of(json.dumps({path: file.signature for path, file in inputs.data.items()}).encode())


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
    from samebits.training import resume

    address, terms = None, {}
    store: Store = HashStore()
    # On one machine nothing leaves it: otherwise the processes would listen at the address of the machine's name.
    interface = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if text := os.environ.get(LISTEN):
        address, terms = addresses.parse(text, LISTEN), _terms(inputs)
        store, interface = addresses.listen(address)
        print(f"note: other machines can help: `samebits join {address}`", file=sys.stderr)

    before_start = resume.points_of(scratch())

    def points() -> list[Path]:
        """Return the resume points that this training has saved since it started."""
        return [path for path in resume.points_of(scratch(), os.getpid()) if path not in before_start]

    num_shards = inputs.settings.chosen.train.num_shards
    first = machines.First(store, address, terms, number, num_shards, points)
    restarts, before = 0, points()
    try:
        with _copies():
            while failure := launching.run(first, script, number, interface, str(address or ""), shown=1):
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
                failure = launching.run(joined, script, number, interface, str(address), shown=0)
                if failure and failure.is_killed:
                    print(f"note: {failure.reason}; joining again", file=sys.stderr)
                    return
        except addresses.LostError:
            return
        finally:
            joined.leave()
