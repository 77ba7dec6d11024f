"""An estimate with its interval, and the level at which all of this room's tests and intervals speak."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
ALPHA = 0.05


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; without bounds where there is too little to have one."""

    value: float
    low: float | None = None
    high: float | None = None


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values of tests made at once (Holm, A simple sequentially rejective multiple test procedure, 1979)."""
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return []
    return [float(p) for p in np.asarray(multipletests(p_values, alpha=ALPHA, method="holm")[1])]
