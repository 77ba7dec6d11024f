"""The statistics of a comparison: published worked examples, simulation, and what the verdicts say."""

import numpy as np
import pytest
from scipy.stats import binom, norm

from samebits.comparison import paired, seeds, verdict
from samebits.comparison.paired import Accuracies
from samebits.evaluation.predictions import Predictions


def pairs(both: int, only_a: int, only_b: int, neither: int) -> Accuracies:
    counts = (both, only_a, only_b, neither)
    return paired.accuracies(
        np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)
    )


def predictions(right: np.ndarray, confidence: float = 0.9, classes: int = 2) -> Predictions:
    """Predictions for images of class 0, right where `right` says so."""
    probabilities = np.full((len(right), classes), (1 - confidence) / (classes - 1), dtype=np.float32)
    probabilities[np.arange(len(right)), np.where(right, 0, 1)] = confidence
    return Predictions(tuple(f"class{c}" for c in range(classes)), probabilities, np.zeros(len(right), dtype=np.int64))


def test_mcnemar_and_its_interval_as_published() -> None:
    # Fagerland, Lydersen and Laake, Recommended tests and confidence intervals for paired binomial proportions, Statistics in
    # Medicine 2014: airway hyper-responsiveness before and after stem cell transplantation (their table II).
    airways = pairs(1, 1, 7, 12)
    assert airways.p == pytest.approx(0.034, abs=5e-4)
    assert airways.difference.value == pytest.approx(6 / 21)
    assert (airways.difference.low, airways.difference.high) == pytest.approx((0.026, 0.517), abs=5e-4)


@pytest.mark.parametrize("counts", [(1, 7, 21), (180, 220, 10_000), (40, 20, 160), (86, 150, 1600), (0, 3, 10_000)])
def test_bounds_of_the_interval_are_roots_of_the_published_quartic(counts: tuple[int, int, int]) -> None:
    # Yang, Sun and Hardin, A non-iterative implementation of Tango's score confidence interval for a paired difference of
    # proportions, Statistics in Medicine 2013.
    only_a, only_b, number = counts
    squared, surplus, discordant = norm.isf(0.025) ** 2, only_b - only_a, only_a + only_b
    ratio = number / squared
    roots = np.roots(
        [
            number**2 * (ratio + 1) ** 2,
            -number * surplus * (ratio + 1) * (4 * ratio + 1),
            2 * number * surplus**2 * (3 * ratio + 2) / squared - number**2 * (discordant / squared + 1),
            number * surplus * (2 * discordant / squared + 1) - surplus**3 * (4 * ratio + 1) / squared,
            surplus**2 * (surplus**2 / squared - discordant) / squared,
        ]
    )
    found = paired.paired_difference(*counts)
    assert (found.low, found.high) == pytest.approx((roots.real.min(), roots.real.max()), abs=1e-10)


def test_test_and_interval_never_contradict_each_other() -> None:
    # Of the pairs below, all whose test is anywhere near to change its answer, and every seventh of the others.
    border, num_checked = norm.isf(0.025) ** 2, 0
    for only_a in range(201):
        for only_b in range(only_a + 1):
            discordant = only_a + only_b
            statistic = (only_a - only_b) ** 2 / max(discordant, 1)
            if abs(statistic - border) > 0.5 and discordant % 7:
                continue
            found, turned = (paired.paired_difference(*each, 10_000) for each in ((only_a, only_b), (only_b, only_a)))
            assert found.low <= found.value <= found.high  # type: ignore[operator]
            assert (found.high < 0) == (turned.low > 0) == (statistic > border)  # type: ignore[operator]
            assert found.low <= 0 <= turned.high  # type: ignore[operator]
            num_checked += 1
    assert num_checked > 3000
    assert pairs(9600, 180, 220, 0).is_significant and not pairs(9600, 181, 219, 0).is_significant


@pytest.mark.parametrize("counts", [(0, 0, 1), (0, 0, 100), (0, 1, 1), (0, 10, 10), (10, 0, 10), (5, 5, 10)])
def test_an_interval_at_the_edge_holds_its_estimate(counts: tuple[int, int, int]) -> None:
    found = paired.paired_difference(*counts)
    assert found.low is not None and found.high is not None
    assert -1 <= found.low <= found.value <= found.high <= 1 and found.low < found.high


def test_no_bound_is_rounded_to_what_contradicts_the_verdict() -> None:
    # For each number of images that only A gets right: the first surplus of B that is significant, and the one before.
    for only_b in range(1, 120):
        found = next(
            each for b in range(only_b, 200) if (each := pairs(5000, only_b, b, 5000 - only_b - b)).is_significant
        )
        text = verdict.of_networks(found, 400, False)
        assert "95 %: 0 to" not in text and "which chance" not in text
        unclear = verdict.of_networks(pairs(5000, only_b, found.only_b - 1, 5001 - only_b - found.only_b), 400, False)
        assert "95 %: −" in unclear and "which chance alone explains" in unclear


