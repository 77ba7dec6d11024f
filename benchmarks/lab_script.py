"""The lab's own script as a program of its own, so that nothing that samebits sets for itself reaches it.

    python -m benchmarks.lab_script train|test NUM_IMAGES

prints the seconds of its loop over drawn images.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch  # before samebits: OpenMP waits as PyTorch's users know it
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import Measure
from samebits import models, params
from samebits.data import normalization
from samebits.data.sources import shapes


class Pictures(Dataset):
    """As torchvision's CIFAR10 gives them: a Pillow image, then ToTensor and Normalize, one image at a time."""

    def __init__(self, num_images: int, split: str) -> None:
        from samebits.data import vision  # noqa: I001 (before the first import of torchvision)
        from torchvision import transforms

        self.pictures = object.__new__(vision.CIFAR10)
        self.pictures.data, self.pictures.targets = shapes.draw(num_images, 0, split, progress=False)
        self.pictures.target_transform = None
        statistics = normalization.of_images("per_channel", self.pictures.data)
        self.pictures.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(statistics.mean, statistics.std)]
        )

    def __len__(self) -> int:
        return len(self.pictures.targets)

    def __getitem__(self, index: int):
        return self.pictures[index]


def measuring(loop: str, num_images: int) -> Measure:
    """Return the function that runs this program and reads its seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-m", "benchmarks.lab_script", loop, str(num_images)]

    def measure() -> float:
        return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)

    return measure


def train(network: nn.Module, loader: DataLoader) -> None:
    """One epoch, the running loss read in each step."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9)
    running_loss = 0.0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = criterion(network(images), labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()


@torch.no_grad()
def test(network: nn.Module, loader: DataLoader) -> None:
    """Accuracy, then accuracy per class, each in a pass of its own."""
    for _ in range(2):
        correct = 0
        for images, labels in loader:
            correct += (network(images).argmax(1) == labels).sum().item()


def main() -> None:
    """Run one of the loops: DataLoader with 2 workers, mini-batches of 4."""
    loop, num_images = sys.argv[1], int(sys.argv[2])
    network = models.build(
        params.load(Path("params.yaml")).recipes["lab"].model, (3, 32, 32), len(shapes.CLASS_NAMES), 0
    )
    loader = DataLoader(Pictures(num_images, loop), batch_size=4, shuffle=loop == "train", num_workers=2)
    began = time.perf_counter()
    (train if loop == "train" else test)(network, loader)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main()
