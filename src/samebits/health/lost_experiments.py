"""Experiments that DVC's queue has finished and git knows by no name: DVC loses one when two end at the same moment."""

from collections.abc import Iterator
from pathlib import Path

from samebits.health.check_result import CheckResult, note
from samebits.repository import git


def check(root: Path) -> Iterator[CheckResult]:
    """Look for finished experiments without a name whose commit is still in git."""
    if not (root / ".dvc/tmp/exps/celery").is_dir():  # there is no queue, and to make one takes a second
        return
    finished = _finished(root)
    named = git.references(root, "refs/exps")  # after that, for others may finish meanwhile
    commits = git.commits_by_subject(root) if finished.keys() - named.keys() else {}
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
