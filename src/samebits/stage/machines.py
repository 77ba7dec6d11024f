"""The machines of a training. The first, on which `dvc repro` runs, holds a store of PyTorch's and says who trains in which round.

PyTorch's elastic agent, one on each machine, asks the classes below who trains with whom. PyTorch's own answer, the dynamic rendezvous,
does not serve here (version 2.13.0): it takes a machine whose clock is 15 seconds off for dead, it unpickles what anybody writes to its port,
it does not notice that a machine is gone while the processes wait for each other, and any machine may get the first rank.
"""

import json
import socket
import sys
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from torch.distributed import DistError, PrefixStore, Store, TCPStore
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from samebits.errors import printable
from samebits.processes import in_thread
from samebits.stage.addresses import ANSWER_SECONDS, STORE_TIMEOUT, Address, LostError
from samebits.training.parallel import num_computing

BEAT_SECONDS = 1.0
LOST_SECONDS = 15.0  # a machine that has not been heard of for so long is gone
_POLL_SECONDS = 0.1
_OVER = -1  # the number of the round in which nobody trains any more


class OverError(Exception):
    """The first machine has ended the training."""


class _Machine(RendezvousHandler):
    """What the agent of a machine asks; `address` is where the processes meet."""

    def __init__(self, address: Address | None) -> None:
        self._address = address or Address("localhost", 0)
        self._number = 0  # of the round

    def get_backend(self) -> str:
        return "samebits"

    def get_run_id(self) -> str:
        return f"round-{self._number}"

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def shutdown(self) -> bool:
        return True

    def _info(self, store: Store, rank: int, num_machines: int) -> RendezvousInfo:
        meeting = RendezvousStoreInfo(self._address.host, self._address.port)
        return RendezvousInfo(PrefixStore(self.get_run_id(), store), rank, num_machines, meeting)


@dataclass(frozen=True)
class _Other:
    """What another machine says of itself."""

    num_processes: int
    ready_for: int  # the number of the round that it waits for; 0 while it trains
    name: str


class First(_Machine):
    """The first machine, with `num_processes` of its own. It has the first rank.

    New machines are let in when there is another resume point, of which `points` returns a list: so none of their comings and goings
    keeps a training from progress, and no step is lost.
    """

    def __init__(
        self,
        store: Store,
        address: Address | None,
        terms: dict[str, Any],
        num_processes: int,
        num_shards: int,
        points: Callable[[], list[Path]],
    ) -> None:
        super().__init__(address)
        self._store, self._num_processes, self._num_shards, self._points = store, num_processes, num_shards, points
        self._members = [0]
        self._before: list[Path] = []
        self._beats: dict[int, tuple[int, float]] = {}  # of each other machine, and since when it is the same
        self._others: dict[int, _Other] = {}  # those that are not lost
        self._looked = float("-inf")
        self._publish(self._number, [])
        store.set("terms", json.dumps(terms))

    def next_rendezvous(self) -> RendezvousInfo:
        """Begin the next round, with all machines that are there as soon as their processes have stopped."""
        self._number += 1
        self._publish(self._number, [])
        while self._look() or any(other.ready_for != self._number for other in self._others.values()):
            time.sleep(_POLL_SECONDS)
        before, self._members = self._members, self._chosen()
        self._before = self._points()
        self._publish(self._number, self._members)
        if before != self._members:
            names = [printable(self._others[each].name) for each in self._members[1:]]
            who = f"this machine and {', '.join(names)} train" if names else "this machine trains alone"
            print(f"note: {who}, from the last resume point on", file=sys.stderr)
        return self._info(self._store, 0, len(self._members))

    def num_nodes_waiting(self) -> int:
        """Return 1 if another round is due: a machine of this one is gone, or one more would compute."""
        if self._look():
            return 0
        is_one_gone = any(each not in self._others for each in self._members[1:])
        return int(is_one_gone or self._computing(self._chosen()) > self._computing(self._members))

    def close(self) -> None:
        """Tell the others that the training has ended, and wait for a moment until they know."""
        self._publish(_OVER, [])
        deadline = time.monotonic() + 3 * BEAT_SECONDS
        while self._others and time.monotonic() < deadline:
            self._look()
            time.sleep(_POLL_SECONDS)

    def _publish(self, number: int, members: list[int]) -> None:
        self._store.set("round", json.dumps([number, members]))

    def _look(self) -> bool:
        """Find out which of the others are there; return True if that is not due yet."""
        now = time.monotonic()
        if now - self._looked < BEAT_SECONDS:
            return True
        self._looked = now
        self._others = {}
        for each in range(1, self._store.add("machines", 0) + 1):
            if self._store.check([f"machine {each}"]):
                beat = self._store.add(f"beat {each}", 0)
                if beat != self._beats.get(each, (None,))[0]:
                    self._beats[each] = beat, now
                told = json.loads(self._store.get(f"machine {each}"))
                if told and now - self._beats[each][1] < LOST_SECONDS:
                    self._others[each] = _Other(*told)
        return False

    def _chosen(self) -> list[int]:
        """Return as many machines as their processes serve to compute with, those that are at it already first."""
        may_enter = self._points() != self._before
        known = [each for each in self._members if each in {0, *self._others}]
        known += [each for each in self._others if may_enter and each not in known]
        number = next(each for each in range(len(known) + 1) if self._computing(known[:each]) == self._computing(known))
        return known[:number]

    def _computing(self, machines: list[int]) -> int:
        numbers = [self._others[each].num_processes if each else self._num_processes for each in machines]
        return num_computing(sum(numbers), self._num_shards)


