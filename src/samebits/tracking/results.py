"""A complete result, and how it becomes a run: the same whether it is logged live or afterwards."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samebits.repository import lock
from samebits.repository.digests import file_md5
from samebits.repository.lock import Output
from samebits.tracking import runs
from samebits.tracking.runs import Origin
from samebits.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

# The artifact that says of every output what came out, for whoever wants to prove the run.
OUTPUTS = "outputs.json"
# Runs that nobody was there to log have no timings and no host, and say so.
_AFTERWARDS = {"samebits.recorded": "afterwards"}


@dataclass(frozen=True)
class RunContent:
    """What a run says of a result, apart from where it comes from."""

    parameters: Mapping[str, Any]
    data_md5: str
    checkpoint_md5: str
    environment: Mapping[str, Any]
    metrics: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    pictures: Mapping[str, bytes]
    outputs: Sequence[Output]

    @property
    def tags(self) -> dict[str, str]:
        """The tags by which it is found."""
        return runs.result_tags(self.parameters, self.data_md5, self.checkpoint_md5)

    @property
    def files(self) -> dict[str, bytes]:
        """The artifacts."""
        listed = [asdict(output) for output in sorted(self.outputs, key=lambda output: output.path)]
        return (
            {**self.pictures, OUTPUTS: (json.dumps(listed, indent=2) + "\n").encode()}
            if listed
            else dict(self.pictures)
        )


def write(store: Store, result: RunContent, origin: Origin) -> None:
    """Write a result that was just evaluated to its run; create that where there is none."""
    with store.lock:
        run = _merged(store, result)
        if not run:
            run_id = _create(store, result, origin, {})
        else:
            run_id = run.info.run_id
            runs.add_origin(store, run, _describe(result, origin))
        known = run.data.metrics if run else {}
        measured = runs.metrics_of(result.metrics, step=0, timestamp=_now())
        runs.log(store, run_id, metrics=[each for each in measured if known.get(each.key) != each.value])
        runs.log_files(store, run_id, result.files)
        if not run:
            runs.complete_run(store, run_id, result.tags)


def fill_in(store: Store, result: RunContent, origin: Origin) -> str:
    """Write what the store lacks of a result, and change nothing that it has; "new", "completed" or "there"."""
    with store.lock:
        run = _merged(store, result)
        if not run:
            run_id = _create(store, result, origin, _AFTERWARDS)
            runs.log(store, run_id, metrics=runs.metrics_of(result.metrics, step=0, timestamp=_now()))
            runs.log_files(store, run_id, result.files)
            runs.complete_run(store, run_id, result.tags)
            runs.forget_process(store, run_id)
            return "new"
        run_id = run.info.run_id
        runs.add_origin(store, run, _describe(result, origin))
        measured = runs.metrics_of(result.metrics, step=0, timestamp=_now())
        metrics = [each for each in measured if each.key not in run.data.metrics]
        there = {file.path for file in store.client.list_artifacts(run_id)}
        files = {name: content for name, content in result.files.items() if name not in there}
        runs.log(store, run_id, metrics=metrics)
        runs.log_files(store, run_id, files)
        return "completed" if metrics or files else "there"


def outputs_of_workspace(workspace: Path) -> list[Output]:
    """Give the outputs of all stages as they are now. DVC has recorded those of the stages before the one that runs."""
    try:
        stages = lock.mapping((workspace / "dvc.yaml").read_bytes(), "dvc.yaml").get("stages") or {}
    except FileNotFoundError:
        return []
    running, path = os.environ.get("DVC_STAGE"), workspace / "dvc.lock"
    recorded = lock.read(path.read_bytes(), "dvc.lock").outputs if running and path.is_file() else []
    outputs = [output for output in recorded if output.stage in stages and output.stage != running]
    known = {output.stage for output in outputs}
    for stage, definition in stages.items():
        entries = [entry for kind in ("outs", "metrics", "plots") for entry in definition.get(kind, [])]
        paths = [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
        for path in (workspace / path for path in paths if stage not in known):
            if path.is_file():
                name = path.relative_to(workspace).as_posix()
                outputs.append(Output(stage, name, file_md5(path), path.stat().st_size))
    return outputs


def _merged(store: Store, result: RunContent) -> "Run | None":
    """Find the run of a result. Others of it, which another machine wrote in the same moment, are deleted."""
    content = result.tags["samebits.content"]
    found = runs.find_runs(store, content)
    first = found[0] if found else None
    for twin in found[1:]:
        assert first is not None
        runs.add_origin(store, first, runs.Description("", {}, twin.data.tags, {}))
        store.client.delete_run(twin.info.run_id)
        first = store.client.get_run(first.info.run_id)
    return first


def _create(store: Store, result: RunContent, origin: Origin, tags: Mapping[str, str]) -> str:
    description = _describe(result, origin)
    run_id = runs.create_run(store, description)
    runs.log(store, run_id, tags=tags)
    runs.log_rows(store, run_id, ((_now(), row) for row in result.history), set())
    return run_id


def _describe(result: RunContent, origin: Origin) -> runs.Description:
    return runs.describe(origin, result.parameters, result.data_md5, result.environment)


def _now() -> int:
    return int(time.time() * 1000)
