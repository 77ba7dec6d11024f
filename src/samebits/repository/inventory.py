"""All that restores the results of a repository, committed or not: objects of DVC's cache, and run records."""

from dataclasses import dataclass, field
from pathlib import Path

from samebits.errors import UserError
from samebits.paths import LOCK
from samebits.repository import dvc_lock, git
from samebits.repository.cache import Cache
from samebits.repository.digests import md5_of

_RECORDS = (LOCK, "*.dvc")  # of the pipeline, and of `dvc add`


@dataclass
class Inventory:
    """Objects by name, each with a path that it was recorded under; run records, each with the objects that it names."""

    objects: dict[str, str] = field(default_factory=dict)
    records: dict[Path, list[str]] = field(default_factory=dict)


def collect(root: Path, cache: Cache) -> Inventory:
    """Collect from the workspace, from every commit of all branches, tags and experiments, and from the run cache."""
    inventory = Inventory()
    for content in _contents(root, *_RECORDS):
        inventory.objects |= _outputs(content, cache)
    for path in cache.records():
        if outputs := _outputs(path.read_bytes(), cache):
            inventory.objects |= outputs
            inventory.records[path] = list(outputs)
    return inventory


def not_of_others(root: Path, cache: Cache, inventory: Inventory, objects: dict[str, str]) -> dict[str, str]:
    """Leave out the objects of commits on git's remotes, such as the history that a clone begins with.

    What a stage made here stays: a colleague who pulls such a commit would miss it.
    """
    made_here = {name for names in inventory.records.values() for name in names}
    published = {name for content in git.versions(root, *_RECORDS, published=True) for name in _outputs(content, cache)}
    return {name: path for name, path in objects.items() if name in made_here or name not in published}


def not_in_git(root: Path, objects: dict[str, str]) -> dict[str, str]:
    """Leave out the objects whose content git holds, as it does metrics (`cache: false`)."""
    in_git = {md5_of(content) for content in _contents(root, *sorted(set(objects.values())))} if objects else set()
    return {name: path for name, path in objects.items() if name not in in_git}


def _contents(root: Path, *paths: str) -> list[bytes]:
    """Return the contents that files of these paths have in the workspace or in any commit."""
    return [*git.versions(root, *paths), *((root / path).read_bytes() for path in git.present(root, *paths))]


def _outputs(record: bytes, cache: Cache) -> dict[str, str]:
    """Return the objects of a dvc.lock, a .dvc file or a run record; none if it is damaged: DVC ignores such a one too."""
    try:
        objects = {output.md5: output.path for output in dvc_lock.read(record, "a record").outputs if output.md5}
    except UserError:
        return {}
    return {each: path for name, path in objects.items() for each in cache.members(name).values()} | objects
