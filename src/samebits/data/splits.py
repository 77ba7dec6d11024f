"""Cutting validation images out of the training images."""

import numpy as np

from samebits.data.raw import RawSplit
from samebits.errors import UserError


def cut_validation(train: RawSplit, num_validation: int, seed: int) -> tuple[RawSplit, RawSplit]:
    """Split off `num_validation` images, stratified: each class gives its share, to within one image.

    Both parts keep the order of `train`. Raises UserError where a class would have no training image left.
    """
    if num_validation == 0:
        return train, train.take(np.arange(0))
    if num_validation >= len(train):
        raise _too_many(train, num_validation)
    # Integer draws only: the same split on every processor.
    order = np.random.default_rng([seed, 0x5917]).permutation(len(train))
    by_class = order[np.argsort(train.labels[order], kind="stable")]
    counts = np.bincount(train.labels)
    starts = np.cumsum(counts) - counts
    shares = _largest_remainder(counts, num_validation)
    if (shares >= counts)[counts > 0].any():
        raise _too_many(train, num_validation)
    chosen = np.zeros(len(train), dtype=bool)
    for start, share in zip(starts, shares, strict=True):
        chosen[by_class[start : start + share]] = True
    return train.take(np.flatnonzero(~chosen)), train.take(np.flatnonzero(chosen))


def _too_many(train: RawSplit, num_validation: int) -> UserError:
    return UserError(
        f"params.yaml: data.num_validation is {num_validation}: must leave at least one training image "
        f"of each class ({len(train)} images in {len(np.unique(train.labels))} classes)"
    )


def _largest_remainder(counts: np.ndarray, total: int) -> np.ndarray:
    """Share `total` out in proportion to `counts`: whole parts first, then the largest remainders (Hamilton)."""
    whole, remainder = np.divmod(counts * total, counts.sum())
    largest = np.argsort(-remainder, kind="stable")[: total - whole.sum()]
    whole[largest] += 1
    return whole
