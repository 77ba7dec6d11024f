"""Applying a network to many images."""

import torch
import torch.nn.functional as F
from torch import nn

from samebits.data.prepared import Split


@torch.inference_mode()
def predict_logits(network: nn.Module, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Map normalized images (N, channels, height, width) to logits float32 (N, classes), on the images' device."""
    was_training = network.training
    network.eval()
    logits = torch.cat([network(batch.float()) for batch in images.split(batch_size)])
    network.train(was_training)
    return logits


def loss_and_accuracy(network: nn.Module, split: Split, batch_size: int = 1000) -> tuple[float, float]:
    """Give the mean cross-entropy (nats) and the share of images classified right."""
    logits = predict_logits(network, split.images, batch_size)
    loss = F.cross_entropy(logits, split.labels).item()
    return loss, (logits.argmax(1) == split.labels).double().mean().item()
