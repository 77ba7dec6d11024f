"""Augmentation: what happens to an image is decided by its index, the epoch and the seed alone."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from samebits import params, parts
from samebits.errors import UserError
from samebits.training import augmentation
from tests.example_parts import used

CPU = torch.device("cpu")
IMAGES = torch.randn(200, 3, 8, 10, generator=torch.Generator().manual_seed(0)).half()
ALL = torch.arange(len(IMAGES))
FLIP: dict[str, Any] = {"name": "flip"}


def build(*sections: dict[str, Any], seed: int = 0) -> list[augmentation.Augmentation]:
    chosen = [params.part("augmentation", section) for section in sections]
    return augmentation.build(chosen, len(IMAGES), seed, CPU)


def seen(augmentations: list[augmentation.Augmentation], epoch: int, indices: torch.Tensor = ALL) -> torch.Tensor:
    images = IMAGES[indices]
    for each in augmentations:
        each.begin_epoch(epoch)
        images = each(images, indices)
    return images


def translate(pixels: int) -> dict[str, Any]:
    return {"name": "translate", "pixels": pixels}


def test_two_epochs_show_both_sides_of_every_image() -> None:
    flip = build(FLIP)
    first, second, third = (seen(flip, epoch) for epoch in (1, 2, 3))
    assert torch.equal(first.flip(3), second) and torch.equal(first, third)
    mirrored = (first != IMAGES).any(3).any(2).any(1)
    assert torch.equal(first[mirrored], IMAGES[mirrored].flip(3))
    assert 70 < mirrored.sum() < 130  # 100 ± 4 deviations


def test_shifts_are_crops_of_the_reflected_image() -> None:
    views = seen(build(translate(2)), 1)
    padded = F.pad(IMAGES.float(), (2, 2, 2, 2), mode="reflect").half()
    crops = {(y, x): padded[:, :, y : y + 8, x : x + 10] for y in range(5) for x in range(5)}
    shifts = []
    for index in range(len(IMAGES)):
        (shift,) = (place for place, crop in crops.items() if torch.equal(crop[index], views[index]))
        shifts.append(shift)
    assert len(set(shifts)) == 25  # every shift occurs among 200


def test_a_shift_as_wide_as_the_image_is_refused() -> None:
    assert seen(build(translate(7)), 1).shape == IMAGES.shape
    with pytest.raises(UserError, match="shifts by 8 pixels images of 8: "):
        seen(build(translate(8)), 1)


def test_cutout_blanks_out_one_square_with_its_centre_anywhere() -> None:
    views = seen(build({"name": "cutout", "side": 3}), 1)
    assert torch.equal(views[views != 0], IMAGES[views != 0])
    places = set()
    for view in views:
        blank = (view == 0).all(0)
        rows, columns = (torch.nonzero(blank.any(axis)).flatten() for axis in (1, 0))
        assert blank[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # a rectangle, cut at the border
        assert 2 <= len(rows) <= 3 and 2 <= len(columns) <= 3 and blank.sum() == len(rows) * len(columns)
        places.add((int(rows[0] + rows[-1]), int(columns[0] + columns[-1])))
    assert len(places) > 60  # of the 80 pixels that 200 centres may be


def test_each_of_the_first_epochs_has_its_size() -> None:
    resize = build({"name": "resize", "sides": [5, 6]})
    for epoch, side in (1, 5), (2, 6):
        expected = F.interpolate(IMAGES.float(), size=side, mode="bilinear", antialias=True)
        assert torch.equal(seen(resize, epoch), expected)
    assert seen(resize, 3).shape == IMAGES.shape


def test_several_come_one_after_the_other() -> None:
    one, other = build(translate(2)), build(FLIP)
    both = build(translate(2), FLIP)
    other[0].begin_epoch(1)
    assert torch.equal(seen(both, 1), other[0](seen(one, 1), ALL))
    assert not torch.equal(seen(both, 2).flip(3), seen(both, 1))  # other shifts in another epoch


@pytest.mark.parametrize("name", parts.names("augmentation"))
def test_every_augmentation(name: str) -> None:
    """One suite for all: a pure function of index, epoch and seed."""
    one, again = (build(used("augmentation", name), seed=3) for _ in range(2))
    before = torch.get_rng_state()
    whole = seen(one, 2)
    seen(again, 7)  # what came before does not matter
    assert torch.equal(seen(again, 2), whole) and torch.equal(torch.get_rng_state(), before)
    chosen = torch.tensor([9, 0, 150, 9])
    assert torch.equal(seen(one, 2, chosen), whole[chosen])
    assert whole.shape[:2] == IMAGES.shape[:2]


@pytest.mark.parametrize("section", [FLIP, translate(2), {"name": "cutout", "side": 3}], ids=str)
def test_the_seed_decides(section: dict[str, Any]) -> None:
    assert not torch.equal(seen(build(section, seed=3), 2), seen(build(section, seed=4), 2))
