"""What a run says of a result, and how its content identifies it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from samebits.paths import METRICS, MODEL_ENVIRONMENT, PIPELINE
from samebits.repository.digests import md5_of
from samebits.repository.dvc_lock import Output
from samebits.repository.git import Origin

# The artifact that lists every output with its hash, for `samebits verify --run`.
OUTPUTS = "outputs.json"
# Tags: by which a run is found, and what the page shows as its description.
CONTENT, TRAINING, NOTE = "samebits.content", "samebits.training", "mlflow.note.content"


@dataclass(frozen=True)
class RunContent:
    """What a run says of a result. While the network is being trained, checkpoint_md5 and all after it are empty."""

    origin: Origin
    parameters: Mapping[str, Any]
    data_md5: str
    environment: Mapping[str, Any]
    training: str = ""  # key of the training, by which an interrupted run is continued
    checkpoint_md5: str = ""
    history: Sequence[Mapping[str, Any]] = ()  # rows: `step` and numbers
    metrics: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    outputs: Sequence[Output] = ()

    @property
    def tags(self) -> dict[str, str]:
        """The tags that do not depend on what came out."""
        commit, is_dirty = self.origin.commit or "", self.origin.is_dirty
        tags = {
            "samebits.data_md5": self.data_md5,
            "samebits.parameters_md5": _parameters_md5(self.parameters),
            TRAINING: self.training,
            "samebits.experiments": self.origin.experiment or "",
            "samebits.commit": commit,
            "samebits.commits": f"{commit}-dirty" if commit and is_dirty else commit,  # as `git describe --dirty` says
            "samebits.dirty": ("true" if is_dirty else "false") if commit or is_dirty else "",
            "mlflow.source.name": PIPELINE,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": commit,
        }
        return {key: value for key, value in tags.items() if value}

    @property
    def files(self) -> dict[str, bytes]:
        """The artifacts that do not depend on what came out, by name."""
        environment = (json.dumps(self.environment, indent=2) + "\n").encode() if self.environment else b""
        files = {Path(MODEL_ENVIRONMENT).name: environment, "diff.patch": self.origin.patch}
        return self.origin.files | {name: content for name, content in files.items() if content}

    @property
    def result_tags(self) -> dict[str, str]:
        """The tags that a run gets when its result is complete, and by which it is found from then on."""
        content = content_md5(self.parameters, self.data_md5, self.checkpoint_md5)
        return {"samebits.checkpoint_md5": self.checkpoint_md5, CONTENT: content}

    @property
    def result_files(self) -> dict[str, bytes]:
        """The artifacts that show what came out, by name."""
        listed = [asdict(output) for output in sorted(self.outputs, key=lambda output: output.path)]
        outputs = {OUTPUTS: (json.dumps(listed, indent=2) + "\n").encode()} if listed else {}
        # Git holds these only after a commit.
        metrics = {Path(METRICS).name: (json.dumps(self.metrics, indent=2) + "\n").encode()} if self.metrics else {}
        return {**self.pictures, **outputs, **metrics}

    def note(self, run_id: str) -> dict[str, str]:
        """Return the tag that is the run's description, in Markdown: what came out, and how to get it again."""
        names = ("accuracy", "accuracy_low", "accuracy_high")
        if not self.metrics.keys() >= set(names):
            return {}
        accuracy, low, high = (f"{100 * self.metrics[name]:.2f}" for name in names)
        data, recipe, seed = (self.parameters.get(key) for key in ("data", "recipe", "seed"))
        lines = [
            f"**{recipe}** on {(data or {}).get('source')}, seed {seed}: "
            f"accuracy **{accuracy} %** (95 %: {low} to {high})",
            f"Run it again and compare every output: `samebits verify --run {run_id}`",
        ]
        if (commit := self.origin.commit) and not self.origin.is_dirty:
            lines.append(f"Continue from it: `git checkout {commit[:12]} && dvc repro`")
        if "confusion_matrix.png" in self.pictures:  # the address of an artifact, from MLflow's page
            lines.append(f"![Confusion matrix](get-artifact?path=confusion_matrix.png&run_uuid={run_id})")
        return {NOTE: "\n\n".join(lines)}


def content_md5(parameters: Mapping[str, Any], data_md5: str, checkpoint_md5: str) -> str:
    """Return the MD5 that identifies a result: its run is found by it."""
    return md5_of(f"{data_md5} {checkpoint_md5} {_parameters_md5(parameters)}".encode())


def _parameters_md5(parameters: Mapping[str, Any]) -> str:
    return md5_of(json.dumps(parameters, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