class Joined(_Machine):
    """A machine that helps the first one at `address`.

    Operations of a store may block for ever, so a thread performs them. Raises LostError if what answers is not the first machine of a training.
    """

    def __init__(self, address: Address, num_processes: int) -> None:
        super().__init__(address)
        self._num_processes = num_processes
        self._me = -1  # until the first machine has counted it
        self._is_waiting = False
        self._round: tuple[int, list[int]] = 0, []
        self._heard = time.monotonic()
        self._is_leaving = Event()
        try:
            self.terms = in_thread(self._connect).result(ANSWER_SECONDS)
        except (futures.TimeoutError, DistError, ValueError):
            raise LostError(f"{address}: what answers there is no training of samebits") from None

    def _connect(self) -> dict[str, Any]:
        host, port = self._address.host, self._address.port
        self._store, self._own = (TCPStore(host, port, is_master=False, timeout=STORE_TIMEOUT) for _ in range(2))
        terms: dict[str, Any] = json.loads(self._own.get("terms"))
        return terms

    def enter(self) -> None:
        """Offer this machine to the first one."""
        self._beating = in_thread(self._beat)

    def leave(self) -> None:
        """Tell the first machine that this one leaves, if it can be told."""
        self._is_leaving.set()
        futures.wait([self._beating], 2 * BEAT_SECONDS)

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for a round with this machine. Raises LostError or OverError."""
        self._is_waiting = True
        number, members = self._current()
        while number == self._number or self._me not in members:
            time.sleep(_POLL_SECONDS)
            number, members = self._current()
        self._is_waiting, self._number = False, number
        return self._info(self._store, members.index(self._me), len(members))

    def num_nodes_waiting(self) -> int:
        """Return 1 if another round is due. Raises LostError or OverError."""
        number, _ = self._current()
        return int(number != self._number)

    def _current(self) -> tuple[int, list[int]]:
        """Return the number of the round and who trains in it. Raises OverError or LostError."""
        number, members = self._round
        if number == _OVER:
            raise OverError
        if self._beating.done() or time.monotonic() - self._heard > LOST_SECONDS:
            raise LostError(
                f"{self._address}: the first machine no longer answers; when it trains again, join it again"
            )
        return number, members

    def _beat(self) -> None:
        self._me = self._own.add("machines", 1)
        name = socket.gethostname()
        while not self._is_leaving.is_set():
            number, members = json.loads(self._own.get("round"))
            ready_for = number if self._is_waiting else 0
            self._own.set(f"machine {self._me}", json.dumps([self._num_processes, ready_for, name]))
            self._own.add(f"beat {self._me}", 1)
            self._round, self._heard = (number, members), time.monotonic()
            self._is_leaving.wait(BEAT_SECONDS)
        self._own.set(f"machine {self._me}", "null")
