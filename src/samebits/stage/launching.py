"""Processes of this machine, all of them the stage's script, run by PyTorch's elastic agent."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from samebits.stage import rank

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
    from torch.distributed.elastic.rendezvous import RendezvousHandler

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Failure:
    """Why processes have to start again; `is_killed` if one of this machine was killed."""

    reason: str
    is_killed: bool = False


def run(
    machine: "RendezvousHandler", script: str, number: int, interface: str | None, meeting_place: str, shown: int
) -> Failure | None:
    """Run the `number` processes of this machine and show what the first `shown` print; return why they failed, if they did."""
    os.environ[rank.LAUNCHER] = str(os.getpid())
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)

    from torch.distributed import DistError
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std

    logging.disable()  # the agent's own account of what happens: it is said here
    with tempfile.TemporaryDirectory(prefix="samebits-") as logs:
        arguments = (script, rank.WORKER, meeting_place or f"{logs}/store")
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
def ended_by_signals() -> Iterator[None]:
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
    if failed := sorted(place for place, code in ended.items() if code > 0 and code != os.EX_TEMPFAIL):
        if failed[0] >= shown:  # else it has said it
            lines = next(logs.rglob(f"{failed[0]}/stderr.log")).read_text(errors="replace").splitlines(keepends=True)
            is_mistake = lines and lines[-1].startswith("error: ")  # gloo may have complained before it
            if not lines:
                sys.exit(
                    f"error: training process {failed[0] + 1} of {number} failed and could not write why: is {tempfile.gettempdir()} "
                    "full? Make room there, or set TMPDIR to another folder; `dvc repro` goes on from the last resume point"
                )
            sys.stderr.writelines(lines[-1:] if is_mistake else lines)
        sys.exit(ended[failed[0]])
    lost = [str(failure.message) for failure in failures if failure.exitcode == os.EX_TEMPFAIL]
    told = lost[0] if lost else "SIGTERM"
    # The agent ends the others by SIGTERM when one has ended, and one that does not react by SIGKILL.
    killed = [place for place, code in ended.items() if code not in (os.EX_TEMPFAIL, -signal.SIGTERM)]
    if killed and "Timed out" not in told:
        return Failure(f"training process {killed[0] + 1} of {number} was killed (signal {-ended[killed[0]]})", True)
    return Failure(f"a training process ended or does not answer ({told.splitlines()[0]})")


def follow_parent() -> None:
    """Let this process end with the launcher, also if that is killed; by Linux's means."""
    from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

    _prctl_pr_set_pdeathsig(signal.SIGTERM)
    try:
        os.kill(int(os.environ[rank.LAUNCHER]), 0)
    except ProcessLookupError:  # it was killed before
        sys.exit(os.EX_TEMPFAIL)
