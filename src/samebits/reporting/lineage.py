"""Where a result comes from: commit, hashes, versions, machine, its run in MLflow, and how to restore it."""

import json
from pathlib import Path

from samebits import paths, tracking
from samebits.errors import listed
from samebits.repository import git
from samebits.repository.dvc_lock import flatten
from samebits.results import Result

_HASHES = {"data": paths.DATASET, "checkpoint": paths.CHECKPOINT, "predictions": paths.PREDICTIONS}


def origin(revision: Result) -> dict[str, str]:
    """Return where the result comes from, each fact by its name."""
    rows = {"commit": revision.commit or "none: not in git"}
    if revision.is_workspace:
        written = (paths.LOCK, f"{Path(paths.METRICS).parent}/")  # by the result itself
        if changed := [path for path in _uncommitted(revision) if not path.startswith(written)]:
            rows["uncommitted"] = listed(changed)
    elif revision.name != revision.commit:
        rows["named"] = revision.name
    rows |= {f"{name}, MD5": md5 for name, path in _HASHES.items() if (md5 := revision.md5(path))}
    rows["run in MLflow"] = _run(revision) or "none in this tracking store"
    return rows


def machine(revision: Result) -> dict[str, str]:
    """Return the kind of machine and the versions of libraries that made the result; empty if not recorded."""
    environment = json.loads(revision.read(paths.ENVIRONMENT) or b"{}")
    return {
        key: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in flatten(environment).items()
    }


def commands(revision: Result) -> list[str]:
    """Return the commands that restore the result and prove it."""
    if revision.is_workspace and _uncommitted(revision):
        return [f"# not in a commit yet: commit your changes and {paths.LOCK}, then write this page again"]
    where = revision.commit[:12] or "COMMIT"
    return [
        f"git checkout {where}",
        "dvc pull        # if a remote has it",
        "dvc repro       # runs what is missing",
        f"samebits verify {where}",
    ]


def _uncommitted(revision: Result) -> list[str]:
    """Return the files of the result that are not as in the commit: tracked ones, and untracked code."""
    return git.uncommitted(revision.root, untracked=("src/", "stages/", "recipes/"))


def _run(revision: Result) -> str | None:
    """Name the run of this result in the tracking store; None if there is none or the store fails."""
    uri = tracking.tracking_uri(revision.root)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return None
    hashes = revision.record.hashes
    try:
        content = tracking.content_md5(revision.parameters(), hashes[paths.DATASET], hashes[paths.CHECKPOINT])
        run = tracking.find_run(tracking.open_store(revision.root), content)
    except Exception:  # servers fail in many ways, and the page does not depend on one
        return None
    return f"{run.info.run_name} ({run.info.run_id})" if run else None
