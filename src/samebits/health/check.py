"""Is this clone healthy? One line for each thing looked at, with the remedy where something is wrong."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from samebits import atomic, params
from samebits.data import sources
from samebits.errors import UserError
from samebits.health import cached_objects, lost_experiments, stale_locks, tracking_database
from samebits.health.check_result import Finding, shown
from samebits.repository import cache as caches
from samebits.repository import dvc_lock, false_records, git

# What a run writes: prepared tensors and checkpoint, each once in the workspace and once in the cache.
_NEEDED_BYTES = 1_000_000_000
_INSTALL = "run `pip install -e .`"


def check(root: Path, repair: bool) -> int:
    """Check the clone in `root` and print what is found; give 1 where something is wrong, else 0.

    Changes nothing, unless `repair`: then damaged objects of DVC's cache are removed, with their copies in the workspace.
    Raises UserError where `root` is no clone, or where DVC is at work, which a repair would disturb.
    """
    root = root.resolve()
    settings = caches.settings(root)
    with suppress(git.GitError):  # a finding of its own
        if git.top_folder(root) is None:
            raise UserError(f"{root} is in no git repository: clone samebits, do not copy it")
    cache = caches.of(root).root
    has_remote = bool(settings["core"].get("remote"))
    are_hardlinks = bool(settings["core"].get("hardlink_lock"))
    if repair and (holder := stale_locks.at_work(root, are_hardlinks)):
        raise UserError(f"DVC is at work here: {holder}: repair when it has ended")

    said: set[Finding] = set()  # a damaged git or dvc.lock stops several of these with one and the same line
    for findings in (
        _git(root),
        _compute_pins(root),
        _other_pins(root),
        _torchvision(),
        _raw_data(root),
        _cache(root, cache, repair, has_remote),
        _absent(root, cache, has_remote),
        _records(root, cache, repair),
        _false_records(root, caches.Cache(cache), repair),
        _half_written(root),
        lost_experiments.inspect(root),
        tracking_database.inspect(root),
        _free_disk(root, cache),
        _locks(root, cache, are_hardlinks),
    ):
        for finding in _guarded(findings):
            if finding not in said:
                print(finding, flush=True)
                said.add(finding)
    number = sum(finding.mark == "wrong" for finding in said)
    print(f"{number} {'thing is' if number == 1 else 'things are'} wrong" if number else "healthy")
    return 1 if number else 0


def _guarded(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Turn what a check stumbles over into a finding, so that the others still have their say."""
    try:
        yield from findings
    except UserError as error:
        yield Finding("wrong", str(error))
    except ImportError as error:
        yield Finding("wrong", f"a library cannot be imported ({error})", _INSTALL)
    except OSError as error:
        yield Finding("wrong", f"{error.filename or 'a file'} cannot be read ({error.strerror})", "make it readable")


def _git(root: Path) -> Iterator[Finding]:
    git.commit(root)
    git.uncommitted(root)  # reads the index, the configuration and the commit
    yield Finding("ok", "git reads this clone")


def _compute_pins(root: Path) -> Iterator[Finding]:
    number, differing, missing = _differences(root / "compute.lock")
    if differing or missing:
        yield Finding("wrong", f"compute.lock, which decides numbers: {', '.join(missing + differing)}", _INSTALL)
    else:
        yield Finding("ok", f"the {number} libraries of compute.lock are installed as pinned")


def _other_pins(root: Path) -> Iterator[Finding]:
    """Look at what decides no number: another version is not wrong, a library that is missing is."""
    number, differing, missing = _differences(root / "requirements.lock")
    if named := missing + differing:
        what = (
            f"requirements.lock, which decides no number: {len(named)} of {number} libraries differ: {_listed(named)}"
        )
        yield Finding("wrong" if missing else "note", what, _INSTALL)
    else:
        yield Finding("ok", f"the {number} libraries of requirements.lock are installed as pinned")


def _differences(lock: Path) -> tuple[int, list[str], list[str]]:
    """How many libraries `lock` pins, which are installed in another version, and which are not installed."""
    from samebits import runtime

    pins = runtime.pins(lock)
    differing, missing = [], []
    for pin in pins:
        try:
            installed = version(pin.name)
        except PackageNotFoundError:
            missing.append(f"{pin.name} is not installed")
            continue
        if not pin.specifier.contains(installed, prereleases=True):
            differing.append(f"{pin.name} is {installed}, not {str(pin.specifier).removeprefix('==')}")
    return len(pins), differing, missing


def _torchvision() -> Iterator[Finding]:
    try:
        import samebits.data.vision  # noqa: F401
    except Exception as error:  # what a torchvision raises that does not fit its PyTorch
        reason = " ".join(str(error).split())
        yield Finding("wrong", f"torchvision cannot be imported beside PyTorch ({reason})", _INSTALL)
    else:
        yield Finding("ok", f"torchvision {version('torchvision')} works beside PyTorch {version('torch')}")


def _raw_data(root: Path) -> Iterator[Finding]:
    if found := sources.inspect(params.load(root / "params.yaml").data, root):
        yield Finding(*found)


def _cache(root: Path, cache: Path, repair: bool, has_remote: bool) -> Iterator[Finding]:
    outputs = cached_objects.outputs(root, cache)
    found = cached_objects.inspect(cache)
    if not found.num_objects and not found.faults:
        yield Finding("note", f"DVC's cache {shown(root, cache)} holds nothing yet")
    elif not found.faults:
        what = f"DVC's cache {shown(root, cache)}: {found.num_objects} objects, {_size(found.num_bytes)}, all whole"
        yield Finding("ok", what)
    for fault in found.faults:
        yield _fault(root, fault, outputs.get(fault.name, []), repair, has_remote)


