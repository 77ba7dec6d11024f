"""A complete result, and how it becomes a run: the same whether it is logged live or afterwards."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samebits.repository import dvc_lock
from samebits.repository.digests import file_md5
from samebits.repository.dvc_lock import Output
from samebits.stage.inputs import Origin
from samebits.tracking import runs
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
    history: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    outputs: Sequence[Output] = ()

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


def record(
    store: Store, content: RunContent, origin: Origin, opened: runs.Opened | None = None, *, is_live: bool = True
) -> str:
    """Write a result to its run; without one to the `opened` run of its training, or to a new one.

    Of a result that was not just made (`is_live` false), only what the run lacks is written. Returns "new", "completed" or
    "there".
    """
    with store.lock:
        description = runs.describe(origin, content.parameters, content.data_md5, content.environment)
        run = _merged(store, content)
        if run:
            run_id = run.info.run_id
            runs.add_origin(store, run, description)
            if opened and opened.run_id != run_id:
                store.client.set_terminated(opened.run_id, "FINISHED")
                store.client.delete_run(opened.run_id)
        else:
            opened = opened or runs.Opened(runs.create_run(store, description))
            run_id = opened.run_id
            runs.log_rows(store, opened, ((_now(), row) for row in content.history))
        known = run.data.metrics if run else {}
        metrics = [
            each
            for each in runs.metrics_of(content.metrics, step=0, timestamp=_now())
            if (known.get(each.key) != each.value if is_live else each.key not in known)
        ]
        there = {file.path for file in store.client.list_artifacts(run_id)} if run and not is_live else set()
        files = {name: data for name, data in content.files.items() if name not in there}
        runs.log(store, run_id, metrics=metrics, tags={} if run or is_live else _AFTERWARDS)
        runs.log_files(store, run_id, files)
        if run:
            return "completed" if metrics or files else "there"
        runs.complete_run(store, run_id, content.tags)
        if not is_live:
            runs.forget_process(store, run_id)
        return "new"


def outputs_of_workspace(workspace: Path) -> list[Output]:
    """Return the outputs of all stages as they are now. DVC has recorded those of the stages before the one that runs."""
    try:
        stages = dvc_lock.mapping((workspace / "dvc.yaml").read_bytes(), "dvc.yaml").get("stages") or {}
    except FileNotFoundError:
        return []
    running, path = os.environ.get("DVC_STAGE"), workspace / "dvc.lock"
    recorded = dvc_lock.read(path.read_bytes(), "dvc.lock").outputs if running and path.is_file() else []
    outputs = [output for output in recorded if output.stage in stages and output.stage != running]
    known = {output.stage for output in outputs}
    for stage, definition in stages.items():
        for name in sorted(dvc_lock.paths(definition, "outs", "metrics", "plots") if stage not in known else ()):
            path = workspace / name
            if path.is_file():
                outputs.append(Output(stage, name, file_md5(path), path.stat().st_size))
    return outputs


def _merged(store: Store, content: RunContent) -> "Run | None":
    """Find the run of a result. Others of it, which another machine wrote in the same moment, are deleted."""
    found = runs.find_runs(store, content.tags["samebits.content"])
    first = found[0] if found else None
    for twin in found[1:]:
        assert first is not None
        runs.add_origin(store, first, runs.Description("", {}, twin.data.tags, {}))
        store.client.delete_run(twin.info.run_id)
        first = store.client.get_run(first.info.run_id)
    return first


def _now() -> int:
    return int(time.time() * 1000)
