"""Which results a user means: one by its name, or a group of seeds by a pattern or by all but the seed being equal."""

import fnmatch
from pathlib import Path

from samebits import results
from samebits.comparison import predicted
from samebits.errors import UserError
from samebits.repository import git
from samebits.results import WORKSPACE, Result


def is_pattern(name: str) -> bool:
    """Tell whether `name` stands for a group of experiments rather than for one revision."""
    return any(sign in name for sign in "*?[")


def find(root: Path, name: str) -> Result:
    """Find a git revision, a DVC experiment or the workspace. Raises UserError where it is none, or holds no result."""
    return results.workspace(root) if name == WORKSPACE else results.find(root, name)


def matching(root: Path, pattern: str) -> list[Result]:
    """Find the experiments whose names match `pattern`, one for each seed, by seed.

    Raises UserError where none matches, or where they differ in more than the seed.
    """
    named = {commit: name for commit, name in git.experiment_names(root).items() if fnmatch.fnmatchcase(name, pattern)}
    if not named:
        raise UserError(f"no experiment's name matches {pattern}: `dvc exp list --all` lists them")
    group = [_named(root, commit, name) for commit, name in named.items()]
    for other in group[1:]:
        if different := predicted.differences(group[0], other):
            raise UserError(
                f"{pattern} is no group of seeds: {group[0]} and {other} differ in {different[0]}"
                + (f" and {len(different) - 1} more" if len(different) > 1 else "")
            )
    return _by_seed(group)


def same_but_for_seed(root: Path, revision: Result) -> list[Result]:
    """Find all results that differ from `revision` in nothing but the seed, one for each seed, by seed; it is one of them.

    Looked through are all experiments, branches, tags and HEAD.
    """
    head = git.commit(root)
    names = git.tips(root) | git.experiment_names(root) | ({head: "HEAD"} if head else {})
    group = [revision]
    for commit, name in names.items():
        if commit == revision.commit:
            continue
        try:
            other = _named(root, commit, name)
        except UserError:  # a branch from before the first result is none to look at
            continue
        if not predicted.differences(revision, other):
            group.append(other)
    return _by_seed(group)


def _named(root: Path, commit: str, name: str) -> Result:
    return results.of_commit(root, name, commit, None)


def _by_seed(group: list[Result]) -> list[Result]:
    """Keep the first result of each seed: the same training twice would count double."""
    chosen: dict[str, Result] = {}
    for revision in group:
        chosen.setdefault(predicted.seed(revision), revision)
    return sorted(chosen.values(), key=lambda revision: (len(seed := predicted.seed(revision)), seed))
