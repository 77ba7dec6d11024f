"""The run of a result: how it is found and written, live or later."""

import json
import math
import platform
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samebits.processes import is_alive
from samebits.repository.dvc_lock import flatten
from samebits.tracking.run_content import CONTENT, NOTE, TRAINING, RunContent
from samebits.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

_ORIGINS = ("samebits.commits", "samebits.experiments")  # tags that hold several values
_MAX_KEY, _MAX_TAG = 250, 8000  # MLflow's limits


@dataclass(frozen=True)
class OpenRun:
    """A RUNNING run and the values that it has already, as pairs of metric and step."""

    run_id: str
    logged: set[tuple[str, int]] = field(default_factory=set)


def find_run(store: Store, content: str) -> "Run | None":
    """Return the run of the result with this `content_md5`, the oldest if there are several."""
    return next(iter(_search(store, f"tags.`{CONTENT}` = '{content}'")), None)


def get_run(store: Store, run_id: str) -> "Run | None":
    """Return the run with this id; None if it does not exist or is deleted."""
    found = _search(store, f"attributes.run_id = '{run_id}'") if run_id.isalnum() else []
    return next(iter(found), None)


def open_run(store: Store, content: RunContent, process: Mapping[str, str]) -> OpenRun:
    """Return a RUNNING run for a training: the one that was interrupted on this host, or a new one."""
    with store.lock:
        here = f"tags.`{TRAINING}` = '{content.training}' and tags.`samebits.host` = '{platform.node()}'"
        for run in _search(store, here):
            if run.info.status in ("FAILED", "KILLED"):
                run_id = run.info.run_id
                _log(store, run_id, tags=process)
                _add_origin(store, run, content.tags)
                store.client.update_run(run_id, status="RUNNING")
                histories = (store.client.get_metric_history(run_id, key) for key in run.data.metrics)
                return OpenRun(run_id, {(metric.key, metric.step) for history in histories for metric in history})
        return _create_run(store, content, process)


def record(store: Store, content: RunContent, opened: OpenRun | None = None, *, is_live: bool = True) -> str:
    """Write a complete result to its run: the existing one, or else that of its training (`opened`), or a new one.

    For an older result (`is_live` is false) only what the run lacks is written. Returns "new", "completed" or "there".
    """
    with store.lock:
        run = _only_run(store, content)
        if run is None or (opened and run.info.run_id == opened.run_id):  # it was killed just before it was FINISHED
            _complete(store, content, opened or _create_run(store, content, process_tags()), is_live)
            return "new"
        _add_origin(store, run, content.tags)
        if opened:
            store.client.set_terminated(opened.run_id, "FINISHED")
            store.client.delete_run(opened.run_id)
        metrics, values = _metrics(content.metrics, 0, now()), run.data.metrics
        files, run_id = content.result_files, run.info.run_id
        if is_live:
            metrics = [metric for metric in metrics if values.get(metric.key) != metric.value]
        else:
            metrics = [metric for metric in metrics if metric.key not in values]
            there = {file.path for file in store.client.list_artifacts(run_id)}
            files = {name: file for name, file in files.items() if name not in there}
        _log(store, run_id, metrics=metrics, tags={} if NOTE in run.data.tags else content.note(run_id))
        _log_files(store, run_id, files)
        return "completed" if metrics or files else "there"


def _complete(store: Store, content: RunContent, opened: OpenRun, is_live: bool) -> None:
    log_rows(store, opened, [(now(), row) for row in content.history])
    _log(store, opened.run_id, metrics=_metrics(content.metrics, 0, now()))
    _log_files(store, opened.run_id, content.result_files)
    # A run that was written later has no timings and no host; this tag says why.
    later = {} if is_live else {"samebits.recorded": "afterwards"}
    tags = content.result_tags | content.note(opened.run_id) | later
    _log(store, opened.run_id, tags=tags)  # now it can be found
    store.client.set_terminated(opened.run_id, "FINISHED")
    # Nobody continues a complete training; and the process that writes an older result did not make it.
    for key in ([TRAINING] if content.training else []) if is_live else process_tags():
        store.client.delete_tag(opened.run_id, key)


