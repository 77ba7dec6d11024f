"""The winner of a search on fresh seeds: what is compared, what is said of it, and how often the intervals hold."""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks import search_luck
from samebits.comparison import seeds
from samebits.search import conclusion, tuning_curve
from samebits.search.agenda import Agenda
from samebits.search.confirmation import Measured, confirm, mean_estimate
from samebits.search.search_file import ParamValue
from samebits.search.trials import Trial
from tests.search_example import RATE, search_file

SPREAD = (-0.02, 0.0, 0.01, 0.02, -0.01)


def trial(number: int, objective: float | None, state: str = "complete") -> Trial:
    return Trial(number, {RATE: 0.01 * (number + 1)}, state, objective)


def told(confirmed: object) -> str:
    return " ".join([conclusion.headline(confirmed), *conclusion.sentences(confirmed, 3)])


def test_the_first_of_the_best_and_the_baseline_are_measured_with_the_same_fresh_seeds() -> None:
    measured: list[tuple[Mapping[str, ParamValue], int]] = []

    def measure(values: Mapping[str, ParamValue], seed: int) -> Measured:
        measured.append((values, seed))
        better = 0.05 if values else 0.0
        return Measured(0.6 + better + SPREAD[seed % 5], 0.59 + better + SPREAD[seed % 5])

    tried = [trial(0, 0.6), trial(1, 0.7), trial(2, 0.7), trial(3, None, "failed"), trial(4, 0.9, "pruned")]
    confirmed = confirm(search_file(num_seeds=2), tried, measure)
    assert confirmed is not None and confirmed.winner.number == 1
    winner = {RATE: pytest.approx(0.02)}
    assert measured == [(values, seed) for values in ({}, winner) for seed in (2, 3, 4, 5, 6)]  # trials used 0 and 1
    same = seeds.compare(*([0.6 + better + SPREAD[seed % 5] for seed in range(2, 7)] for better in (0, 0.05)))
    assert confirmed.validation == same and same.is_significant
    assert confirmed.mean is not None and confirmed.mean.value == pytest.approx(0.65)
    assert confirmed.luck == pytest.approx(0.05)
    text = told(confirmed)
    assert "The winner, trial 1, is better than the baseline on fresh seeds: 65.00 % against 60.00 %" in text
    assert "The search said 70.00 % for trial 1, the best of 3 trials." in text
    assert "gives 65.00 % (95 %: 63.04 to 66.96). 5.00 points of that were luck." in text
    assert (
        "of the 10.00 points that the search promised, 5.00 are left. The winner is better by 5.00 points (95 %: "
        in text
    )
    assert "the baseline gives 59.00 % and the winner 64.00 %: +5.00 points (95 %: +2.69 to +7.31)." in text


def test_of_a_loss_less_is_better() -> None:
    file = search_file(objective="validation_loss")
    tried = [trial(0, 1.2), trial(1, 0.8), trial(2, 1.0)]

    def measure(values: Mapping[str, ParamValue], seed: int) -> Measured:
        return Measured((1.1 if values else 1.0) + SPREAD[seed % 5], 0.5)

    confirmed = confirm(file, tried, measure)
    assert confirmed is not None and confirmed.winner.number == 1 and confirmed.luck == pytest.approx(0.3)
    text = told(confirmed)
    assert "trial 1, is worse than the baseline on fresh seeds: 1.1000 against 1.0000" in text
    assert "of the 0.2000 that the search promised, none is left. The winner is worse by 0.1000 (95 %: 0.0" in text


def test_what_chance_explains_is_not_called_better_and_luck_may_be_none() -> None:
    noise = np.random.default_rng(0).normal(0.6, 0.02, (2, 20))
    confirmed = confirm(search_file(), [trial(0, 0.58)], lambda values, seed: Measured(noise[len(values), seed], None))
    text = told(confirmed)
    assert "Fresh seeds do not tell the winner, trial 0, from the baseline" in text and "None of that was luck" in text
    assert "Nothing can be told: the winner − the baseline is" in text and "test images" not in text


