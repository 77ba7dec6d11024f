"""Setting validation images aside from the training images."""

import numpy as np

from samebits.data.raw import RawSplit
from samebits.errors import UserError


def cut_validation(train: RawSplit, num_validation: int, seed: int) -> tuple[RawSplit, RawSplit]:
    """Split off `num_validation` images, stratified: each class gives its share, to within one image.

    Both parts keep the order of `train`. Raises UserError if a class would have no training image left.
    """
    if num_validation == 0:
        return train, train.take(np.arange(0))
    counts = np.bincount(train.labels)
    shares = _largest_remainder(counts, min(num_validation, len(train)))
    if (shares >= counts)[counts > 0].any():
        raise UserError(
            f"params.yaml: data.num_validation is {num_validation}: must leave at least one training image "
            f"of each class ({len(train)} images in {np.count_nonzero(counts)} classes)"
        )
    # Integer draws only: the same split on every processor.
    order = np.random.default_rng([seed, 0x5917]).permutation(len(train))
    by_class = np.split(order[np.argsort(train.labels[order], kind="stable")], np.cumsum(counts)[:-1])
    chosen = np.zeros(len(train), dtype=bool)
    for indices, share in zip(by_class, shares, strict=True):
        chosen[indices[:share]] = True
    return train.take(np.flatnonzero(~chosen)), train.take(np.flatnonzero(chosen))


def _largest_remainder(counts: np.ndarray, total: int) -> np.ndarray:
    """Divide `total` in proportion to `counts`: whole parts first, then the largest remainders (Hamilton)."""
    whole, remainder = np.divmod(counts * total, counts.sum())
    largest = np.argsort(-remainder, kind="stable")[: total - whole.sum()]
    whole[largest] += 1
    return whole
