"""The kind of machine that a result was made on."""

import json
from typing import Any

from samebits.results import Result

# Files of this name describe it.
ENVIRONMENT = "environment.json"
# The one that git holds: at hand in every clone.
_COMMITTED = f"metrics/{ENVIRONMENT}"


def recorded(result: Result, path: str, here: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the file `path` of `result` says, or git's copy of it; None if neither can be had as it was recorded.

    `here` is what the same file says of this machine.
    """
    values = parse(result.read(path))
    if values is None and (values := parse(result.read(_COMMITTED))):
        values |= {"num_threads": here.get("num_threads")}  # those of another stage
    return values


def parse(content: bytes | None) -> dict[str, Any] | None:
    """Parse a JSON object; None if it is none."""
    try:
        values = json.loads(content or b"")
    except ValueError:
        return None
    return values if isinstance(values, dict) else None
