"""What an epoch visits: every training image, or without those that the network has learnt."""

from dataclasses import dataclass

import torch

from samebits import params


@dataclass(frozen=True)
class Epochs:
    """How many images and steps the epochs of a training have."""

    num_data: int
    batch_size: int
    pruning: params.DataPruning | None

    @classmethod
    def of(cls, train: params.Train, num_data: int) -> "Epochs":
        """Return the epochs of a training on `num_data` images."""
        return cls(num_data, train.batch_size, train.data_pruning)

    @property
    def num_left_out(self) -> int:
        """How many images a pruned epoch leaves out."""
        return self.num_data * self.pruning.percent // 100 if self.pruning else 0

    def _num_whole(self, num_epochs: int) -> int:
        """Return how many of the first `num_epochs` visit every image."""
        return min(num_epochs, self.pruning.first_epoch - 1) if self.pruning else num_epochs

    def images_until(self, num_epochs: int) -> int:
        """Return how many images the first `num_epochs` visit."""
        return num_epochs * self.num_data - (num_epochs - self._num_whole(num_epochs)) * self.num_left_out

    def steps_until(self, num_epochs: int) -> int:
        """Return how many steps the first `num_epochs` take."""
        num_whole = self._num_whole(num_epochs)
        whole, pruned = (-(-number // self.batch_size) for number in (self.num_data, self.num_data - self.num_left_out))
        return num_whole * whole + (num_epochs - num_whole) * pruned


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
        assert self._epochs.pruning is not None
        if epoch >= self._epochs.pruning.first_epoch:
            losses = self._losses.masked_fill(self._is_left_out, torch.inf)
            least = losses.argsort(stable=True)[: self._epochs.num_left_out]
            self._is_left_out = torch.zeros_like(self._is_left_out).index_fill_(0, least, True)

    def visited(self, permutation: torch.Tensor, epoch: int) -> torch.Tensor:
        """Return the permutation (N,) of all images without those that `epoch` leaves out, without waiting for a GPU."""
        num_visited = self._epochs.images_until(epoch) - self._epochs.images_until(epoch - 1)
        return permutation[self._is_left_out[permutation].to(torch.uint8).argsort(stable=True)[:num_visited]]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all that `load_state_dict` needs."""
        return {"losses": self._losses, "is_left_out": self._is_left_out}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._losses, self._is_left_out = (state[name].to(self._losses.device) for name in ("losses", "is_left_out"))
