"""A result as text for the terminal."""

from collections.abc import Mapping
from typing import Any

from samebits.repository.dvc_lock import flatten


def accuracy_table(metrics: Mapping[str, Any]) -> str:
    """Return accuracy with its 95 % interval, and accuracy by class as bars, from the metrics that evaluate wrote."""
    low, high = (100 * metrics[f"accuracy_{end}"] for end in ("low", "high"))
    lines = [f"accuracy {100 * metrics['accuracy']:.2f} %  (95 %: {low:.2f} to {high:.2f})"]
    width = max(len(name) for name in metrics["per_class"])
    for name, measured in metrics["per_class"].items():
        share = measured["accuracy"]
        lines.append(f"  {name:{width}}  {100 * share:6.2f} %  {'█' * round(40 * share)}")
    return "\n".join(lines)


def differences(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Name what differs between two environments, as `key recorded → here`."""
    before, after = flatten(recorded), flatten(here)
    lines = []
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if isinstance(old, list) and isinstance(new, list):
            signs = [f"-{name}" for name in old if name not in new] + [f"+{name}" for name in new if name not in old]
            lines += [f"{key} {' '.join(signs)}"] if signs else []
        elif old != new:
            lines.append(f"{key} {old} → {new}")
    return lines
