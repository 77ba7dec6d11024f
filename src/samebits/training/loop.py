"""The training loop: mini-batches by indexing tensors in memory, forward, loss, backward, step."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from samebits import models, params
from samebits.data.prepared import Split
from samebits.errors import UserError
from samebits.evaluation.inference import loss_and_accuracy
from samebits.generators import derived_seed, generator, global_generator
from samebits.read_ahead import ReadAhead
from samebits.training import augmentation, graphs, parallel
from samebits.training.epochs import Epochs, Pruning
from samebits.training.history import Report
from samebits.training.optimization import Optimization

# Images gathered and converted at once, and trained between two moments at which the training can be resumed.
_IMAGES_PER_CHUNK = 1000

# All that a training needs to go on as if it had never stopped: numbers, text, tensors, and lists and dicts of them.
State = dict[str, Any]
# Called with each report and the images trained a second so far; a clock decides the latter, so no output may hold it.
OnReport = Callable[[Report, float], None]
# Called where the training could be resumed, with the number of steps so far and a function that gives the state.
OnPause = Callable[[int, Callable[[], State]], None]


def train(
    network: nn.Module,
    data: Split,
    validation: Split,
    settings: params.Train,
    seed: int,
    on_report: OnReport,
    on_pause: OnPause | None = None,
    resume_from: State | None = None,
    team: parallel.Team = parallel.ALONE,
) -> list[Report]:
    """Train `network` in place on `data`, which lies on its device, and return the history.

    Every process of `team` calls this with the same data, settings, seed and state, and ends with the same network.

    Every `report_every_steps` mini-batches of an epoch, and at its end, the running loss is reported. Each epoch visits
    every image once, in an order drawn anew from `seed`; with `data_pruning`, later ones leave some out. With `resume_from`,
    a state from `on_pause`, the training continues from there with the same bits. Raises UserError if the loss is no longer a
    finite number.
    """
    # The network draws from the global generator, which is put back afterwards.
    with torch.random.fork_rng(devices=[data.labels.device] if data.labels.device.type == "cuda" else []):
        training = _Training(network, data, settings, seed, team)
        if resume_from is not None:
            training.restore(resume_from)
        else:
            models.initialize_from(network, data.images)
        started, images_before = time.perf_counter(), training.num_images
        network.train()
        with tqdm(
            total=training.epochs.images_until(settings.num_epochs),
            initial=images_before,
            unit=" images",
            unit_scale=True,
            disable=None,
        ) as bar:
            for losses in training.windows(bar, on_pause):
                _require_finite(losses, training.step - len(losses), settings)
                is_end_of_epoch = training.num_images == training.epochs.images_until(training.epoch)
                measured: tuple[float, ...] = ()
                if is_end_of_epoch and len(validation):
                    measured = loss_and_accuracy(network, validation, settings.precision, team.size)
                # Nine digits, as the history holds them: whoever reads a number anywhere reads the same one.
                numbers = (float(f"{number:.9g}") for number in (math.fsum(losses) / len(losses), *measured))
                report = Report(training.step, training.epoch, *numbers)
                training.history.append(report)
                bar.set_postfix(loss=f"{report.train_loss:.3f}", refresh=False)
                on_report(report, (training.num_images - images_before) / (time.perf_counter() - started))
        return training.history


class _Training:
    """A training and how far it is."""

    def __init__(self, network: nn.Module, data: Split, settings: params.Train, seed: int, team: parallel.Team) -> None:
        self._network = network
        self._data = data
        self._settings = settings
        self.epochs = Epochs(settings, len(data))
        self._pruning = Pruning(self.epochs, data.labels.device) if settings.data_pruning else None
        self._optimization = Optimization(settings, network, self.epochs.steps_until)
        self._augmentations = augmentation.build(settings.augmentation, len(data), seed, data.labels.device)
        device = data.labels.device.type
        self._forward = (
            graphs.Graphed(network, -(-settings.batch_size // settings.num_shards)) if device == "cuda" else network
        )
        # Each weight is used once in a pass, so there is nothing to keep; and graphs allow no cache.
        self._autocast = torch.autocast(
            device, torch.bfloat16, enabled=settings.precision == "bfloat16", cache_enabled=False
        )
        self._shards = None
        if settings.num_shards > 1:
            self._shards = parallel.Shards(network, settings.num_shards, team, seed, self._mean_loss)
        self._read_ahead = ReadAhead(data.images)
        self._draws = global_generator(data.labels.device).manual_seed(derived_seed(seed, "draws of the network"))
        self._order = generator(seed, "order")
        self._order_of_epoch = self._order.get_state()  # as it was before the epoch's order was drawn
        self._running: list[torch.Tensor] = []  # losses of the mini-batches since the last report
        self.step = 0
        self.epoch = 1
        self.num_images = 0
        self.history: list[Report] = []

    def state(self) -> State:
        """Return all that decides what comes next."""
        is_between_epochs = self.num_images == self.epochs.images_until(self.epoch)
        return {
            "step": self.step,
            "epoch": self.epoch,
            "num_images": self.num_images,
            "generators": {
                "order": self._order.get_state() if is_between_epochs else self._order_of_epoch,
                "draws": self._draws.get_state(),
            },
            "running": torch.stack(self._running).cpu() if self._running else torch.empty(0),
            "history": [asdict(report) for report in self.history],
            "network": self._network.state_dict(),
            "optimization": self._optimization.state_dict(),
            "data_pruning": self._pruning.state_dict() if self._pruning else {},
        }

    def restore(self, state: State) -> None:
        """Restore what `state` returned."""
        self.step, self.epoch, self.num_images = state["step"], state["epoch"], state["num_images"]
        self._order.set_state(state["generators"]["order"])
        self._draws.set_state(state["generators"]["draws"])
        self._running = list(state["running"].to(self._data.labels.device).unbind())
        self.history = [Report(**row) for row in state["history"]]
        self._network.load_state_dict(state["network"])
        self._optimization.load_state_dict(state["optimization"])
        if self._pruning:
            self._pruning.load_state_dict(state["data_pruning"])

    def windows(self, bar: "tqdm[Any]", on_pause: OnPause | None) -> Iterator[list[float]]:
        """Train to the end; give the losses of the mini-batches at each point where a report is due."""
        window = self._settings.report_every_steps * self._settings.batch_size
        chunk = max(1, _IMAGES_PER_CHUNK // self._settings.batch_size) * self._settings.batch_size
        while self.num_images < self.epochs.images_until(self._settings.num_epochs):
            if self.num_images == self.epochs.images_until(self.epoch):
                self.epoch += 1
            position = self.num_images - self.epochs.images_until(self.epoch - 1)
            bar.set_description(f"epoch {self.epoch}/{self._settings.num_epochs}")
            self._order_of_epoch = self._order.get_state()
            for each in self._augmentations:
                each.begin_epoch(self.epoch)
            permutation = torch.randperm(len(self._data), generator=self._order).to(self._data.labels.device)
            if self._pruning is not None:
                if position == 0:
                    self._pruning.begin_epoch(self.epoch)
                permutation = self._pruning.visited(permutation, self.epoch)
            num_visited = len(permutation)
            self._expect(permutation[position : position + chunk])
            while position < num_visited:
                end_of_window = min((position // window + 1) * window, num_visited)
                end = min(position + chunk, end_of_window)
                self._expect(permutation[end : end + chunk])
                self._train_on(permutation[position:end], bar)
                self.num_images += end - position
                position = end
                if end == end_of_window:
                    # Read only here: one wait for the device in each window instead of one in each mini-batch.
                    yield torch.stack(self._running).tolist()
                    self._running.clear()
                if on_pause is not None:
                    on_pause(self.step, self.state)

    def _expect(self, indices: torch.Tensor) -> None:
        """Read the images of the mini-batches to come, at `indices` (N,), ahead."""
        if self._shards is not None:
            indices = torch.cat([self._shards.own(batch) for batch in indices.split(self._settings.batch_size)])
        self._read_ahead.expect(indices)

    def _train_on(self, indices: torch.Tensor, bar: "tqdm[Any]") -> None:
        """Train on the images at `indices` (N,), in mini-batches in their order; the last may be smaller."""
        size = self._settings.batch_size
        if self._shards is not None:
            for batch in indices.split(size):
                loss = self._shards.backward(batch, self.step)
                if self._pruning is not None:
                    self._pruning.see(batch, self._shards.gather(batch, self._pruning.losses(self._shards.own(batch))))
                self._end_step(loss, len(batch), bar)
            return
        images, labels = self._images(indices).split(size), self._data.labels[indices].split(size)
        for batch, labels_of_batch, indices_of_batch in zip(images, labels, indices.split(size), strict=True):
            loss = self._loss(batch, labels_of_batch, indices_of_batch)
            loss.backward()
            self._end_step(loss.detach(), len(batch), bar)

    def _end_step(self, loss: torch.Tensor, num_images: int, bar: "tqdm[Any]") -> None:
        self._optimization.step()
        self._running.append(loss)
        self.step += 1
        bar.update(num_images)

    def _images(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the images at `indices` (B,) as this epoch sees them, float32."""
        images = self._data.images[indices]
        for augment in self._augmentations:
            images = augment(images, indices)
        return images.float()

    def _mean_loss(self, indices: torch.Tensor) -> torch.Tensor:
        return self._loss(self._images(indices), self._data.labels[indices], indices)

    def _loss(self, images: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        with self._autocast:
            logits = self._logits(images)
            if self._pruning is None:
                return F.cross_entropy(logits, labels, label_smoothing=self._settings.label_smoothing)
            losses = F.cross_entropy(logits, labels, label_smoothing=self._settings.label_smoothing, reduction="none")
        self._pruning.see(indices, losses.detach())
        return losses.mean()

    def _logits(self, batch: torch.Tensor) -> torch.Tensor:
        try:
            logits: torch.Tensor = self._forward(batch)
            return logits
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            if len(batch) == 1 and "more than 1 value per channel" in reason:
                raise UserError(
                    "BatchNorm cannot normalize one image alone, which the last mini-batch of an epoch or one of its shards "
                    "holds: choose another batch_size or num_shards for this recipe in params.yaml"
                ) from None
            is_of_machine = any(word in reason.lower() for word in ("alloc", "cuda", "cudnn", "cublas"))
            if is_of_machine or batch.shape[1:] == self._data.images.shape[1:]:
                raise
            height, width = batch.shape[2:]
            raise UserError(
                f"the network of this recipe cannot take images of {height}x{width} pixels, which train.augmentation in "
                f"params.yaml resizes them to ({reason}): choose another side"
            ) from None


def _require_finite(losses: list[float], step: int, settings: params.Train) -> None:
    for offset, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            raise UserError(
                f"training stopped: the loss is {loss} at step {step + offset} with learning_rate "
                f"{getattr(settings.optimizer, 'learning_rate', 'of its own')}; lower train.optimizer.learning_rate of this recipe in params.yaml"
            )
