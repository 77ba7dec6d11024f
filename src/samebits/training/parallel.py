"""Data-parallel training whose bits do not depend on the number of processes.

A mini-batch is cut into shards. A shard gives the same numbers in whichever process it is computed, and these are added along
one binary tree over the shards: a process adds up the branch of its own shards, then pairs of processes add what they have.
The order of addition in an all-reduce would follow the number of processes.
"""

import io
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from samebits import atomic
from samebits.errors import UserError
from samebits.generators import derived_seed, global_generator

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Store

CONNECT = timedelta(minutes=2)  # processes that do not find one another in this time never will
HANG = timedelta(minutes=30)  # a process that does not answer for so long will never
_START = timedelta(days=365)  # another process may be at this very training


@dataclass(frozen=True)
class Team:
    """The processes of a training; the first `size` of them, a power of two, compute. By default this one alone."""

    rank: int = 0
    size: int = 1
    patient: "ProcessGroup | None" = None  # of all, to wait without limit

    def sum(self, own: torch.Tensor) -> torch.Tensor:
        """Return the sum (N,) over all that compute, the same bytes in each; changes `own` (N,), on the CPU.

        Ends this process with exit code EX_TEMPFAIL if another one has ended or does not answer.
        """
        from torch import distributed

        for level in range(self.size.bit_length() - 1):
            partner, other = self.rank ^ 1 << level, torch.empty_like(own)
            try:
                for transfer in distributed.isend(own, partner), distributed.irecv(other, partner):
                    assert transfer is not None
                    transfer.wait(HANG)
            except RuntimeError as error:
                _leave(error)
            own += other
        return own

    def share(self, value: Any) -> Any:
        """Return the value of the first process, plain values and tensors, in every process. Waits for it without limit."""
        if self.patient is None:
            return value
        from torch import distributed

        buffer = io.BytesIO()
        torch.save(value, buffer)
        content = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
        try:
            size = torch.tensor([len(content)])
            distributed.broadcast(size, 0, self.patient)
            content = content if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
            distributed.broadcast(content, 0, self.patient)
        except RuntimeError as error:
            _leave(error)
        return torch.load(io.BytesIO(content.numpy()), weights_only=True)  # type: ignore[arg-type]  # no code, unlike pickle


ALONE = Team()


def num_computing(num_processes: int, num_shards: int) -> int:
    """Return how many of the processes compute: a power of two up to `num_shards`; 0 of none."""
    return 1 << min(num_processes, num_shards).bit_length() >> 1


def join(meeting_place: str, num_shards: int) -> Team:
    """Join the processes that PyTorch's launchers have started, of which this is one.

    They meet at a file or, if they are on several machines, at the HOST:PORT of the first machine's store.
    """
    from torch import distributed

    environment, began = os.environ, time.monotonic()
    rank, num_processes = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    try:
        if meeting_place.startswith("/"):
            store: Store = distributed.FileStore(meeting_place, num_processes)
        else:
            # Of this round alone: what is left of another one would lead to processes that are gone.
            host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
            store = distributed.TCPStore(host, port, is_master=False, timeout=CONNECT)
            store = distributed.PrefixStore(f"workers/{environment['TORCHELASTIC_RUN_ID']}", store)
        distributed.init_process_group("gloo", store=store, world_size=num_processes, rank=rank, timeout=CONNECT)
        patient = distributed.new_group(timeout=_START)
    except RuntimeError as error:
        if time.monotonic() - began > CONNECT.total_seconds() and environment["GROUP_RANK"] != "0":
            raise UserError(
                "the processes of this machine and of the others do not reach each other within 2 minutes: does a firewall "
                "let through all ports between them?"
            ) from None
        _leave(error)
    return Team(rank, num_computing(num_processes, num_shards), patient)