def log_rows(store: Store, run: OpenRun, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
    """Log rows of a history with their times (milliseconds since 1970), each number of a step once."""
    metrics = [metric for timestamp, row in rows for metric in _metrics(row, int(row["step"]), timestamp)]
    named = {(metric.key, metric.step): metric for metric in metrics if metric.key != "step"}
    new = {key: metric for key, metric in named.items() if key not in run.logged}
    run.logged.update(new)
    _log(store, run.run_id, metrics=list(new.values()))


def close_abandoned(store: Store) -> None:
    """Set the status KILLED on RUNNING runs whose process on this host has exited."""
    for run in _search(store, f"attributes.status = 'RUNNING' and tags.`samebits.host` = '{platform.node()}'"):
        tags = run.data.tags
        if not is_alive(int(tags["samebits.pid"]), float(tags["samebits.process_started"])):
            store.client.set_terminated(run.info.run_id, "KILLED")


def process_tags() -> dict[str, str]:
    """Return the tags that say which process a run belongs to: this one."""
    import psutil

    process = psutil.Process()
    return {
        "samebits.host": platform.node(),
        "samebits.pid": str(process.pid),
        "samebits.process_started": str(process.create_time()),
        "mlflow.user": process.username(),
    }


def now() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)


def _create_run(store: Store, content: RunContent, process: Mapping[str, str]) -> OpenRun:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name = content.origin.experiment or f"{content.parameters.get('recipe')}-seed{content.parameters.get('seed')}"
    run_id = store.client.create_run(store.experiment_id, run_name=name, tags=dict(process)).info.run_id
    params = {key: _text(value) for key, value in flatten(content.parameters).items()}
    _log(store, run_id, params=params, tags=content.tags)
    source = content.parameters.get("data") or {}
    data = Dataset(str(source.get("source", "data")), content.data_md5, "dvc", json.dumps(source))
    store.client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    _log_files(store, run_id, content.files)
    return OpenRun(run_id)


def _only_run(store: Store, content: RunContent) -> "Run | None":
    """Find the run of a result. If several machines wrote it at once, only the oldest run is kept."""
    found = _search(store, f"tags.`{CONTENT}` = '{content.result_tags[CONTENT]}'")
    while len(found) > 1:
        twin = found.pop()
        _add_origin(store, found[0], twin.data.tags)
        store.client.delete_run(twin.info.run_id)
        found[0] = store.client.get_run(found[0].info.run_id)
    return found[0] if found else None


def _add_origin(store: Store, run: "Run", tags: Mapping[str, str]) -> None:
    """Add to `run` the commit and the experiment in `tags`, which gave the same result."""
    new = {}
    for key in _ORIGINS:
        before = run.data.tags.get(key, "")
        words = list(dict.fromkeys(f"{before} {tags.get(key, '')}".split()))
        while len(" ".join(words)) > _MAX_TAG:
            words.pop(0)
        if (after := " ".join(words)) != before:
            new[key] = after
    _log(store, run.info.run_id, tags=new)


def _search(store: Store, filter_string: str) -> "list[Run]":
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    return list(store.client.search_runs([store.experiment_id], filter_string, order_by=order))


def _log(
    store: Store,
    run_id: str,
    metrics: Sequence["Metric"] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write to a run. MLflow makes as few calls as it can, and cuts values that are too long for it."""
    from mlflow.entities import Param, RunTag

    all_params = [Param(_key(key), value) for key, value in (params or {}).items()]
    all_tags = [RunTag(key, value) for key, value in (tags or {}).items()]
    store.client.log_batch(run_id, metrics=metrics, params=all_params, tags=all_tags)


def _log_files(store: Store, run_id: str, files: Mapping[str, bytes]) -> None:
    """Write artifacts to a run, over those that have these names."""
    if not files:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        store.client.log_artifacts(run_id, folder)


def _metrics(values: Mapping[str, Any], step: int, timestamp: int) -> list["Metric"]:
    """Return the finite numbers in (nested) `values` as metrics, named by dotted keys."""
    from mlflow.entities import Metric

    return [
        Metric(_key(key), float(value), timestamp, step)
        for key, value in flatten(values).items()
        if isinstance(value, Real) and math.isfinite(value)
    ]


def _key(name: str) -> str:
    """Replace the characters that MLflow and its user interface refuse in a key."""
    return re.sub(r"[^\w.\- ]", "_", name)[:_MAX_KEY]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
