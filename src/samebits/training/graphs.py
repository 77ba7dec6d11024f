"""A network's forward and backward pass as CUDA graphs: the same kernels, started all at once and not one by one."""

import gc

import torch
from torch import nn


class _Pass(nn.Module):
    """Keeps the network's own `forward`: PyTorch replaces that of the module that it captures."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)
        return logits


class Graphed:
    """Calls a network in training on a GPU, by graphs if an input has as many images as a whole mini-batch, or a whole shard, has.

    So which steps use graphs does not depend on where a training was resumed.
    """

    def __init__(self, network: nn.Module, num_images: int) -> None:
        self._network, self._num_images = network, num_images
        self._key: tuple[object, ...] | None = None
        self._captured: nn.Module = network
        # PyTorch would warn of a wait that a capture brings with it.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N, channels, height, width) to logits (N, num_classes)."""
        forward = self._network
        if len(images) == self._num_images:
            key = (images.shape, *(each.requires_grad for each in self._network.parameters()))
            if key != self._key:
                self._captured = self._network  # only one is kept: it holds the activations of a mini-batch
                self._key, self._captured = key, self._capture(images)
            forward = self._captured
        logits: torch.Tensor = forward(images)
        return logits

    def _capture(self, images: torch.Tensor) -> nn.Module:
        before = [each.clone() for each in self._network.buffers()]
        gc.disable()  # it might free an earlier graph, which breaks a capture
        try:
            captured: nn.Module = torch.cuda.make_graphed_callables(_Pass(self._network), (images.clone(),))  # type: ignore[assignment]
        finally:
            gc.enable()
        for buffer, old in zip(self._network.buffers(), before, strict=True):
            buffer.copy_(old)  # the passes before the capture have changed running statistics
        return captured
