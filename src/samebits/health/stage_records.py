"""What DVC recorded of stages: whether the outputs are there, and whether the records are whole and true."""

from collections.abc import Iterator
from pathlib import Path

from samebits.errors import UserError, listed
from samebits.health.check_result import REPAIR, CheckResult, note, shown, wrong
from samebits.paths import LOCK, METRICS
from samebits.repository import cache as caches
from samebits.repository import dvc_lock, false_records, git
from samebits.repository.cache import Cache
from samebits.repository.digests import md5_if_readable


def check_outputs(root: Path, cache: Cache, has_remote: bool) -> Iterator[CheckResult]:
    """Look for outputs of dvc.lock that the cache lacks. A lost one is wrong if the others of its stage are not lost."""
    in_git = git.files(root) | set(git.present(root, str(Path(METRICS).parent)))
    outputs = [output for output in dvc_lock.of_workspace(root).outputs if output.path not in in_git]
    absent = [output for output in outputs if not cache.holds(output.md5)]
    here = [output for output in absent if md5_if_readable(root / output.path) == output.md5]
    if here:
        what = f"in the workspace and not in DVC's cache: {listed([output.path for output in here])}"
        yield note(what, "`dvc commit` puts them there")
    lost = [output for output in absent if output not in here]
    begun = set() if has_remote else {output.stage for output in outputs if output not in lost}
    remedy = "`dvc pull` fetches them, or `dvc repro` makes them" if has_remote else "`dvc repro` makes them"
    for is_begun in (True, False):
        if paths := [output.path for output in lost if (output.stage in begun) == is_begun]:
            number = f"{len(paths)} of {len(outputs)} outputs"
            what = f"neither in DVC's cache nor in the workspace: {number}: {listed(paths)}"
            yield (wrong if is_begun else note)(what, remedy)


def check_lock(root: Path, cache: Cache) -> Iterator[CheckResult]:
    """Check that dvc.lock does not contradict its outputs in the cache."""
    if false := false_records.in_cache(dvc_lock.of_workspace(root), cache):
        yield wrong(f"{LOCK} is false: {', '.join(false)}", false_records.RUN_AGAIN)


def check_run_cache(root: Path, cache: Cache, repair: bool) -> Iterator[CheckResult]:
    """Look for run records that are damaged or contradict their outputs in the cache."""
    faults = [(path, "is damaged", "at most, that stage runs once more") for path in _damaged_records(cache)]
    for path, false in false_records.in_run_cache(cache):
        faults.append((path, f"is false: {', '.join(false)}", "remove the same file from a remote that has it"))
    for path, fault, consequence in faults:
        what = f"{shown(root, path)}, a record of a stage that ran, {fault}"
        if repair:
            caches.remove_record(path)
            yield note(f"{what}; removed", consequence)
        else:
            yield wrong(what, REPAIR)


def _damaged_records(cache: Cache) -> Iterator[Path]:
    """Return the run records that are not what DVC writes: it removes one when it meets it."""
    from dvc.schema import COMPILED_LOCK_FILE_STAGE_SCHEMA
    from voluptuous import Invalid

    for path in cache.records():
        try:
            COMPILED_LOCK_FILE_STAGE_SCHEMA(dvc_lock.mapping(path.read_bytes(), "a record"))["outs"]
        except FileNotFoundError:
            continue
        except (UserError, Invalid, KeyError):
            yield path
