"""All that restores the results of a repository, committed or not: objects of DVC's cache, and run records."""

from collections.abc import Sequence
from pathlib import Path

from samebits.errors import UserError
from samebits.paths import LOCK
from samebits.repository import dvc_lock, git
from samebits.repository.cache import Cache
from samebits.repository.digests import md5_of
from samebits.repository.dvc_lock import Output

_RECORDS = (LOCK, "*.dvc")  # of the pipeline, and of `dvc add`


def collect(root: Path, cache: Cache) -> tuple[dict[str, str], dict[Path, list[str]]]:
    """Collect from the workspace, from every commit of all branches, tags and experiments, and from the run cache.

    Returns objects by name, each with a path that it was recorded under, and run records, each with the objects that it names.
    """
    objects: dict[str, str] = {}
    for content in _contents(root, *_RECORDS):
        objects |= _outputs(content, cache)
    records = {}
    for path in cache.records():
        if outputs := _outputs(path.read_bytes(), cache):
            objects |= outputs
            records[path] = list(outputs)
    return objects, records


def not_of_others(root: Path, cache: Cache, records: dict[Path, list[str]], objects: dict[str, str]) -> dict[str, str]:
    """Leave out the objects of commits on git's remotes, such as the history that a clone begins with.

    What a stage made here, as `records` say, stays: a colleague who pulls such a commit would miss it.
    """
    made_here = {name for names in records.values() for name in names}
    published = {name for content in git.versions(root, *_RECORDS, published=True) for name in _outputs(content, cache)}
    return {name: path for name, path in objects.items() if name in made_here or name not in published}


def not_in_git(root: Path, objects: dict[str, str]) -> dict[str, str]:
    """Leave out the objects whose content git holds, as it does metrics (`cache: false`)."""
    in_git = {md5_of(content) for content in _contents(root, *sorted(set(objects.values())))} if objects else set()
    return {name: path for name, path in objects.items() if name not in in_git}


def objects_of(outputs: Sequence[Output], cache: Cache) -> dict[str, str]:
    """Return the objects of outputs, and those of the files in folders, by name, each with the path of the output."""
    objects = {output.md5: output.path for output in outputs if output.md5}
    return {each: path for name, path in objects.items() for each in cache.members(name).values()} | objects


def _contents(root: Path, *paths: str) -> list[bytes]:
    """Return the contents that files of these paths have in the workspace or in any commit."""
    return [*git.versions(root, *paths), *((root / path).read_bytes() for path in git.present(root, *paths))]


def _outputs(record: bytes, cache: Cache) -> dict[str, str]:
    """Return the objects of a dvc.lock, a .dvc file or a run record; none if it is damaged: DVC ignores such a one too."""
    try:
        return objects_of(dvc_lock.read(record, "a record").outputs, cache)
    except UserError:
        return {}
