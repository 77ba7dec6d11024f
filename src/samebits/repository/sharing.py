"""Sharing with a team: send a DVC remote what restores the results of this repository."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from samebits.errors import UserError, listed
from samebits.repository import cache as caches
from samebits.repository import git
from samebits.repository.cache import Cache
from samebits.repository.dvc_lock import Output
from samebits.repository.false_records import require_true
from samebits.repository.inventory import collect, not_in_git, not_of_others, objects_of
from samebits.repository.remote import Remote, open_remote


def share(root: Path, remote_name: str | None) -> None:
    """Send a DVC remote, by default the repository's, what it lacks of all results of this repository; print what.

    Objects go before the records that name them, so an interrupted call leaves no record without its objects, and can be
    repeated. Raises UserError if something could not be sent.
    """
    cache = caches.of(root)
    git.require_repository(root)
    with open_remote(root, remote_name) as remote:
        remote.require_records()
        require_true(root, cache)
        objects, records = collect(root, cache)
        if not objects:
            raise UserError(f"{root} has no result yet: run `dvc repro`, or fetch commits that record one")
        lost = _send_objects(root, cache, objects, remote)
        _send_records(cache, records, lost, remote)
    if lost := not_of_others(root, cache, records, lost):
        what = f"{_count(len(lost), 'object')} of known results ({listed(sorted(set(lost.values())))})"
        print(f"note: neither here nor in {remote.name}: {what}; whoever made them has to share too", file=sys.stderr)
    if not remote.is_checked:
        remedy = f"run `dvc remote modify {remote.name} verify true`"
        print(f"note: a damaged object in {remote.name} would go unnoticed on pull: {remedy}", file=sys.stderr)


def share_outputs(root: Path, outputs: Sequence[Output]) -> None:
    """Send the default remote what it lacks of these outputs; print what. Raises UserError if that fails."""
    cache = caches.of(root)
    with open_remote(root) as remote:
        _send_objects(root, cache, objects_of(outputs, cache), remote)


def _send_objects(root: Path, cache: Cache, objects: Mapping[str, str], remote: Remote) -> dict[str, str]:
    """Send what the remote lacks; return the objects that are nowhere."""
    here = {name: path.stat().st_size for name in objects if (path := cache.path(name)).is_file()}
    there = remote.sizes(objects)
    lacking = sorted(name for name in here if there.get(name) != here[name])  # or cut short by an interrupted transfer
    num_there, num_bytes = len(there.keys() - set(lacking)), sum(here[name] for name in lacking)
    what = f"{_count(num_there, 'object')} there, {len(lacking)} to send, {num_bytes / 1e6:,.1f} MB"
    print(f"{remote}: {what}", flush=True)
    for name in lacking:
        if not cache.is_whole(name):  # it would be damaged for the whole team
            shown = str(cache.path(name)).removeprefix(f"{root}/")
            raise UserError(f"{shown} is damaged, nothing was sent: run `samebits check --repair`")
    for are_folders in (False, True):  # the list of a folder's files goes after them, for the same reason
        if some := {name: cache.path(name) for name in lacking if name.endswith(".dir") == are_folders}:
            remote.send_objects(some)
    return not_in_git(root, {name: path for name, path in objects.items() if name not in here | there})


def _send_records(cache: Cache, records: Mapping[Path, list[str]], lost: Mapping[str, str], remote: Remote) -> None:
    """Send the records that the remote lacks, except those of lost objects, at which a colleague's DVC would stop."""
    whole = {
        path.relative_to(cache.root / "runs").as_posix(): path
        for path, objects in records.items()
        if lost.keys().isdisjoint(objects)
    }
    there = remote.sizes(whole)
    lacking = {name: path for name, path in whole.items() if there.get(name) != path.stat().st_size}
    if lacking:
        remote.send_records(lacking)
    print(f"shared; {_count(len(whole), 'run record')}, {len(lacking)} of them new there")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
