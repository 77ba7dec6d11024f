"""The objects of DVC's cache, read again: DVC takes a read-only one for whole, whatever it holds."""

import io
import json
import os
import re
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from samebits.errors import UserError
from samebits.repository import dvc_lock
from samebits.repository.cache import Cache
from samebits.repository.digests import file_md5

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_FOLDER = re.compile("[0-9a-f]{2}")
_FILE = re.compile(r"[0-9a-f]{30}(\.dir)?")  # all else in a folder is temporary


@dataclass(frozen=True)
class Fault:
    """An object that does not hold what its name says. `found` is the MD5 of what it holds; "" if it cannot be read."""

    path: Path
    found: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        """What dvc.lock calls the object: its MD5, with `.dir` at the end for a folder's list of files."""
        return self.path.parent.name + self.path.name


@dataclass(frozen=True)
class Inspection:
    """What reading every object of a cache came to."""

    num_objects: int
    num_bytes: int
    faults: list[Fault]


def inspect(cache: Path) -> Inspection:
    """Hash every object of the cache folder against its name, on all cores, with a progress bar on a terminal.

    Objects that vanish meanwhile, as under `dvc gc`, are left out. Raises OSError where the cache cannot be listed.
    """
    sizes: dict[Path, int] = {}
    faults = []
    for path in _objects(cache.resolve() / "files" / "md5"):
        try:
            sizes[path] = path.stat().st_size
        except FileNotFoundError:
            if path.is_symlink():
                faults.append(Fault(path, reason="a link to nothing"))
        except OSError as error:
            faults.append(Fault(path, reason=error.strerror or str(error)))
    largest_first = sorted(sizes, key=lambda path: -sizes[path])
    num_bytes = sum(sizes.values())
    with (
        tqdm(total=num_bytes, desc="DVC cache", unit="B", unit_scale=True, disable=None, leave=False) as bar,
        ThreadPoolExecutor(os.cpu_count()) as threads,
    ):
        faults += [fault for fault in threads.map(lambda path: _fault(path, bar), largest_first) if fault]
    return Inspection(len(sizes), num_bytes, sorted(faults, key=lambda fault: fault.path))


def outputs(root: Path, cache: Path) -> dict[str, list[str]]:
    """Tell for each object's name which outputs of dvc.lock hold it. Raises UserError where dvc.lock is no YAML."""
    paths: defaultdict[str, list[str]] = defaultdict(list)
    for name, path in ((output.md5, output.path) for output in _recorded(root)):
        paths[name].append(path)
        if name.endswith(".dir"):
            for member, relative in _members(cache / "files" / "md5" / name[:2] / name[2:]):
                paths[member].append(f"{path}/{relative}")
    return paths


@dataclass(frozen=True)
class Output:
    """An output that dvc.lock names: what of it is where."""

    stage: str
    path: str
    is_cached: bool
    is_whole: bool  # in the workspace

    @property
    def is_lost(self) -> bool:
        """Tell whether neither the cache nor the workspace has it."""
        return not (self.is_cached or self.is_whole)


def recorded(root: Path, cache: Path, in_git: set[str]) -> list[Output]:
    """Tell where each output of dvc.lock is, those left out that git holds. Raises UserError if dvc.lock is damaged."""
    found = []
    for stage, path, name in ((output.stage, output.path, output.md5) for output in _recorded(root)):
        if path not in in_git:
            store = Cache(cache)
            is_cached = all(store.path(each).is_file() for each in (name, *store.members(name)))
            # Of a folder only that it is there: the list of its files, and so what it should hold, is not.
            is_whole = is_cached or (root / path).is_dir() or content_md5(root / path) == name
            found.append(Output(stage, path, is_cached, is_whole))
    return found


def damaged_records(cache: Path) -> list[Path]:
    """Find the records of DVC's run cache that are not what DVC writes: it drops one when it stumbles over it."""
    from dvc.schema import COMPILED_LOCK_FILE_STAGE_SCHEMA
    from voluptuous import Invalid

    damaged = []
    for path in Cache(cache).records():
        try:
            COMPILED_LOCK_FILE_STAGE_SCHEMA(dvc_lock.mapping(path.read_bytes(), "a record"))["outs"]
        except FileNotFoundError:
            continue
        except (UserError, Invalid, KeyError):
            damaged.append(path)
    return damaged


def content_md5(path: Path) -> str | None:
    """The MD5 of a file's content, through links; None where there is no file to read."""
    try:
        return file_md5(path)
    except OSError:
        return None


def remove(fault: Fault, copies: list[Path]) -> None:
    """Remove a damaged object, and before it its `copies` in the workspace.

    DVC would take a copy for whole: it remembers the hash that it meant to check out, not the one of the bytes. Raises
    UserError where the object is a link, or is not what it was when it was found damaged; OSError where removal fails.
    """
    if fault.path.resolve() != fault.path:
        raise UserError(f"leads out of the cache, to {fault.path.resolve()}: nothing is removed there")
    if content_md5(fault.path) != fault.found:
        raise UserError("has changed since it was found damaged: check again")
    for path in [*copies, fault.path]:
        path.unlink(missing_ok=True)


def _recorded(root: Path) -> list[dvc_lock.Output]:
    try:
        return dvc_lock.read((root / "dvc.lock").read_bytes(), "dvc.lock").outputs
    except FileNotFoundError:
        return []
    except UserError:
        raise UserError("dvc.lock is not what DVC writes: restore it with `git checkout dvc.lock`") from None


def _objects(store: Path) -> list[Path]:
    folders = [folder for folder in store.iterdir() if _FOLDER.fullmatch(folder.name)] if store.is_dir() else []
    return [path for folder in folders for path in folder.iterdir() if _FILE.fullmatch(path.name)]


def _fault(path: Path, bar: "tqdm[Any]") -> Fault | None:
    if not path.is_file():
        return Fault(path, reason="not a file")
    try:
        with _Watched(path, bar) as file:
            found = file_md5(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Fault(path, reason=error.strerror or str(error))
    expected = path.parent.name + path.name.removesuffix(".dir")
    return None if found == expected else Fault(path, found)


def _members(listing: Path) -> list[tuple[str, str]]:
    """Name and path of each file of a folder; none where the list of them cannot be had."""
    try:
        return [(entry["md5"], entry["relpath"]) for entry in json.loads(listing.read_bytes())]
    except (OSError, ValueError, LookupError, TypeError):
        return []


class _Watched(io.FileIO):
    """A file that tells a progress bar what is read of it."""

    _lock = threading.Lock()

    def __init__(self, path: Path, bar: "tqdm[Any]") -> None:
        super().__init__(path)
        self._bar = bar

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        number = super().readinto(buffer)
        with self._lock:
            self._bar.update(number)
        return number
