"""The training loop: mini-batches by indexing tensors in memory, forward, loss, backward, step."""

import math
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from samebits import params
from samebits.data.prepared import Split
from samebits.errors import UserError
from samebits.evaluation.inference import loss_and_accuracy
from samebits.generators import generator
from samebits.training import optimizers
from samebits.training.history import Report

# Images gathered and converted at once: enough to make it nearly free, few enough for the processor's cache.
_IMAGES_PER_CHUNK = 2000

# Called with each report and the images trained a second so far; a clock decides the latter, so no output may hold it.
OnReport = Callable[[Report, float], None]


def train(
    network: nn.Module, data: Split, validation: Split, settings: params.Train, seed: int, on_report: OnReport
) -> list[Report]:
    """Train `network` in place on `data`, which lies on its device, and return the history.

    Every `report_every_steps` mini-batches of an epoch, and at its end, the running loss is reported. Each epoch visits
    every image once, in an order drawn anew from `seed`. Raises UserError when the loss is no longer a finite number.
    """
    optimizer = optimizers.build(settings, network)
    order = generator(seed, "order")
    history: list[Report] = []
    step, num_images, started = 0, 0, time.perf_counter()
    network.train()
    with tqdm(total=settings.num_epochs * len(data), unit=" images", unit_scale=True, disable=None) as bar:
        for epoch in range(1, settings.num_epochs + 1):
            bar.set_description(f"epoch {epoch}/{settings.num_epochs}")
            permutation = torch.randperm(len(data), generator=order)
            for indices in _windows(permutation, settings):
                losses = _train_window(network, optimizer, data, indices, settings, bar)
                _require_finite(losses, step, settings)
                step += len(losses)
                num_images += len(indices)
                is_end_of_epoch = num_images == epoch * len(data)
                measured = loss_and_accuracy(network, validation) if is_end_of_epoch and len(validation) else ()
                report = Report(step, epoch, math.fsum(losses) / len(losses), *measured)
                history.append(report)
                bar.set_postfix(loss=f"{report.train_loss:.3f}", refresh=False)
                on_report(report, num_images / (time.perf_counter() - started))
    return history


def _windows(permutation: torch.Tensor, settings: params.Train) -> tuple[torch.Tensor, ...]:
    """Cut an epoch's order of images (N,) into the parts that a report covers each."""
    return permutation.split(settings.report_every_steps * settings.batch_size)


def _train_window(
    network: nn.Module,
    optimizer: Optimizer,
    data: Split,
    indices: torch.Tensor,
    settings: params.Train,
    bar: "tqdm[None]",
) -> list[float]:
    """Train on the images at `indices` (N,) in their order; give the loss of each mini-batch."""
    losses: list[torch.Tensor] = []
    for images, labels in _batches(data, indices, settings.batch_size):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        bar.update(len(labels))
    # Read here and not in the loop: one wait for the device in each window instead of one in each mini-batch.
    return torch.stack(losses).tolist()


def _batches(data: Split, indices: torch.Tensor, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give mini-batches of images float32 (B, channels, height, width) and labels int64 (B,); the last may be smaller."""
    chunk_size = max(1, _IMAGES_PER_CHUNK // batch_size) * batch_size
    for chunk in indices.to(data.labels.device).split(chunk_size):
        yield from zip(data.images[chunk].float().split(batch_size), data.labels[chunk].split(batch_size), strict=True)


def _require_finite(losses: list[float], step: int, settings: params.Train) -> None:
    for offset, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            raise UserError(
                f"training stopped: the loss is {loss} at step {step + offset} with learning_rate "
                f"{settings.learning_rate}; lower train.learning_rate of this recipe in params.yaml"
            )
