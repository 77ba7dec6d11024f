"""One network against another on the same images: what each gets right, and whether the difference is chance.

This says something of these two networks alone: two trainings of one recipe are two networks that differ.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import bootstrap, norm, ttest_rel

from samebits.comparison.statistics import ALPHA, CONFIDENCE, Estimate, Estimates, holm
from samebits.evaluation.metrics import summary
from samebits.evaluation.predictions import Predictions

_NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Accuracies:
    """Accuracy of two networks on the same images, as shares; `difference` is B − A.

    `p` is that of McNemar's asymptotic test, and `difference` has the interval of the same test: it excludes 0 exactly when
    p < ALPHA. For a single class only `p` is corrected, by Holm, so it may exceed ALPHA even then.
    """

    num_images: int
    a: Estimate
    b: Estimate
    difference: Estimate
    only_a: int  # images that A alone gets right
    only_b: int
    p: float

    @property
    def is_significant(self) -> bool:
        """Whether chance alone rarely gives two equally good networks this difference."""
        return self.p < ALPHA


def accuracies(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> Accuracies:
    """Compare two networks by which of the same N ≥ 1 images each gets right, both bool (N,)."""
    from statsmodels.stats.contingency_tables import mcnemar

    number = len(right_a)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    # The test ignores the images that both or neither get right.
    p = float(mcnemar([[0, only_a], [only_b, 0]], exact=False, correction=False).pvalue) if only_a != only_b else 1.0
    share_a, share_b = (_share(int(right.sum()), number) for right in (right_a, right_b))
    return Accuracies(number, share_a, share_b, paired_difference(only_a, only_b, number), only_a, only_b, p)


def class_accuracies(a: Predictions, b: Predictions) -> dict[str, Accuracies]:
    """Compare two networks on the images of each class that has any; the p-values are corrected by Holm."""
    found = {
        name: accuracies(a.is_right[chosen], b.is_right[chosen])
        for position, name in enumerate(a.class_names)
        if (chosen := a.labels == position).any()
    }
    corrected = holm([each.p for each in found.values()])
    return {name: replace(each, p=p) for (name, each), p in zip(found.items(), corrected, strict=True)}


def paired_difference(only_a: int, only_b: int, number: int) -> Estimate:
    """Estimate B's accuracy less A's on the same `number` images.

    The interval holds the differences that a score test does not reject (Tango, Equivalence test and confidence interval for
    the difference in proportions for the paired-sample design, 1998). At a difference of 0 it is McNemar's test.
    """
    value = (only_b - only_a) / number

    def excess(difference: float, reach: float) -> float:
        # The probability that only A is right that fits the counts best, if that of B exceeds it by `difference`.
        linear = (2 * number + only_a - only_b) * difference - only_a - only_b
        root = math.sqrt(max(linear**2 + 8 * number * only_a * difference * (1 - difference), 0))
        share = max((root - linear) / (4 * number), 0, -difference)
        deviation = math.sqrt(number * (2 * share + difference * (1 - difference)))
        return only_b - only_a - number * difference - reach * deviation

    # Not from the estimate itself, at which the deviation may be 0; and more exact than brentq's default of 2e-12, so that a
    # bound near 0 has the sign that the test says.
    low = brentq(excess, -1, max(value - 1e-9, -1), norm.isf(ALPHA / 2), xtol=1e-16)
    high = brentq(excess, min(value + 1e-9, 1), 1, norm.ppf(ALPHA / 2), xtol=1e-16)
    return Estimate(value, float(low), float(high))


def _share(right: int, number: int) -> Estimate:
    """Estimate an accuracy; the interval is Wilson's (1927)."""
    return Estimate(right / number, *summary.wilson_interval(right, number))


def losses(a: Predictions, b: Predictions) -> Estimates:
    """Estimate the mean cross-entropy (nats) of both; the interval of the difference is that of Student's paired t-test over images."""
    each_a, each_b = (summary.cross_entropies(each.probabilities, each.labels) for each in (a, b))
    bounds: tuple[float, ...] = ()
    if len(each_a) > 1 and (each_b - each_a).std() > 0:
        bounds = tuple(map(float, ttest_rel(each_b, each_a).confidence_interval(CONFIDENCE)))
    mean_a, mean_b = (Estimate(float(each.mean())) for each in (each_a, each_b))
    return Estimates(mean_a, mean_b, Estimate(float((each_b - each_a).mean()), *bounds))


def calibration_errors(a: Predictions, b: Predictions) -> Estimates:
    """Estimate the expected calibration error of both; the interval of the difference is from a basic bootstrap over images.

    Resampling inflates a calibration error near 0, and the basic bootstrap corrects that.
    """
    error_a, error_b = (summary.calibration(each.probabilities, each.labels).error for each in (a, b))
    estimates, difference = (Estimate(error_a), Estimate(error_b)), error_b - error_a
    images = np.arange(len(a.labels))
    if len(images) == 1 or np.array_equal(a.probabilities, b.probabilities):
        return Estimates(*estimates, Estimate(difference))
    parts = [
        (summary.bins_of(confidence := each.probabilities.max(axis=1)), each.is_right - confidence) for each in (a, b)
    ]

    def change(sample: NDArray[np.int64]) -> float:
        before, after = (np.abs(np.bincount(bins[sample], gaps[sample])).sum() / len(sample) for bins, gaps in parts)
        return float(after - before)

    interval = bootstrap(
        (images,),
        change,
        vectorized=False,
        method="basic",
        n_resamples=_NUM_RESAMPLES,
        batch=50,  # resamples in memory at once
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimates(*estimates, Estimate(difference, float(interval.low), float(interval.high)))