def _leave(error: RuntimeError) -> None:
    """End this process because of another one, whose failure is what counts."""
    # For the launcher, which ends this process at any moment now: whole, or not at all.
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        try:
            atomic.write_text(Path(file), json.dumps({"message": str(error)}))
        except OSError as refused:
            raise UserError(
                f"the processes of a training meet in files of {Path(file).parent}, which could not be written "
                f"({refused.strerror}): make room there, or set TMPDIR to another folder, and run `dvc repro` again"
            ) from None
    sys.exit(os.EX_TEMPFAIL)


class Shards:
    """Computes mini-batches of `network` in shards, of which each process of `team` has the same number.

    `mean_loss` maps the indices (B,) of a shard's images to the mean of their losses. Random numbers that the network draws
    from the global generator follow from `seed`, the step and the shard.
    """

    def __init__(
        self,
        network: nn.Module,
        num_shards: int,
        team: Team,
        seed: int,
        mean_loss: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self._network, self._num_shards, self._team = network, num_shards, team
        self._seed, self._mean_loss = seed, mean_loss
        self._num_own = num_shards // team.size

    def own(self, indices: torch.Tensor) -> torch.Tensor:
        """Return those of a mini-batch's indices (B,) whose images this process computes."""
        first = self._team.rank * self._num_own
        return torch.cat(indices.tensor_split(self._num_shards)[first : first + self._num_own])

    def gather(self, indices: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Return one number for each image of a mini-batch (B,); `own` holds those of the images that this process computes."""
        sizes = [len(each) for each in indices.tensor_split(self._num_shards)]
        first = sum(sizes[: self._team.rank * self._num_own])
        numbers = torch.zeros(len(indices), dtype=own.dtype, device=own.device)
        numbers[first : first + len(own)] = own
        return self._team.sum(numbers)  # 0 from all but one: exact

    def backward(self, indices: torch.Tensor, step: int) -> torch.Tensor:
        """Set the gradients of the mean loss of the mini-batch at `indices` (B,), and return that loss, float32 ().

        The first B % num_shards shards have one image more than the others, which may be empty. What the shards change in the
        network's buffers, as BatchNorm's running statistics, is averaged; whole numbers change as the first shard does it.
        Gradients of parameters that the loss does not depend on are 0.
        """
        shards = indices.tensor_split(self._num_shards)
        parameters = [each for each in self._network.parameters() if each.requires_grad]
        buffers = list(self._network.buffers())
        before = [each.clone() for each in buffers]
        sizes = [each.numel() for each in (*parameters, *buffers)] + [1]
        draws = global_generator(indices.device)

        def leaf(shard: int) -> torch.Tensor:
            share = len(shards[shard]) / len(indices)
            if share == 0:
                return torch.zeros(sum(sizes), device=indices.device)
            draws.manual_seed(derived_seed(self._seed, f"shard {shard} of step {step}"))
            loss = self._mean_loss(shards[shard]) * share
            gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
            changes = []
            for buffer, old in zip(buffers, before, strict=True):
                weight = share if buffer.is_floating_point() else float(shard == 0)
                changes.append((buffer - old) * weight)
                buffer.copy_(old)
            return torch.cat([each.reshape(-1) for each in (*gradients, *changes, loss.detach())])

        def branch(first: int, number: int) -> torch.Tensor:
            if number == 1:
                return leaf(first)
            half = number // 2
            return branch(first, half).add_(branch(first + half, half))

        with torch.random.fork_rng(devices=[indices.device] if indices.device.type == "cuda" else []):
            own = branch(self._team.rank * self._num_own, self._num_own)
        *sums, loss_sum = self._team.sum(own).split(sizes)
        for parameter, gradient in zip(parameters, sums, strict=False):
            parameter.grad = gradient.view_as(parameter)
        for buffer, change in zip(buffers, sums[len(parameters) :], strict=True):
            buffer += change.view_as(buffer).to(buffer.dtype)
        loss: torch.Tensor = loss_sum[0].clone()  # a copy: the gradients would live as long as the loss
        return loss
