"""The checks of `samebits check`: one line for each thing, with the remedy if something is wrong."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from samebits import atomic, params
from samebits.data import sources
from samebits.errors import UserError, listed
from samebits.health import cached_objects, libraries, lost_experiments, stage_records, stale_locks, tracking_database
from samebits.health.check_result import CheckResult, note, ok, shown, size, wrong
from samebits.paths import PARAMETERS, PINS
from samebits.repository import cache as caches
from samebits.repository import git
from samebits.repository.cache import Cache

# What a run writes: prepared tensors and checkpoint, each once in the workspace and once in the cache.
_NEEDED_BYTES = 1_000_000_000


def check(root: Path, repair: bool) -> int:
    """Check the clone in `root` and print what is found; return 1 if something is wrong, else 0.

    Changes nothing, unless `repair`: then damaged objects of DVC's cache are removed, with their copies in the workspace,
    and damaged or false run records. Raises UserError if `root` is no clone, or if a repair would disturb a DVC at work.
    """
    root = root.resolve()
    settings = caches.settings(root)
    with suppress(git.GitError):  # a line of its own
        git.require_repository(root)
    cache = Cache(caches.of(root).root.resolve())
    has_remote = bool(settings["core"].get("remote"))
    if repair and (what := stale_locks.at_work(root)):
        raise UserError(f"{what}: repair when it has ended")

    checks = (
        _git(root),
        libraries.check_pins(root, PINS),
        libraries.check_pins(root, libraries.OTHER_PINS),
        libraries.check_torchvision(),
        _raw_data(root),
        cached_objects.check(root, cache, repair, has_remote),
        stage_records.check_outputs(root, cache, has_remote),
        stage_records.check_lock(root, cache),
        stage_records.check_run_cache(root, cache, repair),
        _half_written(root),
        lost_experiments.check(root),
        tracking_database.check(root),
        _free_disk(root, cache.root),
        stale_locks.check(root),
    )
    said: set[CheckResult] = set()  # a damaged git or dvc.lock stops several of them with the same line
    for result in (result for each in checks for result in _guarded(each)):
        if result not in said:
            print(result, flush=True)
            said.add(result)
    number = sum(result.mark == "wrong" for result in said)
    print(f"{number} {'thing is' if number == 1 else 'things are'} wrong" if number else "healthy")
    return 1 if number else 0


def _guarded(results: Iterator[CheckResult]) -> Iterator[CheckResult]:
    """Turn the error that ends a check into its last result, so that the other checks run."""
    try:
        yield from results
    except UserError as error:
        yield wrong(str(error))
    except ImportError as error:
        yield wrong(f"a library cannot be imported ({error})", libraries.INSTALL)
    except OSError as error:
        yield wrong(f"{error.filename or 'a file'} cannot be read ({error.strerror})", "make it readable")


def _git(root: Path) -> Iterator[CheckResult]:
    git.commit(root)
    git.uncommitted(root)  # reads the index, the configuration and the commit
    yield ok("git reads this clone")
    if not git.has_identity(root):
        yield note("git does not know who you are, so `dvc exp run` may fail", git.WHO_YOU_ARE)


def _raw_data(root: Path) -> Iterator[CheckResult]:
    if found := sources.inspect(params.load(root / PARAMETERS).data, root):
        yield CheckResult(*found)


def _half_written(root: Path) -> Iterator[CheckResult]:
    folders = [Path(folder) for name in ("data", "metrics") for folder, _, _ in os.walk(root / name)]
    left = {
        path: sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        for each in folders
        for path in atomic.leftovers(each)
    }
    if left:
        what = f"killed processes left {listed([shown(root, path) for path in left])}, {size(sum(left.values()))}"
        yield note(what, "the stage removes what it left when it runs again")


def _free_disk(root: Path, cache: Path) -> Iterator[CheckResult]:
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    for place in {folder.stat().st_dev: folder for folder in (existing, root)}.values():
        free = shutil.disk_usage(place).free
        what = f"{size(free)} are free where {place} lies"
        room = f"a run needs {size(_NEEDED_BYTES)}, make room (`dvc gc --all-commits` drops what no commit names)"
        yield wrong(what, room) if free < _NEEDED_BYTES else ok(what)
