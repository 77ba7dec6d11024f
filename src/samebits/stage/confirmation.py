"""Whether DVC has recorded of a stage what the stage ran on: checked as soon as it is recorded, and removed if not.

A stage compares its inputs with the files last of all, but DVC reads them a moment later and would record an edit in that
moment as what ran. So each stage leaves a process behind that waits for the record, usually for a tenth of a second.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from samebits import atomic
from samebits.atomic import Signature, signature
from samebits.errors import listed
from samebits.paths import LOCK
from samebits.repository import cache, dvc_lock, git
from samebits.repository.digests import file_md5
from samebits.stage.inputs import Inputs
from samebits.stage.records import misrecorded

_LOCK = Path(LOCK)
_POLL_SECONDS = 0.02
_WHOLE_SECONDS = 0.2  # without a write, after which a file is complete


def hash_outputs(inputs: Inputs) -> dict[str, str]:
    """Return the MD5s of the files that the stage has written. Folders are prepared data, which the next stages compare with dataset.json."""
    return {path: file_md5(Path(path)) for path in inputs.written() if Path(path).is_file()}


def leave_behind(inputs: Inputs, outputs: Mapping[str, str]) -> None:
    """Fork a process that waits until DVC has recorded the stage, or has ended, and confirms the record or removes it.

    `outputs` are the MD5s of what the stage wrote.
    """
    dvc, ended, before = _dvc(), time.time(), signature(_LOCK)
    if os.fork():
        return
    try:
        os.setsid()  # Ctrl-C and the end of the terminal are meant for DVC
        is_wrong = False
        for written, has_dvc_ended in _writes(dvc, before):
            is_wrong = _is_removed(inputs, outputs, ended, written, has_dvc_ended) or is_wrong
            if not is_wrong:  # else wait for the end: DVC may have read the file before, and write the same again
                break
        if is_wrong:
            _remove_experiment(inputs, outputs)
    except BaseException as error:
        # Else the repository is being removed, and nothing is left to confirm.
        if Path(LOCK).exists() and Path(".dvc").exists():
            _say(
                f"warning: the record of {inputs.stage} in {LOCK} could not be confirmed ({error!r}): run `samebits check`"
            )
    finally:
        os._exit(0)


def _dvc() -> psutil.Process:
    """Return the process of DVC, which may have started this one by a shell."""
    parents = psutil.Process().parents()
    for parent in parents:
        with suppress(psutil.Error):
            if any("dvc" in word for word in parent.cmdline()[:4]):
                return parent
    return parents[0]


def _writes(dvc: psutil.Process, before: Signature) -> Iterator[tuple[bytes, bool]]:
    """Yield dvc.lock whenever it was written and is complete (DVC writes it in place), and when DVC has ended, and whether it has.

    It is empty if it was not written since: then it holds what was recorded before.
    """
    last, since, is_last = before, 0.0, False
    while not is_last:
        is_last = True
        with suppress(psutil.NoSuchProcess):  # it may end between the two questions
            is_last = not dvc.is_running() or dvc.status() == psutil.STATUS_ZOMBIE
        if (now := signature(_LOCK)) != last:
            last, since = now, time.monotonic()
        is_written = now not in (None, before)
        if is_last or (is_written and time.monotonic() - since > _WHOLE_SECONDS):
            yield (_LOCK.read_bytes() if is_written else b""), is_last
            before = last = signature(_LOCK)
        time.sleep(_POLL_SECONDS)


def _is_removed(inputs: Inputs, outputs: Mapping[str, str], ended: float, content: bytes, has_dvc_ended: bool) -> bool:
    """Remove what DVC has recorded of the stage if it differs from what ran; tell whether it did.

    If DVC has ended, another command may have written dvc.lock anew since: the run cache is searched for itself then.
    """
    recorded = dvc_lock.read(content, LOCK).stages.get(inputs.stage)
    changes = misrecorded(inputs, recorded, outputs) if recorded else []
    is_locked = bool(changes)
    for path in cache.of(Path.cwd()).records() if is_locked or has_dvc_ended else ():
        if path.stat().st_mtime < ended - 1:
            continue
        (cached,) = dvc_lock.read(path.read_bytes(), path.name).stages.values()
        if recorded and (cached.dependencies, cached.params) == (recorded.dependencies, recorded.params):
            is_wrong = is_locked
        elif is_wrong := _has_written(cached, outputs) and bool(found := misrecorded(inputs, cached, outputs)):
            changes = changes or found
        if is_wrong:
            cache.remove_record(path)
    if not changes:
        return False
    if is_locked:
        _remove_from_lock(inputs.stage, content.decode())
    _say(
        f"error: {listed(changes)} just when {inputs.stage} had ended, and DVC recorded that: the record is removed "
        "from dvc.lock and the run cache; run `dvc repro`"
    )
    return True


def _has_written(cached: dvc_lock.Stage, outputs: Mapping[str, str]) -> bool:
    """Tell whether a record of the run cache has the outputs that the stage wrote."""
    hashes = {output.path: output.md5 for output in cached.outputs if output.path in outputs}
    return bool(hashes) and all(outputs[path] == md5 for path, md5 in hashes.items())


def _remove_from_lock(stage: str, content: str) -> None:
    left = re.sub(rf"^  {re.escape(stage)}:\n(?:    .*\n)+", "", content, flags=re.MULTILINE)
    if left.rstrip().endswith("stages:"):
        _LOCK.unlink()
    else:
        atomic.write_text(_LOCK, left)


def _remove_experiment(inputs: Inputs, outputs: Mapping[str, str]) -> None:
    """Remove the experiment that DVC has made of the record, if it has."""
    name = os.environ.get("DVC_EXP_NAME", "")
    for commit in git.experiments(Path.cwd(), name) if name else []:
        recorded = dvc_lock.read(git.read(Path.cwd(), commit, LOCK), LOCK).stages.get(inputs.stage)
        if recorded and misrecorded(inputs, recorded, outputs):
            git.remove_experiment(Path.cwd(), name, commit)
            _say(f"error: so the experiment {name} is removed too: run it again")


def _say(line: str) -> None:
    os.write(2, f"{line}\n".encode())  # not by sys.stderr, whose lock another thread may have held at the fork
