"""What an epoch visits: every training image, or without those that the network has learnt."""

from dataclasses import dataclass

import torch

from samebits import params


@dataclass(frozen=True)
class Epochs:
    """How many images and steps the epochs of a training on `num_data` images have."""

    train: params.Train
    num_data: int

    def _pruned(self, num_epochs: int) -> tuple[int, int]:
        """Return how many of the first `num_epochs` leave images out, and how many images each of them visits."""
        pruning = self.train.data_pruning
        if pruning is None:
            return 0, self.num_data
        return max(0, num_epochs - pruning.first_epoch + 1), self.num_data - self.num_data * pruning.percent // 100

    def images_until(self, num_epochs: int) -> int:
        """Return how many images the first `num_epochs` visit."""
        num_pruned, num_images = self._pruned(num_epochs)
        return (num_epochs - num_pruned) * self.num_data + num_pruned * num_images

    def images_in(self, epoch: int) -> int:
        """Return how many images `epoch`, counted from 1, visits."""
        return self.images_until(epoch) - self.images_until(epoch - 1)

    def steps_until(self, num_epochs: int) -> int:
        """Return how many steps the first `num_epochs` take."""
        num_pruned, num_images = self._pruned(num_epochs)
        whole, pruned = (-(-number // self.train.batch_size) for number in (self.num_data, num_images))
        return (num_epochs - num_pruned) * whole + num_pruned * pruned


class Pruning:
    """Leaves out the images whose loss was least when the network last saw them, none of them twice in a row.

    After InfoBatch (Qin et al. 2023, arXiv 2303.04947), which draws the images to leave out and weights the others up.
    """

    def __init__(self, epochs: Epochs, device: torch.device) -> None:
        self._epochs = epochs
        self._losses = torch.full((epochs.num_data,), torch.inf, device=device)
        self._is_left_out = torch.zeros(epochs.num_data, dtype=torch.bool, device=device)

    def see(self, indices: torch.Tensor, losses: torch.Tensor) -> None:
        """Take note of the losses (B,) of the images at `indices` (B,)."""
        self._losses[indices] = losses

    def losses(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the losses (B,) of the images at `indices` (B,) when they were last seen."""
        return self._losses[indices]

    def begin_epoch(self, epoch: int) -> None:
        """Choose what `epoch`, counted from 1, leaves out."""
        losses = self._losses.masked_fill(self._is_left_out, torch.inf)
        least = losses.argsort(stable=True)[: len(losses) - self._epochs.images_in(epoch)]
        self._is_left_out = torch.zeros_like(self._is_left_out).index_fill_(0, least, True)

    def visited(self, permutation: torch.Tensor, epoch: int) -> torch.Tensor:
        """Return the permutation (N,) of all images without those that `epoch` leaves out, without waiting for a GPU."""
        order = self._is_left_out[permutation].to(torch.uint8).argsort(stable=True)
        return permutation[order[: self._epochs.images_in(epoch)]]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all that `load_state_dict` needs."""
        return {"losses": self._losses, "is_left_out": self._is_left_out}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._losses, self._is_left_out = (state[name].to(self._losses.device) for name in ("losses", "is_left_out"))
