"""False records: DVC's record of a stage contradicts what the stage's outputs, checkpoint and dataset.json, say themselves."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from samebits.errors import UserError
from samebits.paths import CHECKPOINT, DATASET, LOCK
from samebits.repository import dvc_lock
from samebits.repository.cache import Cache
from samebits.repository.dvc_lock import Record, Stage, flat

RUN_AGAIN = f"run `dvc repro --force --single-item train`, then `dvc repro`, and commit {LOCK}"


def contradictions(record: Record, read: Callable[[str], bytes | None]) -> list[str]:
    """Return the contradictions between a record and its outputs, which `read` returns by path; None if not available."""
    described = {CHECKPOINT: _of_checkpoint, DATASET: _of_data}
    return [
        line
        for stage in record.stages.values()
        for output in stage.outputs
        if output.path in described and (content := read(output.path)) is not None
        for line in described[output.path](stage, content)
    ]


def in_cache(record: Record, cache: Cache) -> list[str]:
    """Return the contradictions between a record and those of its outputs that are in the cache."""
    hashes = record.hashes
    return contradictions(record, lambda path: cache.read(hashes[path]))


def in_run_cache(cache: Cache) -> Iterator[tuple[Path, list[str]]]:
    """Yield the false records of the run cache, and what is false. A damaged one restores nothing: it is skipped."""
    for path in cache.records():
        try:
            record = dvc_lock.read(path.read_bytes(), path.name)
        except (UserError, OSError):
            continue
        if false := in_cache(record, cache):
            yield path, false


def require_true(root: Path, cache: Cache) -> None:
    """Raise UserError if dvc.lock of the workspace or a record of the run cache is false, as far as the cache can tell."""
    if false := in_cache(dvc_lock.of_workspace(root), cache):
        raise UserError(f"{LOCK} is false ({', '.join(false)}): {RUN_AGAIN}")
    for path, false in in_run_cache(cache):
        shown = str(path).removeprefix(f"{root}/")
        raise UserError(f"{shown} is false ({', '.join(false)}): `samebits check --repair` removes it")


def _of_checkpoint(stage: Stage, content: bytes) -> Iterator[str]:
    try:
        size = int.from_bytes(content[:8], "little")
        meaning = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["samebits"])
        own = flat(meaning["recipe"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return  # written by an unknown version
    prefix = f"recipes.{stage.params.get('recipe')}."
    recorded = {key.removeprefix(prefix): value for key, value in flat(stage.params).items()}
    yield from _differences(recorded, own, "checkpoint")
    if (data_md5 := meaning.get("data_md5")) and stage.dependencies.get(DATASET, data_md5) != data_md5:
        yield f"{DATASET} {stage.dependencies[DATASET][:7]}, its checkpoint says {data_md5[:7]}"


def _of_data(stage: Stage, content: bytes) -> Iterator[str]:
    try:
        data = json.loads(content)
        source, counts, normalization = data["source"], data["num_images"], data["normalization"]
    except (ValueError, LookupError, TypeError):
        return
    own = {"data.source": source}
    if source in ("cifar10", "shapes"):  # others may bring validation images of their own
        own["data.num_validation"] = counts["validation"]
    if source == "shapes":
        own["data.shapes.num_train"] = counts["train"] + counts["validation"]
        own["data.shapes.num_test"] = counts["test"]
    moments = {*zip(normalization["mean"], normalization["std"], strict=True)}
    fixed: dict[Any, str] = {((0.5, 0.5),): "half", ((0.0, 1.0),): "none"}
    own["data.normalization"] = fixed.get(tuple(moments), "per_channel")
    yield from _differences(flat(stage.params), own, "data")


def _differences(recorded: Mapping[str, Any], own: Mapping[str, Any], what: str) -> Iterator[str]:
    """Compare what both have: a parameter of one side alone is of another version of the code."""
    for key in own:
        if key in recorded and recorded[key] != own[key]:
            yield f"{key} {recorded[key]}, its {what} says {own[key]}"
