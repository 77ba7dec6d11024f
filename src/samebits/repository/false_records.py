"""Whether DVC's record of a stage says what the stage's outputs say of themselves: a false record is found without training.

A checkpoint holds its recipe, seed, parameters and the MD5 of its data, dataset.json what its tensors are.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from samebits.errors import UserError
from samebits.repository import dvc_lock
from samebits.repository.cache import Cache
from samebits.repository.dvc_lock import Record, Stage, flatten

_CHECKPOINT = "data/model/checkpoint.safetensors"
_DATA = "data/prepared/dataset.json"
# What makes a false dvc.lock true.
RUN_AGAIN = "run `dvc repro --force --single-item train`, then `dvc repro`, and commit dvc.lock"
_MAX_HEADER_BYTES = 10_000_000


def contradictions(record: Record, read: Callable[[str], bytes | None]) -> list[str]:
    """Return what a record says otherwise than its outputs, which `read` returns by path; None says nothing."""
    described = {_CHECKPOINT: _of_checkpoint, _DATA: _of_data}
    return [
        line
        for stage in record.stages.values()
        for output in stage.outputs
        if output.path in described and (content := read(output.path)) is not None
        for line in described[output.path](stage, content)
    ]


def in_run_cache(cache: Cache) -> Iterator[tuple[Path, list[str]]]:
    """Yield the false records of DVC's run cache, and what is false. A damaged one restores nothing, so it is passed over."""
    for path in cache.records():
        try:
            record = dvc_lock.read(path.read_bytes(), path.name)
        except (UserError, OSError):
            continue
        hashes = record.hashes
        if false := contradictions(record, lambda path, hashes=hashes: cache.read(hashes[path])):  # type: ignore[misc]
            yield path, false


def require_true(root: Path, cache: Cache) -> None:
    """Raise UserError if dvc.lock of the workspace or a record of the run cache is false, as far as the cache can tell."""
    path = root / "dvc.lock"
    record = dvc_lock.read(path.read_bytes() if path.is_file() else b"", "dvc.lock")
    if false := contradictions(record, lambda path: cache.read(record.hashes[path])):
        raise UserError(f"dvc.lock is false ({', '.join(false)}): {RUN_AGAIN}")
    for path, false in in_run_cache(cache):
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        raise UserError(f"{shown} is false ({', '.join(false)}): `samebits check --repair` removes it")


def _of_checkpoint(stage: Stage, content: bytes) -> Iterator[str]:
    try:
        size = min(int.from_bytes(content[:8], "little"), _MAX_HEADER_BYTES)
        meaning = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["samebits"])
        own = _flat(meaning["recipe"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return  # of no version that we know
    prefix = f"recipes.{stage.params.get('recipe')}."
    said = {key.removeprefix(prefix): value for key, value in _flat(stage.params).items()}
    for key in own:
        # A parameter that only one side has is of another version of the code.
        if key in said and said[key] != own[key]:
            yield f"{key} {said[key]}, its checkpoint says {own[key]}"
    if (data_md5 := meaning.get("data_md5")) and stage.dependencies.get(_DATA, data_md5) != data_md5:
        yield f"{_DATA} {stage.dependencies[_DATA][:7]}, its checkpoint says {data_md5[:7]}"


def _of_data(stage: Stage, content: bytes) -> Iterator[str]:
    try:
        data = json.loads(content)
        source, counts, normalization = data["source"], data["num_images"], data["normalization"]
    except (ValueError, LookupError, TypeError):
        return
    said = _flat(stage.params)
    own = {"data.source": source}
    if source != "folder":
        own["data.num_validation"] = counts["validation"]
    if source == "shapes":
        own["data.shapes.num_train"] = counts["train"] + counts["validation"]
        own["data.shapes.num_test"] = counts["test"]
    fixed = {(0.5, 0.5): "half", (0.0, 1.0): "none"}
    moments = {*zip(normalization["mean"], normalization["std"], strict=True)}
    own["data.normalization"] = fixed.get(next(iter(moments)), "per_channel") if len(moments) == 1 else "per_channel"
    yield from (f"{key} {said[key]}, its data says {own[key]}" for key in own if key in said and said[key] != own[key])


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(values).items() if value is not None}