@pytest.mark.filterwarnings("error")
def test_equal_values_have_no_interval() -> None:
    estimate = mean_estimate([0.1] * 3)  # whose deviation is a rounding error
    assert estimate.value == pytest.approx(0.1) and estimate.low is None and estimate.high is None


def test_a_training_that_fails_on_a_fresh_seed_is_told() -> None:
    def measure(values: Mapping[str, ParamValue], seed: int) -> Measured:
        return Measured(None, None) if values and seed in (2, 4) else Measured(0.6, 0.6)

    confirmed = confirm(search_file(), [trial(0, 0.7)], measure)
    assert "Nothing can be told from 5 fresh seeds: the winner failed with seeds 2, 4." in told(confirmed)


def test_without_a_complete_trial_or_the_wish_nothing_is_measured() -> None:
    def measure(values: Mapping[str, ParamValue], seed: int) -> Measured:
        raise AssertionError

    assert confirm(search_file(), [trial(0, None, "failed")], measure) is None
    assert confirm(search_file(confirm=None), [trial(0, 0.7)], measure) is None


def test_a_winner_among_more_trials_is_confirmed_itself() -> None:
    tried = [trial(0, 0.7), trial(1, 0.8)]
    results = {f"trial {each.number:06d}": {"trial": asdict(each), "machine": ""} for each in tried}
    agenda = Agenda(search_file(num_trials=1), results)
    measured = {"objective": 0.6, "test_accuracy": 0.6, "commit": ""}
    results |= {name: measured for name in agenda.confirmations}
    assert agenda.is_over and agenda.confirm().winner == tried[0]
    more = Agenda(search_file(num_trials=2), results)
    assert [more.confirmations[name] for name in more.open_confirmations] == [(tried[1].values, n) for n in range(1, 6)]


@pytest.mark.parametrize("number", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_fresh_seeds_hold_the_true_value_and_the_figure_of_the_search_does_not(number: int) -> None:
    luck = search_luck.simulate(number, search_luck.SEARCH)
    far = 0.02 if number == 1000 else 0.06
    assert abs(luck.fresh_holds - 0.95) <= far
    assert luck.searched_holds < 0.5  # 0.975 ** 40 is 36 %
    assert luck.difference_holds >= 0.93 and luck.called_better <= 0.05


@pytest.mark.parametrize("is_lower_better", [False, True])
@pytest.mark.parametrize("number", [1, 3, 20])
def test_the_band_holds_the_true_curve_for_all_numbers_of_trials_at_once(number: int, is_lower_better: bool) -> None:
    # The bounds are order statistics, whatever the distribution: found once, then counted over 4,000 uniform samples, whose
    # best of k has the median 0.5 ** (1 / k).
    places = np.arange(1, number + 1)
    band = tuning_curve.band(list(places / (number + 1)), (0, 1), is_lower_better)
    low, high = (np.rint(bound * (number + 1)).astype(int) for bound in (band.low, band.high))
    drawn = np.random.default_rng(0).random((4000, number + 2))
    drawn[:, 0], drawn[:, -1] = 0, 1  # the ends of the support
    drawn.sort(axis=1)
    median = 1 - 0.5 ** (1 / places) if is_lower_better else 0.5 ** (1 / places)
    holds = ((drawn[:, low] <= median) & (median <= drawn[:, high])).all(axis=1)
    assert holds.mean() >= 0.945


def test_ties_and_the_worst_possible_value_have_a_band() -> None:
    band = tuning_curve.band([0.5] * 15 + [np.inf] * 5, (0, np.inf), True)
    assert band.low[-1] == 0 and band.high[-1] == 0.5
    assert len(tuning_curve.band(list(np.linspace(0, 1, 300)), (0, 1), False).low) == 300
