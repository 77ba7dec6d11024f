"""What restores any result that a repository knows, committed or only run: objects of DVC's cache, and run records."""

from dataclasses import dataclass, field
from pathlib import Path

from samebits.errors import UserError
from samebits.repository import dvc_lock, git
from samebits.repository.cache import Cache
from samebits.repository.digests import md5_of

# Where DVC records outputs: by the pipeline, and one by one (`dvc add`).
_RECORDS = ("dvc.lock", "*.dvc")


@dataclass
class Known:
    """Objects by name with a path that each was recorded under, and the objects that each run record names."""

    objects: dict[str, str] = field(default_factory=dict)
    records: dict[Path, list[str]] = field(default_factory=dict)


def know(root: Path, cache: Cache) -> Known:
    """Collect from the workspace, from every commit of all branches, tags and experiments, and from the run cache."""
    known = Known()
    in_workspace = [(root / path).read_bytes() for path in git.present(root, *_RECORDS)]
    for content in [*git.versions(root, *_RECORDS), *in_workspace]:
        known.objects |= _outputs(content, cache)
    for record in cache.records():
        if outputs := _outputs(record.read_bytes(), cache):
            known.objects |= outputs
            known.records[record] = list(outputs)
    return known


def not_in_git(root: Path, objects: dict[str, str]) -> dict[str, str]:
    """Leave out those whose content git holds, as it does metrics (`cache: false`)."""
    paths = sorted(set(objects.values()))
    in_git = {md5_of(content) for content in git.versions(root, *paths)} if paths else set()
    in_workspace = {md5_of((root / path).read_bytes()) for path in git.present(root, *paths)} if paths else set()
    return {name: path for name, path in objects.items() if name not in in_git | in_workspace}


def _outputs(record: bytes, cache: Cache) -> dict[str, str]:
    """Return the objects of a dvc.lock, a .dvc file or a run record; none where it is damaged, as DVC itself goes on then."""
    try:
        objects = {output.md5: output.path for output in dvc_lock.read(record, "a record").outputs if output.md5}
    except UserError:
        return {}
    return {member: path for name, path in objects.items() for member in cache.members(name)} | objects
