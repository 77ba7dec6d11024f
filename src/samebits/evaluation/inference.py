"""Applying a network to many images."""

from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import nn

from samebits.data.prepared import Split

# Between the two likeliest classes, in probability: a smaller lead is unsure.
_UNSURE_LEAD = 0.3


def predict_logits(
    network: nn.Module,
    images: torch.Tensor,
    batch_size: int,
    precision: str = "float32",
    test_time_augmentation: str = "none",
    num_workers: int = 1,
) -> torch.Tensor:
    """Map normalized images (N, channels, height, width) to logits float32 (N, classes), on the images' device.

    test_time_augmentation mirror: the mean of the logits of an image and its mirror image. mirror_and_translate: if the two
    likeliest classes are then close, half of that plus a quarter of the same for each of two images, shifted by one pixel
    along the diagonal to either side (Jordan 2024, arXiv 2404.00498, section 3.5, which does so for every image).

    `num_workers` mini-batches are computed at once, each as it would be alone, so their number changes no bit.
    """
    batches = images.split(batch_size)
    # Large tensors once for all mini-batches: between small ones that stay, glibc would not use their memory again.
    buffers = [torch.empty(batches[0].shape, device=images.device) for _ in range(num_workers)]

    def compute(batch: torch.Tensor) -> torch.Tensor:
        buffer = buffers.pop()
        # Both modes are of a thread, so each worker enters them.
        autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16")
        with torch.inference_mode(), autocast:
            logits = _logits(network, buffer[: len(batch)].copy_(batch), test_time_augmentation)
        buffers.append(buffer)
        return logits

    was_training = network.training
    network.eval()
    first = compute(batches[0])
    logits = torch.empty(len(images), first.shape[1], device=images.device)
    parts = logits.split(batch_size)
    parts[0].copy_(first)

    def fill(position: int) -> None:
        parts[position].copy_(compute(batches[position]))

    with ThreadPoolExecutor(num_workers) as threads:
        list(threads.map(fill, range(1, len(batches))))
    network.train(was_training)
    return logits


def _logits(network: nn.Module, images: torch.Tensor, test_time_augmentation: str) -> torch.Tensor:
    if test_time_augmentation == "none":
        logits: torch.Tensor = network(images).float()
        return logits
    logits = _mirrored_mean(network, images)
    if test_time_augmentation == "mirror_and_translate":
        first, second = logits.softmax(1).topk(2).values.unbind(1)
        unsure = (first - second < _UNSURE_LEAD).nonzero().squeeze(1)
        if len(unsure):
            height, width = images.shape[2:]
            padded = F.pad(images[unsure], (1, 1, 1, 1), mode="reflect")
            shifted = [padded[:, :, place : place + height, place : place + width] for place in (0, 2)]
            elsewhere = torch.stack([_mirrored_mean(network, view) for view in shifted]).mean(0)
            logits[unsure] = (logits[unsure] + elsewhere) / 2
    return logits


def _mirrored_mean(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    mean: torch.Tensor = (network(images).float() + network(images.flip(3)).float()) / 2
    return mean


def loss_and_accuracy(network: nn.Module, split: Split, precision: str, num_workers: int) -> tuple[float, float]:
    """Return the mean cross-entropy (nats) and the share of images classified right."""
    logits = predict_logits(network, split.images, 1000, precision, num_workers=num_workers)
    loss = F.cross_entropy(logits, split.labels).item()
    return loss, (logits.argmax(1) == split.labels).double().mean().item()
