"""Augmentation: mirrored in every other epoch, shifted with reflection, and decided by the seed alone."""

import pytest
import torch
import torch.nn.functional as F

from samebits.training.augmentation import Augmentation

CPU = torch.device("cpu")
IMAGES = torch.randn(200, 3, 8, 10, generator=torch.Generator().manual_seed(0)).half()
ALL = torch.arange(len(IMAGES))


def augmentation(flip: str = "none", translate: int = 0, seed: int = 0) -> Augmentation:
    return Augmentation(flip, translate, len(IMAGES), seed, CPU)


def seen(augment: Augmentation, epoch: int, indices: torch.Tensor = ALL) -> torch.Tensor:
    augment.begin_epoch(epoch)
    return augment(IMAGES, indices)


def test_none_leaves_images_as_they_are() -> None:
    chosen = torch.tensor([5, 3, 3])
    for epoch in (1, 2):
        assert torch.equal(seen(augmentation(), epoch, chosen), IMAGES[chosen])


def test_two_epochs_show_both_sides_of_every_image() -> None:
    augment = augmentation("alternating")
    first, second, third = (seen(augment, epoch) for epoch in (1, 2, 3))
    assert torch.equal(first.flip(3), second) and torch.equal(first, third)
    mirrored = (first != IMAGES).any(3).any(2).any(1)
    assert torch.equal(first[mirrored], IMAGES[mirrored].flip(3))
    assert 70 < mirrored.sum() < 130  # 100 ± 4 deviations


def test_shifts_are_crops_of_the_reflected_image() -> None:
    views = seen(augmentation(translate=2), 1)
    padded = F.pad(IMAGES.float(), (2, 2, 2, 2), mode="reflect").half()
    crops = {(y, x): padded[:, :, y : y + 8, x : x + 10] for y in range(5) for x in range(5)}
    shifts = []
    for index in range(len(IMAGES)):
        (shift,) = (place for place, crop in crops.items() if torch.equal(crop[index], views[index]))
        shifts.append(shift)
    assert len(set(shifts)) == 25  # every shift occurs among 200


def test_both_together_and_in_any_order() -> None:
    augment = augmentation("alternating", 2)
    whole = seen(augment, 1)
    chosen = torch.tensor([9, 0, 150])
    assert torch.equal(seen(augment, 1, chosen), whole[chosen])
    assert not torch.equal(seen(augment, 2).flip(3), whole)  # other shifts in another epoch


@pytest.mark.parametrize(("flip", "translate"), [("alternating", 0), ("none", 1)])
def test_the_seed_decides(flip: str, translate: int) -> None:
    one, again, other = (augmentation(flip, translate, seed) for seed in (3, 3, 4))
    again.begin_epoch(7)  # what came before does not matter
    assert torch.equal(seen(one, 2), seen(again, 2))
    assert not torch.equal(seen(one, 2), seen(other, 2))
