"""An evaluation's run, written by a process of its own, which imports MLflow (2 s) while the network is applied."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import samebits
from samebits.tracking.store import quiet_mlflow


class EvaluationRecord:
    """Writes an evaluation's metrics and pictures to the run of its result; creates that run where there is none.

    There is none when only the evaluation changed, when DVC restored the training from its cache, and when the database
    was lost: the new run then gets the whole history. Doing it again changes nothing. Leaving the block without `finish`
    writes nothing.
    """

    def __init__(self, *, root: Path, workspace: Path) -> None:
        self._command = [
            sys.executable,
            "-P",
            "-m",
            "samebits.tracking",
            str(root.absolute()),
            str(workspace.absolute()),
        ]
        self._message = ""

    def __enter__(self) -> Self:
        quiet_mlflow()
        source = str(Path(samebits.__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            text=True,
            start_new_session=True,  # Ctrl-C ends the evaluation, and the end of its pipe this process
        )
        return self

    def finish(
        self,
        *,
        parameters: Mapping[str, Any],
        data_md5: str,
        checkpoint_md5: str,
        metrics: Mapping[str, Any],
        history: Iterable[Mapping[str, Any]],
        artifacts: Iterable[Path] = (),
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        """Say what came out."""
        result = {
            "parameters": parameters,
            "data_md5": data_md5,
            "checkpoint_md5": checkpoint_md5,
            "environment": environment or {},
            "metrics": metrics,
            "history": list(history),
            "pictures": [str(path.absolute()) for path in artifacts],
        }
        self._message = json.dumps(result)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate(self._message if kind is None else "")
