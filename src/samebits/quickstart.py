"""`samebits run`: from a fresh clone to a result on the screen."""

import hashlib
import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path

from samebits import params, paths, results, tracking
from samebits.data.sources import cifar10
from samebits.errors import UserError, listed
from samebits.reporting import terminal
from samebits.repository import dvc_command, dvc_lock, git

_HEAD = 1000  # characters of a page, which name its result


def run(root: Path) -> int:
    """Get the data, run the pipeline and show the result; without CIFAR-10, an experiment on the embedded data.

    Returns the exit code. Raises UserError if `root` is no clone of the project.
    """
    if not (root / paths.PIPELINE).is_file():
        raise UserError(f"{root} has no dvc.yaml: run this in the root of a clone of samebits")
    settings = params.load(root / paths.PARAMETERS)
    if not git.has_identity(root):
        print(f"note: git does not know who you are, which experiments need: {git.WHO_YOU_ARE}", file=sys.stderr)
    raw = root / settings.data.path
    if settings.data.source == "cifar10" and not cifar10.is_available(raw) and dvc_command.has_to_run(root, "prepare"):
        try:
            cifar10.download(raw)
        except cifar10.DownloadFailed as error:
            return _run_on_shapes(root, error)
    if not raw.exists():  # DVC would only say that there is no such file
        raise UserError(
            f"{paths.PARAMETERS}: data.path is {settings.data.path}, which does not exist: correct it, or `dvc checkout` it"
        )
    if code := dvc_command.reproduce(root):
        return code
    result, report = results.workspace(root), root / paths.REPORT
    _track(result)
    if not _is_page_of(result, report) or report.stat().st_mtime < (root / paths.LOCK).stat().st_mtime:
        _write_report(result, report)
    title = f"{settings.recipe} on {settings.data.source}, seed {settings.seed}"
    _show(title, root / paths.METRICS, _against_the_record(root), root / paths.PLOTS, report)
    return 0


def _run_on_shapes(root: Path, why: cifar10.DownloadFailed) -> int:
    """Run the same pipeline on `shapes`, as an experiment: the files in git stay as they are."""
    print(f"{why.reason}: running on shapes, the embedded data, as an experiment instead.", file=sys.stderr)
    head = git.commit(root)
    state = hashlib.sha256(head.encode() + git.diff(root, head) if head else b"").hexdigest()
    name = f"shapes-{state[:7]}"
    is_known = name in git.experiment_names(root).values()
    if not is_known and (code := dvc_command.run_experiment(root, name, {"data.source": "shapes"})):
        return code
    result = results.find(root, name)
    _track(result)
    folder = root / paths.EXPERIMENTS / name
    pictures, metrics, report = (folder / Path(each).name for each in (paths.PLOTS, paths.METRICS, paths.REPORT))
    if not (is_known and all(path.exists() for path in (pictures, metrics, report))):
        shutil.rmtree(folder, ignore_errors=True)  # DVC would put a folder into one that is there
        folder.mkdir(parents=True)
        dvc_command.fetch(root, name, paths.PLOTS, pictures)
        dvc_command.fetch(root, name, paths.METRICS, metrics)
        _write_report(result, report)
    _show(f"experiment {name} on shapes (not CIFAR-10)", metrics, None, pictures, report)
    return 0


def _has_mlflow_run(result: results.Result) -> bool:
    """Tell, without importing MLflow (3 s), that a local database holds the whole run of this result and commit."""
    uri, base = tracking.tracking_uri(result.root), result.base
    data_md5, checkpoint_md5 = result.md5(paths.DATASET), result.md5(paths.CHECKPOINT)
    if not (uri.startswith("sqlite:///") and data_md5 and checkpoint_md5):
        return False
    content = tracking.content_md5(result.parameters(), data_md5, checkpoint_md5)
    database = Path(uri.removeprefix("sqlite:///"))
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        found = connection.execute(
            "SELECT run_uuid, commits.value FROM runs JOIN tags USING (run_uuid) JOIN tags AS commits USING (run_uuid) "
            "WHERE status = 'FINISHED' AND lifecycle_stage = 'active' AND commits.key = 'samebits.commits' "
            "AND tags.key = 'samebits.content' AND tags.value = ?",
            (content,),
        )
        # The list of outputs is the last that a run gets.
        return any(
            {base, f"{base}-dirty"} & set(commits.split())
            and (database.parent / paths.ARTIFACTS / run_id / "artifacts" / tracking.OUTPUTS).is_file()
            for run_id, commits in found
        )
    return False


def _track(result: results.Result) -> None:
    """Make sure that MLflow holds the run, even if DVC took the result from its cache; a failure costs a warning."""
    if _has_mlflow_run(result):
        return
    from samebits.tracking import backfill

    try:
        backfill.track(result.root, [] if result.is_workspace else [result.name], everything=False)
    except UserError as error:
        print(f"warning: MLflow does not hold the run of this result: {error}", file=sys.stderr)


def _against_the_record(root: Path) -> str | None:
    """Say how this result relates to the committed one of the same parameters, if there is one."""
    names = (paths.PARAMETERS, paths.LOCK, paths.ENVIRONMENT, paths.METRICS)
    recorded = {name: git.read(root, "HEAD", name) for name in names}
    here = {name: (root / name).read_bytes() for name in names}
    if not all(recorded.values()) or recorded[paths.PARAMETERS] != here[paths.PARAMETERS]:
        return None
    before, after = (100 * json.loads(each[paths.METRICS])["accuracy"] for each in (recorded, here))
    accuracies = f"its accuracy is {before:.2f} %, this one's {after:.2f} %"
    if differences := terminal.differences(*(json.loads(each[paths.ENVIRONMENT]) for each in (recorded, here))):
        return f"The recorded result comes from another kind of machine ({'; '.join(differences)}): {accuracies}."
    old, new = (dvc_lock.read(each[paths.LOCK], paths.LOCK).hashes for each in (recorded, here))
    if different := [path for path in new if new[path] != old.get(path)]:
        return f"{len(different)} of {len(new)} outputs differ from the recorded result ({listed(different)}): {accuracies}."
    return f"This is bit for bit the recorded result: all {len(new)} outputs."


def _is_page_of(result: results.Result, path: Path) -> bool:
    """Tell whether the file is the page of this very result; `samebits report` may have written that of another one there."""
    return path.is_file() and result.identity in path.read_text(encoding="utf-8", errors="replace")[:_HEAD]


def _write_report(revision: results.Result, path: Path) -> None:
    from samebits.reporting import page  # imports PyTorch and matplotlib

    page.write_result(revision, path)


def _show(title: str, metrics: Path, note: str | None, pictures: Path, report: Path) -> None:
    print(f"\n{title}\n{terminal.accuracy_table(json.loads(metrics.read_bytes()))}")
    if note:
        print(note)
    print(f"report: {os.path.relpath(report)}   pictures: {os.path.relpath(pictures)}/*.png   tracking page: make ui")
