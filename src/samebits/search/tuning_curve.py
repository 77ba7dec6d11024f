"""What more trials would give: the best of k independent trials, with a band that holds for every k at once.

From Lourie, Cho and He, Show Your Work with Confidence: Confidence Bands for Tuning Curves, 2024 (arXiv 2311.09480), by their
library opda. It assumes nothing of the distribution of the objectives, but that the settings are drawn independently of each
other and of all results: only the sampler `random` does that.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samebits.comparison.statistics import CONFIDENCE

# opda simulates 100,000 searches of as many trials, in memory at once.
_MOST_SIMULATED = 100


@dataclass(frozen=True)
class Band:
    """The 95 % band of the median of the best of 1, 2, ... trials: both bounds float (trials,)."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


def band(objectives: Sequence[float], support: tuple[float, float], is_lower_better: bool) -> Band:
    """Return the band from the objectives of independent trials, at least one, which lie in `support`.

    It is that of Learned-Miller and DeStefano (2008) up to 100 trials, and that of Kolmogorov and Smirnov above, which
    is faster to compute and wider at the ends. Ties make either wider than it need be.
    """
    from opda.nonparametric import EmpiricalDistribution

    method = "ld_equal_tailed" if len(objectives) <= _MOST_SIMULATED else "ks"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicates detected", RuntimeWarning)
        lower, _, upper = EmpiricalDistribution.confidence_bands(
            objectives, CONFIDENCE, *support, generator=np.random.default_rng(0), method=method, n_jobs=1
        )
    numbers = np.arange(1, len(objectives) + 1)
    # The upper band of the distribution is the lower one of its quantiles.
    low, high = (band.quantile_tuning_curve(numbers, minimize=is_lower_better) for band in (upper, lower))
    return Band(low, high)
