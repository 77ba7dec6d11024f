"""Artifacts for a team: what restores the results that this repository knows, in a DVC remote."""

import sys
from collections.abc import Mapping
from pathlib import Path

from samebits.errors import UserError
from samebits.repository import cache as caches
from samebits.repository import git
from samebits.repository.cache import Cache
from samebits.repository.false_records import require_true
from samebits.repository.inventory import Known, know, not_in_git
from samebits.repository.remote import Remote, open_remote


def share(root: Path, remote_name: str | None) -> int:
    """Send to a DVC remote, by default the repository's, what it lacks of all results that this repository knows; say what.

    Objects go before the records that name them, so that an interrupted call, which can be repeated, leaves no record
    without its objects. Gives 0. Raises UserError where something could not be sent.
    """
    settings = caches.settings(root)
    if git.top_folder(root) is None:
        raise UserError(f"{root} is in no git repository: clone samebits, do not copy it")
    cache = caches.of(root)
    with open_remote(root, remote_name, settings) as remote:
        remote.require_records()
        require_true(root, cache)
        known = know(root, cache)
        if not known.objects:
            raise UserError(f"{root} knows no result yet: run `dvc repro`, or fetch the commits that record some")
        lost = _send_objects(root, cache, known, remote)
        _send_records(cache, known, lost, remote)
    if lost:
        paths = ", ".join(sorted(set(lost.values()))[:3])
        what = f"{_count(len(lost), 'object')} of known results ({paths})"
        print(
            f"note: neither here nor in {remote.name}: {what}; whoever made those has to share too",
            file=sys.stderr,
        )
    if not remote.is_checked:
        command = f"`dvc remote modify {remote.name} verify true`"
        print(
            f"note: nobody who pulls from {remote.name} would notice a damaged object: {command} mends that",
            file=sys.stderr,
        )
    return 0


def _send_objects(root: Path, cache: Cache, known: Known, remote: Remote) -> dict[str, str]:
    """Send what the remote lacks; give the objects that nobody has."""
    here = {name: path.stat().st_size for name in known.objects if (path := cache.path(name)).is_file()}
    there = remote.object_sizes(list(known.objects))
    # One of another size is what an interrupted transfer has left.
    lacking = sorted(name for name in here if there.get(name) != here[name])
    num_there = len(there.keys() - set(lacking))
    num_bytes = sum(here[name] for name in lacking)
    print(
        f"{remote}: {_count(num_there, 'object')} there, {len(lacking)} to send, {num_bytes / 1e6:,.1f} MB", flush=True
    )
    _require_whole(root, cache, lacking)
    for are_folders in (False, True):  # the list of a folder's files goes after them, for the same reason
        some = {name: cache.path(name) for name in lacking if name.endswith(".dir") == are_folders}
        if some:
            remote.send_objects(some)
    return not_in_git(root, {name: path for name, path in known.objects.items() if name not in here | there})


def _send_records(cache: Cache, known: Known, lost: Mapping[str, str], remote: Remote) -> None:
    records = {
        path.relative_to(cache.root / "runs").as_posix(): path
        for path, objects in known.records.items()
        if not lost.keys() & set(objects)
    }
    there = remote.record_sizes(list(records))
    lacking = {name: path for name, path in records.items() if there.get(name) != path.stat().st_size}
    if lacking:
        remote.send_records(lacking)
    print(f"shared; {_count(len(records), 'run record')}, {len(lacking)} of them new there")


def _require_whole(root: Path, cache: Cache, names: list[str]) -> None:
    """Raise UserError where an object does not hold what its name says: it would be damaged for the whole team."""
    for name in names:
        if not cache.is_whole(name):
            path = cache.path(name)
            shown = path.relative_to(root) if path.is_relative_to(root) else path
            raise UserError(f"{shown} is damaged, nothing was sent: run `samebits check --repair`")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
