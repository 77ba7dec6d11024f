"""The objects of DVC's cache, hashed again: DVC trusts a read-only one, whatever it holds."""

import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from samebits.errors import UserError
from samebits.health.check_result import REPAIR, CheckResult, note, ok, shown, size, wrong
from samebits.repository import dvc_lock
from samebits.repository.cache import Cache
from samebits.repository.digests import file_md5, md5_if_readable


@dataclass(frozen=True)
class Fault:
    """An object without the content that its name says. `found` is the MD5 of its content; "" if it cannot be read."""

    path: Path
    found: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        """Its name in dvc.lock: its MD5, with `.dir` at the end for the list of a folder's files."""
        return self.path.parent.name + self.path.name


def check(root: Path, cache: Cache, repair: bool, has_remote: bool) -> Iterator[CheckResult]:
    """Check all objects; with `repair`, remove the damaged ones."""
    outputs: defaultdict[str, list[str]] = defaultdict(list)  # paths by object
    for output in dvc_lock.of_workspace(root).outputs:
        outputs[output.md5].append(output.path)
        for relative, md5 in cache.members(output.md5).items():
            outputs[md5].append(f"{output.path}/{relative}")
    sizes, faults = hash_all(cache)
    name = f"DVC's cache {shown(root, cache.root)}"
    if not sizes:
        yield note(f"{name} holds nothing yet")
    elif not faults:
        yield ok(f"{name}: {len(sizes)} objects, {size(sum(sizes.values()))}, all whole")
    for fault in faults:
        yield _result(root, fault, outputs[fault.name], repair, has_remote)


def hash_all(cache: Cache) -> tuple[dict[Path, int], list[Fault]]:
    """Hash all objects; return their sizes in bytes and the faults. Raises OSError if the cache cannot be listed."""
    sizes = {path: _num_bytes(path) for path in cache.objects()}
    faults = []
    with (
        tqdm(total=sum(sizes.values()), desc="DVC cache", unit="B", unit_scale=True, disable=None, leave=False) as bar,
        ThreadPoolExecutor(os.cpu_count()) as threads,
    ):
        largest_first = sorted(sizes, key=lambda path: -sizes[path])
        for path, fault in zip(largest_first, threads.map(_fault, largest_first), strict=True):
            bar.update(sizes[path])
            if fault:
                faults.append(fault)
    return sizes, sorted(faults, key=lambda fault: fault.path)


def remove(fault: Fault, copies: list[Path]) -> None:
    """Remove a damaged object, and before it its `copies` in the workspace.

    DVC would trust a copy: it remembers the hash that it meant to check out, not that of the bytes. Raises
    UserError if the object is a link or has changed since it was found damaged; OSError if it cannot be removed.
    """
    if fault.path.resolve() != fault.path:
        raise UserError(f"leads out of the cache, to {fault.path.resolve()}: nothing is removed there")
    if md5_if_readable(fault.path) != fault.found:
        raise UserError("has changed since it was found damaged: check again")
    for path in [*copies, fault.path]:
        path.unlink(missing_ok=True)


def _num_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _fault(path: Path) -> Fault | None:
    """Hash an object; return None if it is whole, or has vanished, as under `dvc gc`."""
    try:
        if path.exists() and not path.is_file():
            return Fault(path, reason="not a file")
        found = file_md5(path)
    except FileNotFoundError:
        return Fault(path, reason="a link to nothing") if path.is_symlink() else None
    except OSError as error:
        return Fault(path, reason=error.strerror or str(error))
    return None if found == path.parent.name + path.name.removesuffix(".dir") else Fault(path, found)


def _result(root: Path, fault: Fault, outputs: list[str], repair: bool, has_remote: bool) -> CheckResult:
    what = f"{shown(root, fault.path)} ({', '.join(outputs) or 'no output of this dvc.lock'})"
    if not fault.found:
        return wrong(f"{what} cannot be read ({fault.reason})", "make it readable, or remove it")
    in_workspace = {path: md5_if_readable(root / path) for path in outputs}
    copies = [path for path, md5 in in_workspace.items() if md5 == fault.found]
    also = ", and so is the copy of it in the workspace" if copies else ""
    if not repair:
        return wrong(f"{what} is damaged, its MD5 is {fault.found}{also}", REPAIR)
    try:
        remove(fault, [root / path for path in copies])
    except UserError as error:
        return wrong(f"{what} is damaged, but {error}")
    except OSError as error:
        return wrong(f"{what} is damaged, but cannot be removed ({error.strerror})", "fix its permissions")
    ways = ["`dvc repro` rebuilds it"] if outputs else ["`dvc repro` at its commit rebuilds it"]
    if has_remote:
        ways = ["`dvc pull` fetches it", *ways] if outputs else ["`dvc fetch --all-commits` fetches it"]
    if fault.name in in_workspace.values():
        ways.insert(0, "`dvc commit` puts it back from the workspace, where it is whole")
    return note(f"{what} was damaged{also}; removed", ", or ".join(ways))
