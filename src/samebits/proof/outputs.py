"""Which outputs of a repetition are the recorded ones, and which of the others count."""

import enum
import io
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samebits.paths import ENVIRONMENT, PIPELINE
from samebits.reporting import terminal
from samebits.repository.dvc_lock import Output
from samebits.results import Result


class Verdict(enum.StrEnum):
    """How an output compares with the recorded one."""

    IDENTICAL = "identical"
    SAME_PIXELS = "same pixels, does not count"
    OTHER_MACHINE = "other machine, does not count"
    UNKNOWN_MACHINE = "machine unknown, does not count"
    DIFFERENT = "different"
    PIXELS_UNKNOWN = "different, pixels unknown"
    EDITED = "edited after it was recorded"
    NOT_RECORDED = "not recorded"
    NOT_MADE = "not made"
    NO_STAGE = "dvc.yaml has no such stage"


_HARMLESS = {Verdict.IDENTICAL, Verdict.SAME_PIXELS, Verdict.OTHER_MACHINE, Verdict.UNKNOWN_MACHINE}


@dataclass(frozen=True)
class Row:
    """An output with its recorded MD5 and the one of the repetition; "" if there is none."""

    stage: str
    path: str
    recorded: str
    got: str
    verdict: Verdict

    @property
    def counts(self) -> bool:
        """Whether it makes the revision a different one."""
        return self.verdict not in _HARMLESS


def compare(result: Result, made: list[Output], folder: Path, edited: Collection[str]) -> list[Row]:
    """Compare what the repetition in `folder` made with the record, stage by stage in the order in which they ran.

    Recorded stages that dvc.yaml lacks come last: nothing can make them again. `edited` are the files that git holds in
    another version than the record.
    """
    recorded = {(output.stage, output.path): output.md5 for output in result.record.outputs}
    got = {(output.stage, output.path): output.md5 for output in made}
    rows = []
    for stage in dict.fromkeys(output.stage for output in made):
        for key in sorted(key for key in {*recorded, *got} if key[0] == stage):
            hashes = recorded.get(key, ""), got.get(key, "")
            rows.append(Row(*key, *hashes, _verdict(result, key[1], *hashes, folder, key[1] in edited)))
    stages = result.yaml(PIPELINE).get("stages") or {}
    return rows + [
        Row(output.stage, output.path, output.md5, "", Verdict.NO_STAGE)
        for output in result.record.outputs
        if output.stage.partition("@")[0] not in stages  # the rest names an item of foreach or matrix
    ]


def is_machine(path: str) -> bool:
    """Return whether an output describes the kind of machine that the result was made on."""
    return Path(path).name == Path(ENVIRONMENT).name


def recorded_machine(result: Result, path: str, here: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the recorded `path` says, or git's copy of it; None if neither is there. `here` is this machine."""
    values = parse_object(result.read(path))
    if values is None and (values := parse_object(result.read(ENVIRONMENT))):  # in git, so every clone has it
        values |= {"num_threads": here.get("num_threads")}  # it has those of another stage
    return values


def parse_object(content: bytes | None) -> dict[str, Any] | None:
    """Parse a JSON object; None if it is none."""
    try:
        values = json.loads(content or b"")
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _verdict(result: Result, path: str, recorded: str, got: str, folder: Path, is_edited: bool) -> Verdict:
    if not recorded or not got:
        return Verdict.NOT_MADE if recorded else Verdict.NOT_RECORDED
    if is_edited:
        return Verdict.EDITED
    if recorded == got:
        return Verdict.IDENTICAL
    if is_machine(path):
        here = parse_object((folder / path).read_bytes()) or {}
        known = recorded_machine(result, path, here)
        if known is None:
            return Verdict.UNKNOWN_MACHINE
        return Verdict.OTHER_MACHINE if terminal.differences(known, here) else Verdict.DIFFERENT
    if Path(path).suffix != ".png":
        return Verdict.DIFFERENT
    if (picture := result.read(path)) is None:
        return Verdict.PIXELS_UNKNOWN
    return Verdict.SAME_PIXELS if _pixels(picture) == _pixels((folder / path).read_bytes()) else Verdict.DIFFERENT


def _pixels(picture: bytes) -> tuple[tuple[int, int], bytes]:
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        return image.size, image.convert("RGBA").tobytes()
