"""An estimate with its interval, and the level of all tests and intervals of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
ALPHA = 0.05


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; without bounds if there are too few values for one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Estimates:
    """A number of network A and of network B, and B − A."""

    a: Estimate
    b: Estimate
    difference: Estimate


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values of several tests (Holm, A simple sequentially rejective multiple test procedure, 1979)."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, alpha=ALPHA, method="holm")[1]] if p_values else []
