"""The conclusion of a comparison, in sentences. Two networks say nothing of their recipes: one training each is too few."""

from typing import NamedTuple

from samebits.comparison.paired import Accuracies
from samebits.comparison.seeds import MIN_SEEDS, POWER, Change


class Quantity(NamedTuple):
    """How the differences of a number are told: times `factor`, with `digits` decimals and `unit`."""

    name: str
    factor: float
    digits: int
    unit: str
    is_lower_better: bool = False

    def tell(self, difference: float, sign: str = "") -> str:
        """Return a difference without its unit; `sign` is that of Python's format."""
        return f"{self.factor * difference:{sign}.{self.digits}f}"


ACCURACY = Quantity("accuracy", 100, 2, " points")


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


def of_seeds(
    change: Change, is_same_but_for_seed: bool, a: str = "A", b: str = "B", quantity: Quantity = ACCURACY
) -> str:
    """Say what the trainings of two groups, called `a` and `b`, tell of what differs between the groups."""
    num_a, num_b = len(change.a.values), len(change.b.values)
    difference, tell, unit = change.difference, quantity.tell, quantity.unit
    if min(num_a, num_b) < MIN_SEEDS:
        trainings = "1 training" if num_a == 1 else f"{num_a} trainings"
        return (
            f"Nothing can be told: {trainings} against {num_b} are too few, at least {MIN_SEEDS} of each are needed. "
            "Run more seeds: dvc exp run --queue -S 'seed=range(0,5)'"
        )
    seen = f"{b} − {a} is {tell(difference.value, '+')}{unit}"
    if change.detectable is None or difference.low is None or difference.high is None:
        found = f"within each group all trainings have the same {quantity.name}, so there is no chance to compare with"
        return f"Nothing can be told: {found} ({seen}).".replace("-", "−")
    needed = "more than 10,000" if change.needed is None else f"{change.needed:,}"
    power = (
        f"{num_a} seeds against {num_b} find a difference of {tell(change.detectable)}{unit} in {100 * POWER:.0f} of 100 "
        f"cases; the one seen needs {needed} of each."
    )
    if not change.is_significant:
        bounds = f"95 %: {tell(difference.low, '+')} to {tell(difference.high, '+')}"
        return f"Nothing can be told: {seen} ({bounds}). {power}".replace("-", "−")
    word = "better" if (difference.value > 0) != quantity.is_lower_better else "worse"
    ends = (difference.low, difference.high) if difference.value > 0 else (-difference.high, -difference.low)
    size = f"{tell(abs(difference.value))}{unit}"
    found = f"{b[0].upper()}{b[1:]} is {word} by {size} (95 %: {tell(ends[0])} to {tell(ends[1])})."
    if is_same_but_for_seed:
        found += " The groups differ in nothing but the seed, so this is one of the 5 in 100 that chance gives."
    return f"{found} {power}"


def _whole(images: float) -> float:
    """Round to whole images; what would be 0 keeps its first digit, because an interval either holds 0 or does not."""
    return round(images) or float(f"{images:.1g}")


def _signed(images: float) -> str:
    return f"{images:+,}".replace("-", "−") if images else "0"
