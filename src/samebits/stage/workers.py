"""The processes of a training, all of them this stage's script, which PyTorch's elastic launcher starts.

The process that DVC started only launches and waits. The first worker reports and writes, as a training in one process does;
what the others print is kept, and shown if it says why they failed.
"""

import logging
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from samebits import core_locks, paths
from samebits.errors import UserError, as_one_line
from samebits.stage import changes
from samebits.stage.inputs import Inputs
from samebits.stage.rank import COPIES, WORKER, is_first, is_worker

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from samebits import params

MAX_RESTARTS = 3  # of workers that were killed, as the system does if memory runs out


def start(inputs: Inputs, script: str) -> None:
    """Start the processes of the stage, wait for them, and end with them; return in a worker, and if one process is enough."""
    if is_worker():
        _follow_parent()
        if not is_first():
            os.environ.pop("DVC_STAGE", None)  # what DVC records is the business of the first
        return
    with as_one_line():
        number = num_processes(inputs.settings)
        if number > 1:
            from samebits.data import prepared

            with prepared.shared_copies(Path(paths.PREPARED), prepared.TRAINED_ON) as copies:
                os.environ[COPIES] = str(copies)
                _launch(inputs, script, number)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def num_processes(settings: "params.Params") -> int:
    """Return how many processes train; `auto` is as many as the cores have threads for. On a GPU it is one.

    Raises UserError if the machine has no such device.
    """
    train = settings.chosen.train
    if train.num_shards == 1:
        return 1
    from samebits import runtime

    if runtime.choose_device(settings.device, settings.chosen.determinism).type != "cpu":
        return 1
    if settings.num_processes != "auto":
        return settings.num_processes
    at_most = max(1, len(core_locks.cores()) // train.num_threads)
    return min(train.num_shards, 1 << at_most.bit_length() - 1)


def _launch(inputs: Inputs, script: str, number: int) -> None:
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    # On one machine nothing leaves it: otherwise the processes would listen at the address of the machine's name.
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)

    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # the launcher's own account of what happens: it is said here
    for restarts in range(MAX_RESTARTS + 1):
        with tempfile.TemporaryDirectory(prefix="samebits-") as logs:
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=number,
                run_id=f"samebits-{os.getpid()}",
                rdzv_backend="c10d",
                rdzv_endpoint=f"{logs}/rendezvous",
                rdzv_configs={"store_type": "file"},  # what is read there is unpickled: nobody else may write it
                local_addr="localhost",
                max_restarts=0,  # a mistake of the user or a bug would only come again
                logs_specs=DefaultLogsSpecs(logs, redirects=dict.fromkeys(range(1, number), Std.ALL)),
            )
            try:
                elastic_launch(config, sys.executable)(script, WORKER, f"{logs}/store")
                return
            except ChildFailedError as error:
                reason = _reason(error, number, Path(logs))
            except SignalException as error:
                if error.sigval == signal.SIGINT:
                    raise KeyboardInterrupt from None
                sys.exit(128 + error.sigval)
        if restarts == MAX_RESTARTS or changes.since_start(inputs):
            raise UserError(f"{reason}: run `dvc repro`, which goes on from the last resume point")
        print(f"note: {reason}; starting again from the last resume point", file=sys.stderr)


def _reason(error: "ChildFailedError", number: int, logs: Path) -> str:
    """Return which workers were killed or did not answer. Exit with 1, saying why, if one has failed by itself."""
    ended = {rank: failure.exitcode for rank, failure in error.failures.items()}
    if failed := [rank for rank, code in ended.items() if code > 0 and code != os.EX_TEMPFAIL]:
        if 0 not in failed:  # the first has said it
            sys.stderr.write(next(logs.rglob(f"{failed[0]}/stderr.log")).read_text(errors="replace"))
        sys.exit(ended[min(failed)])
    lost = [str(failure.message) for failure in error.failures.values() if failure.exitcode == os.EX_TEMPFAIL]
    told = lost[0] if lost else "SIGTERM"
    # The launcher ends the others by SIGTERM when one has ended, and one that does not react by SIGKILL.
    killed = [rank for rank, code in ended.items() if code not in (os.EX_TEMPFAIL, -signal.SIGTERM)]
    if killed and "Timed out" not in told:
        return f"training process {killed[0] + 1} of {number} was killed (signal {-ended[killed[0]]})"
    return f"a training process ended or does not answer ({told.splitlines()[0]})"


def _follow_parent() -> None:
    """Let this process end with the launcher, also if that is killed; by Linux's means."""
    from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

    _prctl_pr_set_pdeathsig(signal.SIGTERM)
