"""Experiments that DVC's queue has finished and git knows by no name: DVC loses one when two end at the same moment."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from samebits.health.check_result import CheckResult, note
from samebits.repository import git


def check(root: Path) -> Iterator[CheckResult]:
    """Look for finished experiments without a name whose commit is still in git."""
    recorded = set()
    for path in (root / ".dvc/tmp/exps/run").glob("*/*.run"):
        with suppress(OSError, ValueError, AttributeError):
            recorded.add(json.loads(path.read_text(encoding="utf-8")).get("result_ref"))
    if not recorded - {None, *git.references(root, "refs/exps")}:
        return
    finished = _finished(root)  # takes a second, in which others may finish
    named, commits = git.references(root, "refs/exps"), git.commits_by_subject(root)
    for ref, content in sorted(finished.items()):
        if ref not in named and (commit := commits.get(f"dvc: commit experiment {content}")):
            name = ref.rpartition("/")[2]
            remedy = f"`git update-ref {ref} {commit}` names it again; if you removed it, `dvc queue remove {name}`"
            yield note(f"the experiment {name} has finished, and no name in git leads to it", remedy)


def _finished(root: Path) -> dict[str, str]:
    """Return the references that the queue's finished experiments should have, each with the hash of its result."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repository:
            finished = repository.experiments.celery_queue.iter_success()
            return {str(each.result.ref_info): each.result.exp_hash for each in finished}
    except (DvcException, OSError):  # the queue was cleared meanwhile
        return {}
