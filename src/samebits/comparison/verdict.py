"""The conclusion of a comparison, in sentences. Two networks say nothing of their recipes: one training each is too few."""

from samebits.comparison.paired import Accuracies
from samebits.comparison.seeds import MIN_SEEDS, POWER, Change

RUN_SEEDS = "dvc exp run --queue -S 'seed=range(0,5)'"


def of_networks(accuracies: Accuracies, changed: int, is_same_but_for_seed: bool) -> str:
    """Say what the test images tell of two networks, which classify `changed` images differently."""
    where = f"On these {accuracies.num_images:,} images"
    if changed == 0:
        return f"{where} the two networks give every one the same class: there is nothing to choose between them."
    surplus, bounds = accuracies.only_b - accuracies.only_a, (accuracies.difference.low, accuracies.difference.high)
    low, high = (_whole((bound or 0) * accuracies.num_images) for bound in bounds)
    more = f"{where} network B is right on {abs(surplus):,} {'more' if surplus > 0 else 'fewer'}"
    if surplus == 0:
        found = f"{where} both networks are right equally often (95 %: {_signed(low)} to {_signed(high)})."
    elif accuracies.is_significant:
        ends = (low, high) if surplus > 0 else (-high, -low)
        found = f"{more} (95 %: {' to '.join(f'{end:,}'.replace('-', '−') for end in ends)})."
    else:
        found = (
            f"{more} (95 %: {_signed(low)} to {_signed(high)}), which chance alone explains: "
            "they do not tell the two networks apart."
        )
    if is_same_but_for_seed:
        return f"{found} The two differ in nothing but the seed."
    return f"{found} Whether the change caused it, one training per side cannot tell: run more seeds."


def of_seeds(change: Change, is_same_but_for_seed: bool) -> str:
    """Say what the trainings of two groups tell of what differs between the groups."""
    num_a, num_b = len(change.a.values), len(change.b.values)
    difference, points = change.difference, 100 * change.difference.value
    if min(num_a, num_b) < MIN_SEEDS:
        trainings = "1 training" if num_a == 1 else f"{num_a} trainings"
        return (
            f"Nothing can be told: {trainings} against {num_b} are too few, at least {MIN_SEEDS} of each are needed. "
            f"Run more seeds: {RUN_SEEDS}"
        )
    seen = f"B − A is {points:+.2f} points"
    if change.detectable is None or difference.low is None or difference.high is None:
        found = "within each group all trainings have the same accuracy, so there is no chance to compare with"
        return f"Nothing can be told: {found} ({seen}).".replace("-", "−")
    low, high = 100 * difference.low, 100 * difference.high
    needed = "more than 10,000" if change.needed is None else f"{change.needed:,}"
    power = (
        f"{num_a} seeds against {num_b} find a difference of {100 * change.detectable:.2f} points in {100 * POWER:.0f} of 100 "
        f"cases; the one seen needs {needed} of each."
    )
    if not change.is_significant:
        return f"Nothing can be told: {seen} (95 %: {low:+.2f} to {high:+.2f}). {power}".replace("-", "−")
    word, ends = ("better", (low, high)) if points > 0 else ("worse", (-high, -low))
    found = f"B is {word} by {abs(points):.2f} points (95 %: {ends[0]:.2f} to {ends[1]:.2f})."
    if is_same_but_for_seed:
        found += " The groups differ in nothing but the seed, so this is one of the 5 in 100 that chance gives."
    return f"{found} {power}"


def _whole(images: float) -> float:
    """Round to whole images; what would be 0 keeps its first digit, because an interval either holds 0 or does not."""
    return round(images) or float(f"{images:.1g}")


def _signed(images: float) -> str:
    return f"{images:+,}".replace("-", "−") if images else "0"
