"""A run of a result: what it says, how it is found by content, how two runs of one result become one."""

import json
import math
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samebits.processes import is_alive
from samebits.repository.digests import md5_of
from samebits.repository.dvc_lock import flatten
from samebits.stage.inputs import Origin
from samebits.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

# MLflow's limits.
_MAX_KEY, _MAX_PARAM, _MAX_TAG = 250, 6000, 8000
_MAX_METRICS_PER_CALL, _MAX_PARAMS_PER_CALL = 1000, 100
_TRAINING = "samebits.training"


@dataclass(frozen=True)
class Description:
    """What a run says before anything is trained."""

    name: str
    params: dict[str, str]
    tags: dict[str, str]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Opened:
    """A RUNNING run, and what it holds already as pairs of metric and step."""

    run_id: str
    logged: set[tuple[str, int]] = field(default_factory=set)


def content_md5(parameters: Mapping[str, Any], data_md5: str, checkpoint_md5: str) -> str:
    """The one value by which a result's run is found."""
    return md5_of(f"{data_md5} {checkpoint_md5} {parameters_md5(parameters)}".encode())


def parameters_md5(parameters: Mapping[str, Any]) -> str:
    """The md5 of the parameters as canonical JSON."""
    return md5_of(json.dumps(parameters, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def result_tags(parameters: Mapping[str, Any], data_md5: str, checkpoint_md5: str) -> dict[str, str]:
    """The tags that a run gets when its result is complete, and by which it is found from then on."""
    content = content_md5(parameters, data_md5, checkpoint_md5)
    return {"samebits.checkpoint_md5": checkpoint_md5, "samebits.content": content}


def describe(
    origin: Origin, parameters: Mapping[str, Any], data_md5: str, environment: Mapping[str, Any], training: str = ""
) -> Description:
    """Say what a new run of that origin says about it; `training` is the key by which an interrupted one is found again."""
    tags = {"samebits.data_md5": data_md5, "samebits.parameters_md5": parameters_md5(parameters)}
    if training:
        tags[_TRAINING] = training
    if origin.experiment:
        tags["samebits.experiments"] = origin.experiment
    if origin.commit:
        tags |= {
            "samebits.commit": origin.commit,
            # As `git describe --dirty` says it: the commit alone would not give this result.
            "samebits.commits": f"{origin.commit}-dirty" if origin.is_dirty else origin.commit,
            "samebits.dirty": "true" if origin.is_dirty else "false",
        }
    elif origin.is_dirty:
        tags["samebits.dirty"] = "true"
    tags |= {f"samebits.environment.{key}": _text(value) for key, value in flatten(environment).items()}
    name = origin.experiment or f"{parameters.get('recipe')}-seed{parameters.get('seed')}"
    params = {key: _text(value) for key, value in flatten(parameters).items()}
    patch = {"diff.patch": origin.patch} if origin.patch else {}
    return Description(name, params, tags, origin.files | patch)


def create_run(store: Store, description: Description, process: Mapping[str, str] | None = None) -> str:
    """Create a RUNNING run of a process, by default of this one; its id."""
    run = store.client.create_run(store.experiment_id, run_name=description.name, tags=dict(process or process_tags()))
    run_id: str = run.info.run_id
    log(store, run_id, params=description.params, tags=description.tags)
    log_files(store, run_id, description.files)
    return run_id


def open_training(store: Store, description: Description, process: Mapping[str, str]) -> Opened:
    """Go on with the run of this training that was interrupted on this host, or create one."""
    key = description.tags[_TRAINING]
    with store.lock:
        for run in _search(store, f"tags.`{_TRAINING}` = '{key}' and tags.`samebits.host` = '{platform.node()}'"):
            if run.info.status in ("FAILED", "KILLED"):
                run_id = run.info.run_id
                log(store, run_id, tags=process)
                add_origin(store, run, description)
                store.client.update_run(run_id, status="RUNNING")
                history = (store.client.get_metric_history(run_id, key) for key in run.data.metrics)
                return Opened(run_id, {(metric.key, metric.step) for metrics in history for metric in metrics})
        return Opened(create_run(store, description, process))


def find_run(store: Store, content: str) -> "Run | None":
    """The run of the result with this `content_md5`; the oldest where there are several."""
    runs = find_runs(store, content)
    return runs[0] if runs else None


def find_runs(store: Store, content: str) -> Sequence["Run"]:
    """All runs of the result with this `content_md5`, the oldest first: several, if machines have written at once."""
    return _search(store, f"tags.`samebits.content` = '{content}'")


def get_run(store: Store, run_id: str) -> "Run | None":
    """The run with this id, unless it is not there or deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def add_origin(store: Store, run: "Run", description: Description) -> None:
    """Note on `run` that the commit and the experiment of `description` gave the same result."""
    tags = {}
    for key in ("samebits.commits", "samebits.experiments"):
        before = run.data.tags.get(key, "")
        words = list(dict.fromkeys(f"{before} {description.tags.get(key, '')}".split()))
        while len(" ".join(words)) > _MAX_TAG:
            words.pop(0)
        if " ".join(words) != before:
            tags[key] = " ".join(words)
    log(store, run.info.run_id, tags=tags)


def complete_run(store: Store, run_id: str, tags: Mapping[str, str]) -> None:
    """Return the run its `result_tags`: from now on it is found by content, and FINISHED."""
    log(store, run_id, tags=tags)
    store.client.set_terminated(run_id, "FINISHED")


def forget_process(store: Store, run_id: str) -> None:
    """Remove from a complete run which process wrote it: it did not make the result."""
    for key in process_tags():
        store.client.delete_tag(run_id, key)


def log(
    store: Store,
    run_id: str,
    *,
    metrics: Sequence["Metric"] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write to a run in as few calls as MLflow allows; values that are too long for it are cut."""
    from mlflow.entities import Param, RunTag

    all_params = [Param(_key(key), value[:_MAX_PARAM]) for key, value in (params or {}).items()]
    all_tags = [RunTag(_key(key), value[:_MAX_TAG]) for key, value in (tags or {}).items()]
    for some in _batches(metrics, _MAX_METRICS_PER_CALL):
        store.client.log_batch(run_id, metrics=some)
    for some in _batches(all_params, _MAX_PARAMS_PER_CALL):
        store.client.log_batch(run_id, params=some)
    for some in _batches(all_tags, _MAX_PARAMS_PER_CALL):
        store.client.log_batch(run_id, tags=some)


def log_files(store: Store, run_id: str, files: Mapping[str, bytes]) -> None:
    """Write artifacts to a run; those that it has by these names are replaced."""
    if not files:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        store.client.log_artifacts(run_id, folder)


def log_rows(store: Store, run: Opened, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
    """Log rows of a history with their times, each number of a step once."""
    metrics = []
    for timestamp, row in rows:
        values = {key: value for key, value in row.items() if key != "step"}
        for metric in metrics_of(values, int(row["step"]), timestamp):
            if (metric.key, metric.step) not in run.logged:
                run.logged.add((metric.key, metric.step))
                metrics.append(metric)
    log(store, run.run_id, metrics=metrics)


def metrics_of(values: Mapping[str, Any], step: int, timestamp: int) -> list["Metric"]:
    """The finite numbers among (nested) `values` as metrics, named by dotted keys."""
    from mlflow.entities import Metric

    return [
        Metric(_key(key), float(value), timestamp, step)
        for key, value in flatten(values).items()
        if isinstance(value, Real) and math.isfinite(value)
    ]


def close_abandoned(store: Store) -> None:
    """Return the RUNNING runs whose process on this host is gone the status KILLED."""
    here = f"tags.`samebits.host` = '{platform.node()}'"
    for run in _search(store, f"attributes.status = 'RUNNING' and {here}"):
        tags = run.data.tags
        if not is_alive(int(tags["samebits.pid"]), float(tags["samebits.process_started"])):
            store.client.set_terminated(run.info.run_id, "KILLED")


def _search(store: Store, filter_string: str) -> Sequence["Run"]:
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    return store.client.search_runs([store.experiment_id], filter_string, order_by=order)


def process_tags() -> dict[str, str]:
    """Return the tags that say which process a run is of."""
    import psutil

    process = psutil.Process()
    return {
        "samebits.host": platform.node(),
        "samebits.pid": str(process.pid),
        "samebits.process_started": str(process.create_time()),
    }


def _key(name: str) -> str:
    """`name` in the characters that MLflow and its user interface take for a key."""
    return re.sub(r"[^\w.\- ]", "_", name)[:_MAX_KEY]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