def test_paired_difference_of_a_large_survey() -> None:
    # Agresti, Categorical Data Analysis, 2nd edition, section 10.1: approval of the prime minister, asked twice; difference
    # -0.04, 95 % interval (-0.06, -0.02); z² = 17.36 for those who changed their minds, 150 and 86.
    approval = pairs(794, 150, 86, 570)
    assert approval.difference.value == pytest.approx(-0.04)
    assert (approval.difference.low, approval.difference.high) == pytest.approx((-0.06, -0.02), abs=2e-3)
    assert norm.isf(approval.p / 2) ** 2 == pytest.approx(17.36, abs=5e-3)


def test_wilson_interval_as_published() -> None:
    # Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 1998, table I: 81 of 263.
    share = pairs(81, 0, 0, 263 - 81).a
    assert (share.low, share.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_welch_as_published() -> None:
    # Welch's test on R's data set `sleep` (Student, The probable error of a mean, 1908; in R's documentation of t.test):
    # t = -1.8608, df = 17.776, p = 0.07939, 95 % interval -3.3654832 to 0.2054832.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    change = seeds.compare(second, first)
    assert change.p == pytest.approx(0.07939, abs=5e-6)
    assert (change.difference.low, change.difference.high) == pytest.approx((-3.3654832, 0.2054832), abs=1e-7)
    assert (change.b.mean, change.a.mean) == pytest.approx((0.75, 2.33))


def test_holm_by_hand() -> None:
    # In order 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04, which may not be less than the one before.
    from samebits.comparison.statistics import holm

    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_power_as_in_the_tables() -> None:
    # Cohen, Statistical Power Analysis, 2nd edition, table 2.4.1: 26 in each group for d = 0.8, 64 for d = 0.5, at a power of 0.80.
    equal = np.array([1.0, 1.0])
    assert seeds._needed(equal, 0.8) == 26
    assert seeds._needed(equal, 0.5) == 64
    assert seeds.power(seeds._detectable(equal, 5, 5), equal, 5, 5) == pytest.approx(0.8)
    assert seeds._needed(equal, 1e-9) is None


def rate_of_significant(share_a: float, share_b: float, num_pairs: int) -> float:
    """Simulate pairs of networks on 10,000 images, all with at least 400 discordant ones; give the share significant."""
    random = np.random.default_rng(20260101)
    counts = random.multinomial(10_000, (share_a, share_b, 1 - share_a - share_b), size=num_pairs)
    assert counts[:, :2].sum(axis=1).min() >= 400
    with pytest.MonkeyPatch.context() as patch:  # the interval is most of the work, and no test depends on it
        patch.setattr(paired, "paired_difference", lambda *_: None)
        return float(np.mean([pairs(0, only_a, only_b, 0).is_significant for only_a, only_b, _ in counts]))


def test_without_a_difference_one_pair_in_twenty_is_significant() -> None:
    for share in (0.03, 0.1):
        assert 0.030 <= rate_of_significant(share, share, 2000) <= 0.065


def test_power_of_a_pair_is_that_of_theory() -> None:
    # The test is binomial on the discordant images: their number is binomial, and so is the part that only B gets right.
    for share_a, share_b in ((0.05, 0.058), (0.05, 0.062)):
        discordant, theory, weight = share_a + share_b, 0.0, 0.0
        for number in range(*(int(binom.ppf(end, 10_000, discordant)) for end in (1e-4, 1 - 1e-4)), 5):
            only_b = np.arange(number + 1)
            p = 2 * norm.sf(abs(2 * only_b - number) / np.sqrt(number))
            chance = binom.pmf(number, 10_000, discordant)
            theory += chance * binom.pmf(only_b, number, share_b / discordant)[p < 0.05].sum()
            weight += chance
        assert rate_of_significant(share_a, share_b, 6000) == pytest.approx(theory / weight, abs=0.03)


def test_seeds_err_as_often_as_they_say_and_find_what_they_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(20260101)
    deviations, number = np.array([1.2, 0.6]), 5
    detectable = seeds._detectable(deviations**2, number, number)
    for planning in ("_detectable", "_needed"):  # most of the work, and nothing that a verdict depends on
        monkeypatch.setattr(seeds, planning, lambda *_: None)
    for shift, low, high in ((0.0, 0.030, 0.065), (detectable, 0.77, 0.83)):
        a, b = (random.normal(0, deviation, (1000, number)) for deviation in deviations)
        rate = np.mean([seeds.compare(x, y + shift).is_significant for x, y in zip(a, b, strict=True)])
        assert low <= rate <= high


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(20260101)
    counts = random.multinomial(1000, (0.08, 0.11, 0.81), size=2000)
    intervals = [paired.paired_difference(a, b, 1000) for a, b, _ in counts]
    held = np.mean([(each.low or 0) <= 0.03 <= (each.high or 0) for each in intervals])
    assert 0.94 <= held <= 0.965


def test_change_of_loss_and_calibration() -> None:
    right = np.arange(4000) % 10 != 0  # 90 % right
    sure, right_sure = predictions(right, 0.99), predictions(right, 0.9)
    error = paired.calibration_errors(sure, right_sure)
    before, after, change = error.a, error.b, error.difference
    assert before.value == pytest.approx(0.09, abs=1e-3) and after.value == pytest.approx(0, abs=1e-3)
    assert (
        change.low is not None and change.high is not None and -0.11 < change.low < change.value < change.high < -0.07
    )
    loss = paired.losses(sure, right_sure).difference
    assert loss.low is not None and loss.high is not None and loss.low < loss.value < loss.high < 0
    assert paired.accuracies(right, right).p == 1
    assert paired.losses(sure, sure).difference.value == paired.calibration_errors(sure, sure).difference.value == 0


def test_classes_are_corrected_for_being_many_and_empty_ones_are_left_out() -> None:
    random = np.random.default_rng(3)
    labels = np.repeat([0, 1, 2], 300)
    a, b = (random.random((900, 5), dtype=np.float32) for _ in range(2))
    b[np.arange(300), 0] += 0.3
    names = ("zero", "one", "two", "none", "nothing")
    found = paired.class_accuracies(Predictions(names, a, labels), Predictions(names, b, labels))
    assert list(found) == ["zero", "one", "two"]
    alone = {
        name: paired.accuracies(a.argmax(1)[labels == c] == c, b.argmax(1)[labels == c] == c).p
        for c, name in enumerate(found)
    }
    assert found["zero"].p == pytest.approx(3 * alone["zero"]) and alone["zero"] < 0.01


def test_verdict_on_two_networks_speaks_of_images_and_never_of_the_recipe() -> None:
    better = pairs(5000, 104, 146, 4750)
    assert verdict.of_networks(better, 400, False) == (
        "On these 10,000 images network B is right on 42 more (95 %: 11 to 73). "
        "Whether the change caused it, one training per side cannot tell: run more seeds."
    )
    worse = verdict.of_networks(pairs(5000, 146, 104, 4750), 400, True)
    assert "network B is right on 42 fewer (95 %: 11 to 73)." in worse and "nothing but the seed" in worse
    unclear = verdict.of_networks(pairs(5000, 104, 116, 4780), 400, False)
    assert "12 more (95 %: −17 to +41), which chance alone explains" in unclear
    alike = verdict.of_networks(pairs(50, 0, 0, 50), 0, False)
    even = verdict.of_networks(pairs(50, 5, 5, 40), 12, False)
    assert "same class" in alike and "equally often" in even
    assert not any("recipe" in sentence for sentence in (worse, unclear, alike, even))


def test_verdict_on_seeds() -> None:
    better = seeds.compare([0.5, 0.502, 0.498, 0.501, 0.499], [0.51, 0.511, 0.509, 0.512, 0.508])
    assert verdict.of_seeds(better, False).startswith(
        "B is better by 1.00 points (95 %: 0.77 to 1.23). 5 seeds against 5 find"
    )
    assert verdict.of_seeds(seeds.compare(better.b.values, better.a.values), False).startswith(
        "B is worse by 1.00 points"
    )
    nothing = verdict.of_seeds(seeds.compare([0.5, 0.51, 0.49, 0.52, 0.48], [0.5, 0.512, 0.49, 0.525, 0.48]), True)
    assert nothing.startswith("Nothing can be told: B − A is +0.14 points (95 %: −2.3")
    assert "in 80 of 100 cases" in nothing and "of each" in nothing


@pytest.mark.parametrize("a, b", [([0.5], [0.6, 0.61, 0.62]), ([0.5, 0.4], [0.6, 0.7]), ([0.5], [0.6])])
def test_too_few_seeds_get_no_p_value(a: list[float], b: list[float]) -> None:
    change = seeds.compare(a, b)
    assert change.p is None and change.difference.low is None and not change.is_significant
    assert "too few, at least 3" in verdict.of_seeds(change, False) and "dvc exp run --queue" in verdict.of_seeds(
        change, False
    )


def test_seeds_that_never_differ_get_no_p_value() -> None:
    change = seeds.compare([0.1] * 4, [0.2] * 4)
    assert change.p is None and "Nothing can be told" in verdict.of_seeds(change, False)
    one_sided = seeds.compare([0.1, 0.1, 0.1], [0.2, 0.21, 0.22])
    assert one_sided.p is not None and one_sided.detectable is not None
