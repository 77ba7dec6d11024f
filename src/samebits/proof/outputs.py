"""Which outputs of a repetition are the recorded ones, and which of the others count."""

import enum
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from samebits.proof import machine
from samebits.reporting import terminal
from samebits.repository.dvc_lock import Output
from samebits.results import Result


class Verdict(enum.StrEnum):
    """How an output stands to the recorded one."""

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
    """An output with its recorded hash and the one that the repetition got; empty where there is none."""

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
    """Compare what the repetition in `folder` has made with the record, stage by stage in the order in which they ran.

    Stages of the record that dvc.yaml lacks, and so nothing can make again, come last. `edited` are the files that git holds otherwise than the record.
    """
    recorded = {(output.stage, output.path): output.md5 for output in result.record.outputs}
    got = {(output.stage, output.path): output.md5 for output in made}
    rows = []
    for stage in dict.fromkeys(output.stage for output in made):
        for key in sorted(key for key in {*recorded, *got} if key[0] == stage):
            hashes = recorded.get(key, ""), got.get(key, "")
            rows.append(Row(*key, *hashes, _verdict(result, key[1], *hashes, folder, key[1] in edited)))
    stages = result.yaml("dvc.yaml").get("stages") or {}
    return rows + [
        Row(output.stage, output.path, output.md5, "", Verdict.NO_STAGE)
        for output in result.record.outputs
        if output.stage.partition("@")[0] not in stages  # what follows an @ is an item of foreach or matrix
    ]


def _verdict(result: Result, path: str, recorded: str, got: str, folder: Path, is_edited: bool) -> Verdict:
    if not recorded or not got:
        return Verdict.NOT_MADE if recorded else Verdict.NOT_RECORDED
    if is_edited:
        return Verdict.EDITED
    if recorded == got:
        return Verdict.IDENTICAL
    if Path(path).name == machine.ENVIRONMENT:
        here = machine.parse((folder / path).read_bytes()) or {}
        known = machine.recorded(result, path, here)
        if known is None:
            return Verdict.UNKNOWN_MACHINE
        return Verdict.OTHER_MACHINE if terminal.differences(known, here) else Verdict.DIFFERENT
    if Path(path).suffix != ".png":
        return Verdict.DIFFERENT
    picture = result.read(path)
    if picture is None:
        return Verdict.PIXELS_UNKNOWN
    return Verdict.SAME_PIXELS if _pixels(picture) == _pixels((folder / path).read_bytes()) else Verdict.DIFFERENT


def _pixels(picture: bytes) -> tuple[tuple[int, int], bytes]:
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        return image.size, image.convert("RGBA").tobytes()
