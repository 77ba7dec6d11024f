"""`samebits run`: from a fresh clone to a result on the screen."""

import hashlib
import json
import os
import sys
from pathlib import Path

from samebits import params, results
from samebits.data.sources import cifar10
from samebits.errors import UserError
from samebits.reporting import terminal
from samebits.repository import dvc_command, git

REPORT = "report.html"


def run(root: Path) -> int:
    """Get the data, run the pipeline and show the result; without CIFAR-10, an experiment on the embedded data.

    Gives the exit code. Raises UserError where `root` is no clone of the project.
    """
    if not (root / "dvc.yaml").is_file():
        raise UserError(f"{root} has no dvc.yaml: run this in the root of a clone of samebits")
    settings = params.load(root / "params.yaml")
    raw = root / settings.data.path
    if settings.data.source == "cifar10" and not cifar10.is_available(raw) and dvc_command.has_to_run(root, "prepare"):
        try:
            cifar10.download(raw)
        except cifar10.DownloadFailed as error:
            return _run_on_shapes(root, error)
    before = _lock(root)
    if code := dvc_command.reproduce(root):
        return code
    _keep_run(root, [])
    report = root / REPORT
    if _lock(root) != before or not report.is_file():
        _write_report(results.workspace(root), report)
    measured = json.loads((root / "metrics/evaluate.json").read_text(encoding="utf-8"))
    print(f"\n{settings.recipe} on {settings.data.source}, seed {settings.seed}")
    print(terminal.accuracy_table(measured))
    if sentence := _other_kind(root, measured["accuracy"]):
        print(sentence)
    _say_where(root / "data/plots", report)
    return 0


def _run_on_shapes(root: Path, why: cifar10.DownloadFailed) -> int:
    """Run the same pipeline on `shapes`, as an experiment: what git tracks stays as it is."""
    print(f"{why.reason}: running on shapes, the embedded data, as an experiment instead.", file=sys.stderr)
    head = git.commit(root)
    state = hashlib.sha256(head.encode() + git.diff(root, head) if head else b"").hexdigest()
    name = f"shapes-{state[:7]}"
    is_known = name in dvc_command.experiments(root)
    if not is_known and (code := dvc_command.run_experiment(root, name, {"data.source": "shapes"})):
        return code
    _keep_run(root, [name])
    folder = root / "data/experiments" / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in ("data/plots", "metrics/evaluate.json"):
        dvc_command.fetch(root, name, path, folder / Path(path).name)
    report = folder / REPORT
    if not (is_known and report.is_file()):
        _write_report(results.find(root, name), report)
    print(f"\nexperiment {name} on shapes (not CIFAR-10)")
    print(terminal.accuracy_table(json.loads((folder / "evaluate.json").read_text(encoding="utf-8"))))
    _say_where(folder / "plots", report)
    return 0


def _keep_run(root: Path, revisions: list[str]) -> None:
    """See to it that the result has its run also where DVC took it from its cache; without one it is a result all the same."""
    from samebits.tracking import backfill

    try:
        backfill.track(root, revisions, everything=False)
    except UserError as error:
        print(f"warning: MLflow does not hold the run of this result: {error}", file=sys.stderr)


def _other_kind(root: Path, accuracy: float) -> str | None:
    """Say how this machine differs from the recorded result's, where the same parameters were recorded by another."""
    recorded = {
        name: git.read(root, "HEAD", name)
        for name in ("params.yaml", "metrics/environment.json", "metrics/evaluate.json")
    }
    if not all(recorded.values()) or recorded["params.yaml"] != (root / "params.yaml").read_bytes():
        return None
    here = json.loads((root / "metrics/environment.json").read_text(encoding="utf-8"))
    differences = terminal.differences(json.loads(recorded["metrics/environment.json"]), here)
    if not differences:
        return None
    before = json.loads(recorded["metrics/evaluate.json"])["accuracy"]
    return (
        f"The recorded result comes from another kind of machine ({'; '.join(differences)}): "
        f"its accuracy is {100 * before:.2f} %, this one's {100 * accuracy:.2f} %."
    )


def _lock(root: Path) -> bytes:
    path = root / "dvc.lock"
    return path.read_bytes() if path.is_file() else b""


def _write_report(revision: results.Result, path: Path) -> None:
    from samebits.reporting import page  # here, for a run that changes nothing has no use for it

    page.write_result(revision, path)


def _say_where(pictures: Path, report: Path) -> None:
    print(f"report: {os.path.relpath(report)}   pictures: {os.path.relpath(pictures)}/*.png   tracking page: make ui")
