"""Seeds against seeds: trainings of one recipe against trainings of another."""

import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import ttest_ind

from samebits.comparison.statistics import ALPHA, CONFIDENCE, Estimate, holm

POWER = 0.8
MIN_SEEDS = 3  # with two, a standard deviation rests on one difference
_MAX_SEEDS = 10_000


@dataclass(frozen=True)
class Group:
    """A number for each training of a group, its mean and its standard deviation (None for one training)."""

    values: tuple[float, ...]
    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Group":
        """Summarize the values, one for each training."""
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(tuple(float(value) for value in values), float(np.mean(values)), deviation)


@dataclass(frozen=True)
class Change:
    """A number of group B against the same number of group A; `difference` is that of the means, B − A.

    `p` is that of Welch's t-test (The generalization of Student's problem when several different population variances are
    involved, 1947), None if a group has fewer than MIN_SEEDS trainings or no training differs from another.
    """

    a: Group
    b: Group
    difference: Estimate
    p: float | None = None
    detectable: float | None = None  # the difference that as many seeds find with a probability of POWER
    # Seeds in each group that find the difference seen with that probability; None if over _MAX_SEEDS.
    needed: int | None = None

    @property
    def is_significant(self) -> bool:
        """Whether chance alone rarely gives two equally good recipes this difference."""
        return self.p is not None and self.p < ALPHA


def have_spread(*groups: Group) -> bool:
    """Tell whether trainings of a group differ; a rounding error is no difference."""
    return bool(max(np.ptp(group.values) for group in groups) > 1e-12 * max(abs(group.mean) for group in groups))


def compare(a: Sequence[float], b: Sequence[float]) -> Change:
    """Compare a number of group A's trainings with the same of group B's, each at least one."""
    group_a, group_b = Group.of(a), Group.of(b)
    difference = Estimate(group_b.mean - group_a.mean)
    if min(len(a), len(b)) < MIN_SEEDS or not have_spread(group_a, group_b):
        return Change(group_a, group_b, difference)
    with warnings.catch_warnings():  # one group may have no spread at all, as with weights that start at zero
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        test = ttest_ind(group_b.values, group_a.values, equal_var=False)
    difference = Estimate(difference.value, *map(float, test.confidence_interval(CONFIDENCE)))
    variances = np.array([np.var(a, ddof=1), np.var(b, ddof=1)])
    detectable, needed = _detectable(variances, len(a), len(b)), _needed(variances, difference.value)
    return Change(group_a, group_b, difference, float(test.pvalue), detectable, needed)


def compare_classes(a: Mapping[str, Sequence[float]], b: Mapping[str, Sequence[float]]) -> dict[str, Change]:
    """Compare the same number for each class; the p-values are corrected by Holm."""
    changes = {name: compare(a[name], b[name]) for name in a}
    tested = {name: change.p for name, change in changes.items() if change.p is not None}
    corrected = zip(tested, holm(list(tested.values())), strict=True)
    return changes | {name: replace(changes[name], p=p) for name, p in corrected}


def power(difference: float, variances: NDArray[np.float64], num_a: int, num_b: int) -> float:
    """Return the probability that Welch's test finds a true `difference`, for the two variances and numbers of trainings.

    From the noncentral t distribution with Welch's degrees of freedom.
    """
    from statsmodels.stats.power import ttest_power

    shares = variances / np.array([num_a, num_b])
    degrees = shares.sum() ** 2 / (shares**2 / (np.array([num_a, num_b]) - 1)).sum()
    found = float(ttest_power(abs(difference) / np.sqrt(shares.sum()), 1, ALPHA, df=degrees))
    # The distribution's series sometimes fails from 8 standard errors on, where the power is 1.
    return 1.0 if np.isnan(found) else found


def _detectable(variances: NDArray[np.float64], num_a: int, num_b: int) -> float:
    unit = float(np.sqrt(variances[0] / num_a + variances[1] / num_b))
    return unit * float(brentq(lambda factor: power(factor * unit, variances, num_a, num_b) - POWER, 0.1, 8))


def _needed(variances: NDArray[np.float64], difference: float) -> int | None:
    numbers = range(MIN_SEEDS, _MAX_SEEDS + 1)
    place = bisect_left(numbers, POWER, key=lambda number: power(difference, variances, number, number))
    return numbers[place] if place < len(numbers) else None
