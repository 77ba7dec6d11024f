"""What a search and its confirmation say, in sentences."""

from collections.abc import Callable

from samebits.comparison import verdict
from samebits.comparison.seeds import Change
from samebits.comparison.statistics import Estimate
from samebits.search.confirmation import Confirmation
from samebits.search.objective import Objective


def headline(confirmation: Confirmation) -> str:
    """Say in one sentence whether the winner is better than the baseline."""
    number, change, objective = confirmation.winner.number, confirmation.validation, confirmation.objective
    if change is None or change.p is None:
        return f"Whether the winner, trial {number}, is better than the baseline, the fresh seeds do not tell."
    winner, baseline = (objective.tell(group.mean) for group in (change.b, change.a))
    means = f"{winner} against {baseline}, means of {len(confirmation.seeds)} seeds"
    if not change.is_significant:
        return f"Fresh seeds do not tell the winner, trial {number}, from the baseline: {means}."
    word = "better" if objective.gain(change.a.mean, change.b.mean) > 0 else "worse"
    return f"The winner, trial {number}, is {word} than the baseline on fresh seeds: {means}."


def sentences(confirmation: Confirmation, num_trials: int) -> list[str]:
    """Say what the search said, what fresh seeds say, how much of it was luck, and what the test images say."""
    objective = confirmation.objective
    best_of = "the only trial" if num_trials == 1 else f"the best of {num_trials} trials"
    said = f"The search said {objective.tell(confirmation.searched)} for trial {confirmation.winner.number}, {best_of}."
    on_seeds = f"{len(confirmation.seeds)} fresh seeds"
    mean, luck, change = confirmation.mean, confirmation.luck, confirmation.validation
    if mean is None or luck is None or change is None:
        failures = [
            f"the {name} failed with {'seed' if len(failed) == 1 else 'seeds'} {', '.join(map(str, failed))}"
            for name, failed in confirmation.failed.items()
            if failed
        ]
        return [said, f"Nothing can be told from {on_seeds}: {' and '.join(failures)}."]
    share = (
        "None of that was luck"
        if luck <= 0
        else f"{objective.quantity.tell(luck)}{objective.quantity.unit} of that were luck"
    )
    found = f"On {on_seeds} the same setting gives {_estimate(mean, objective.tell)}. {share}."
    return [said, found, _gain(objective, change, luck), *_test(confirmation.test)]


def _gain(objective: Objective, change: Change, luck: float) -> str:
    quantity, left = objective.quantity, objective.gain(change.a.mean, change.b.mean)
    baseline = f"The baseline gives {objective.tell(change.a.mean)}"
    if left + luck > 0:
        remains = f"{quantity.tell(left)} are left" if left > 0 else "none is left"
        baseline += f": of the {quantity.tell(left + luck)}{quantity.unit} that the search promised, {remains}"
    return f"{baseline}. {verdict.of_seeds(change, False, 'the baseline', 'the winner', quantity)}"


def _test(change: Change | None) -> list[str]:
    if change is None:
        return []
    baseline, winner = (f"{100 * group.mean:.2f} %" for group in (change.a, change.b))
    difference = _estimate(change.difference, lambda value: f"{100 * value:+.2f}", " points").replace("-", "−")
    return [
        f"On the test images, which chose nothing, the baseline gives {baseline} and the winner {winner}: {difference}."
    ]


def _estimate(estimate: Estimate, told: Callable[[float], str], unit: str = "") -> str:
    value = f"{told(estimate.value)}{unit}"
    if estimate.low is None or estimate.high is None:
        return value
    low, high = (told(bound).removesuffix(" %") for bound in (estimate.low, estimate.high))
    return f"{value} (95 %: {low} to {high})"
