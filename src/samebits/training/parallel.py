"""Data-parallel training whose bits do not depend on the number of processes.

A mini-batch is cut into shards. A shard gives the same numbers in whichever process it is computed, and these are added along
one binary tree over the shards: a process adds up the branch of its own shards, then pairs of processes add what they have.
The order of addition in an all-reduce would follow the number of processes.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from samebits import atomic
from samebits.generators import derived_seed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

HANG = timedelta(minutes=30)  # a process that does not answer for so long will never
_START = timedelta(days=365)  # another process may be at this very training


@dataclass(frozen=True)
class Team:
    """The processes of a training, a power of two; by default this one alone."""

    rank: int = 0
    size: int = 1
    group: "ProcessGroup | None" = None

    def sum(self, own: torch.Tensor) -> torch.Tensor:
        """Return the sum (N,) over all processes, the same bytes in each; changes `own` (N,), on the CPU.

        Ends this process with exit code EX_TEMPFAIL if another one has ended or does not answer.
        """
        from torch import distributed

        for level in range(self.size.bit_length() - 1):
            partner, other = self.rank ^ 1 << level, torch.empty_like(own)
            try:
                sending = distributed.isend(own, partner, self.group)
                distributed.recv(other, partner, self.group)
                assert sending is not None
                sending.wait()
            except RuntimeError as error:
                _leave(error)
            own += other
        return own

    def share(self, value: Any) -> Any:
        """Return the value that the first process gives, in every process. Waits for it without limit."""
        if self.size == 1:
            return value
        from torch import distributed

        values = [value]
        try:
            distributed.broadcast_object_list(values, src=0)
        except RuntimeError as error:
            _leave(error)
        return values[0]


ALONE = Team()


def join(meeting_place: str) -> Team:
    """Join the processes that PyTorch's launcher has started, of which this is one; they meet at an `init_method` of PyTorch's."""
    from torch import distributed

    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        distributed.init_process_group("gloo", meeting_place, _START, size, rank)
        group = distributed.new_group(timeout=HANG)
    except RuntimeError as error:
        _leave(error)
    return Team(rank, size, group)


def _leave(error: RuntimeError) -> None:
    """End this process because of another one, whose failure is what counts."""
    # For the launcher, which ends this process at any moment now: whole, or not at all.
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        atomic.write_text(Path(file), json.dumps({"message": str(error)}))
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

        def leaf(shard: int) -> torch.Tensor:
            share = len(shards[shard]) / len(indices)
            if share == 0:
                return torch.zeros(sum(sizes))
            torch.default_generator.manual_seed(derived_seed(self._seed, f"shard {shard} of step {step}"))
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

        with torch.random.fork_rng(devices=[]):
            own = branch(self._team.rank * self._num_own, self._num_own)
        *sums, loss_sum = self._team.sum(own).split(sizes)
        for parameter, gradient in zip(parameters, sums, strict=False):
            parameter.grad = gradient.view_as(parameter)
        for buffer, change in zip(buffers, sums[len(parameters) :], strict=True):
            buffer += change.view_as(buffer).to(buffer.dtype)
        loss: torch.Tensor = loss_sum[0].clone()  # a copy: the gradients would live as long as the loss
        return loss
