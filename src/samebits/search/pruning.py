"""Which trainings are stopped early: those that are worse after an epoch than the median of earlier trials after as many.

As in Optuna's MedianPruner, but a trial is compared with those trials alone that its proposal may know, so that neither who
works nor how fast decides what is stopped. Histories are exact, so the rule says the same of one that was written down.
"""

from collections.abc import Sequence
from statistics import median

from samebits.search.search_file import SearchFile
from samebits.search.trials import Trial

MIN_TRIALS = 5  # that have come as far; with fewer, nothing is stopped


def stop_epoch(search: SearchFile, history: Sequence[float], known: Sequence[Trial]) -> int | None:
    """Return after which epoch, from 1, a training is stopped that is at `history` after each epoch so far; None if it goes on."""
    for epoch, value in enumerate(history, start=1):
        others = [trial.history[epoch - 1] for trial in known if len(trial.history) >= epoch]
        if len(others) >= MIN_TRIALS:
            middle = median(others)
            if value < middle if search.is_maximized else value > middle:
                return epoch
    return None