def _fault(root: Path, fault: cached_objects.Fault, outputs: list[str], repair: bool, has_remote: bool) -> Finding:
    what = f"{shown(root, fault.path)} ({', '.join(outputs) or 'no output of this dvc.lock'})"
    if not fault.found:
        return Finding("wrong", f"{what} cannot be read ({fault.reason})", "make it readable, or remove it")
    in_workspace = {path: cached_objects.content_md5(root / path) for path in outputs}
    copies = [path for path, md5 in in_workspace.items() if md5 == fault.found]
    also = ", and so is the copy of it in the workspace" if copies else ""
    if not repair:
        remedy = "run `samebits check --repair`, which removes it"
        return Finding("wrong", f"{what} is damaged, its MD5 is {fault.found}{also}", remedy)
    try:
        cached_objects.remove(fault, [root / path for path in copies])
    except UserError as error:
        return Finding("wrong", f"{what} is damaged, but {error}")
    except OSError as error:
        return Finding("wrong", f"{what} is damaged, but cannot be removed ({error.strerror})", "mend its permissions")
    is_whole = fault.name.removesuffix(".dir") in in_workspace.values()
    return Finding("note", f"{what} was damaged{also}; removed", _way_back(bool(outputs), is_whole, has_remote))


def _way_back(is_needed: bool, is_whole_in_workspace: bool, has_remote: bool) -> str:
    if not is_needed:
        return "`dvc fetch --all-commits` fetches it" if has_remote else "`dvc repro` at its commit rebuilds it"
    ways = ["`dvc repro` rebuilds it"]
    if has_remote:
        ways.insert(0, "`dvc pull` fetches it")
    if is_whole_in_workspace:
        ways.insert(0, "`dvc commit` puts it back from the workspace, where it is whole")
    return ", or ".join(ways)


def _absent(root: Path, cache: Path, has_remote: bool) -> Iterator[Finding]:
    """Look for outputs of dvc.lock whose objects the cache lacks: wrong only if what is lost came with the others of its stage."""
    outputs = cached_objects.recorded(root, cache, git.files(root, "HEAD") | set(git.present(root, "metrics")))
    if here := [output.path for output in outputs if output.is_whole and not output.is_cached]:
        what = f"in the workspace and not in DVC's cache: {_listed(here)}"
        yield Finding("note", what, "`dvc commit` puts them there")
    lost = [output for output in outputs if output.is_lost]
    begun = set() if has_remote else {output.stage for output in outputs if not output.is_lost}
    for is_begun in (True, False):
        if paths := [output.path for output in lost if (output.stage in begun) == is_begun]:
            what = (
                f"neither in DVC's cache nor in the workspace: {len(paths)} of {len(outputs)} outputs: {_listed(paths)}"
            )
            remedy = "`dvc pull` fetches them, or `dvc repro` makes them" if has_remote else "`dvc repro` makes them"
            yield Finding("wrong" if is_begun else "note", what, remedy)


def _records(root: Path, cache: Path, repair: bool) -> Iterator[Finding]:
    for path in cached_objects.damaged_records(cache):
        what = f"{shown(root, path)}, a record of a stage that ran,"
        if repair:
            caches.remove_record(path)
            yield Finding("note", f"{what} was damaged; removed", "at most, that stage runs once more")
        else:
            yield Finding("wrong", f"{what} is damaged", "run `samebits check --repair`, which removes it")


def _false_records(root: Path, cache: caches.Cache, repair: bool) -> Iterator[Finding]:
    """Look for records that say something else than the outputs they name say of themselves."""
    here = dvc_lock.Record({})
    with suppress(OSError, UserError):  # one that is missing or damaged has a line of its own
        here = dvc_lock.read((root / "dvc.lock").read_bytes(), "dvc.lock")
    if false := false_records.contradictions(here, lambda path: cache.read(here.hashes[path])):
        yield Finding("wrong", f"dvc.lock is false: {', '.join(false)}", false_records.RUN_AGAIN)
    for path, false in false_records.in_run_cache(cache):
        what = f"{shown(root, path)}, a record of a stage that ran, is false: {', '.join(false)}"
        if repair:
            caches.remove_record(path)
            yield Finding("note", f"{what}; removed", "remove the same file from a remote that has it")
        else:
            yield Finding("wrong", what, "run `samebits check --repair`, which removes it")


def _half_written(root: Path) -> Iterator[Finding]:
    folders = [folder for name in ("data", "metrics") for folder, _, _ in os.walk(root / name)]
    sizes = {}
    for folder in folders:
        for path in atomic.leftovers(Path(folder)):
            sizes[path] = sum(file.stat().st_size for file in path.iterdir())
    if sizes:
        what = f"killed processes left {_listed([shown(root, path) for path in sizes])}, {_size(sum(sizes.values()))}"
        yield Finding("note", what, "the stage removes what it left when it runs again")


def _free_disk(root: Path, cache: Path) -> Iterator[Finding]:
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    places = {folder.stat().st_dev: folder for folder in (existing, root)}
    for place in places.values():
        free = shutil.disk_usage(place).free
        what = f"{_size(free)} are free where {place} lies"
        if free < _NEEDED_BYTES:
            remedy = (
                f"a run needs {_size(_NEEDED_BYTES)}, make room (`dvc gc --all-commits` drops what no commit names)"
            )
            yield Finding("wrong", what, remedy)
        else:
            yield Finding("ok", what)


def _locks(root: Path, cache: Path, are_hardlinks: bool) -> Iterator[Finding]:
    written: list[str] = []
    with suppress(UserError):  # a damaged dvc.lock is a finding already
        written = [path for paths in cached_objects.outputs(root, cache).values() for path in paths]
    yield from list(stale_locks.inspect(root, are_hardlinks, written)) or [Finding("ok", "no lock of DVC's is held")]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
