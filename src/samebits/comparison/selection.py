"""Which results a user means: one by its name, or a group that differs in the seed alone."""

import fnmatch
from contextlib import suppress
from pathlib import Path

from samebits import results
from samebits.comparison import predicted
from samebits.errors import UserError, listed
from samebits.repository import git
from samebits.results import WORKSPACE, Result


def is_pattern(name: str) -> bool:
    """Tell whether `name` stands for a group of experiments rather than for one result."""
    return any(sign in name for sign in "*?[")


def find(root: Path, name: str) -> Result:
    """Find a git revision, a DVC experiment or the workspace. Raises UserError if it is none, or holds no whole result."""
    result = results.workspace(root) if name == WORKSPACE else results.find(root, name)
    result.require_complete()
    return result


def group(root: Path, name: str, with_seeds: bool) -> list[Result]:
    """Find the results that `name` stands for, one for each seed, by seed.

    Those are the experiments that it matches if it is a pattern; with `with_seeds`, all that differ from the result `name`
    in the seed alone; else that result. Raises UserError if there is none, or a pattern's differ in more than the seed.
    """
    if is_pattern(name):
        return _matching(root, name)
    found = find(root, name)
    return _same_but_for_seed(root, found) if with_seeds else [found]


def _matching(root: Path, pattern: str) -> list[Result]:
    names = {commit: name for commit, name in git.experiment_names(root).items() if fnmatch.fnmatchcase(name, pattern)}
    if not names:
        raise UserError(f"no experiment's name matches {pattern}: `dvc exp list --all` lists them")
    first, *others = found = [results.of_commit(root, name, commit, None) for commit, name in names.items()]
    first.require_complete()
    for other in others:
        other.require_complete()
        if different := predicted.differences(first, other):
            raise UserError(f"{pattern} is no group of seeds: {first} and {other} differ in {listed(different, 1)}")
    return _by_seed(found)


def _same_but_for_seed(root: Path, result: Result) -> list[Result]:
    """Look through all experiments, branches, tags and HEAD; `result` is one of those found."""
    head = git.commit(root)
    names = git.tips(root) | git.experiment_names(root) | ({head: "HEAD"} if head else {})
    found = [result]
    with git.reader(root) as read:
        for commit, name in names.items():
            with suppress(UserError):  # a branch from before the first result, or with half of one
                if not predicted.differences(result, results.of_commit(root, name, commit, None, read)):
                    same = results.of_commit(root, name, commit, None)
                    same.require_complete()
                    found.append(same)
    return _by_seed(found)


def _by_seed(found: list[Result]) -> list[Result]:
    """Keep the first result of each seed: the same training twice would count double."""
    chosen: dict[str, Result] = {}
    for result in found:
        chosen.setdefault(predicted.seed(result), result)
    return [chosen[seed] for seed in sorted(chosen, key=lambda seed: (len(seed), seed))]
