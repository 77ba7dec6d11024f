"""What a stage runs on: code, data, parameters and the commit that they come from, read when the stage starts.

DVC hashes dependencies and reads parameters only when the command of a stage has ended, so it would record whatever was
edited meanwhile. `changes` therefore compares these inputs with the files until the end. A stage creates its `Inputs`
before it imports code that decides its outputs, and this module imports such code only when all of it is read.
"""

import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samebits.atomic import Signature, signature, written
from samebits.errors import UserError, listed
from samebits.paths import LOCK, PARAMETERS, PINS, PIPELINE, RECIPES
from samebits.repository import dvc_lock, git
from samebits.repository.digests import file_md5, folder_md5, md5_of, path_md5
from samebits.stage import rank

if TYPE_CHECKING:
    from samebits.params import Params

_CODE = (PINS, "stages/*", "src/samebits/**/*", f"{RECIPES}/**/*")
_OUTPUTS = ("outs", "metrics", "plots")


@dataclass(frozen=True)
class File:
    """A file as it was at the start, or a folder of data."""

    signature: Signature
    md5: str
    content: bytes = b""  # of code only
    sha256: str = ""  # of data only; of a folder, that of its files one after the other


class Inputs:
    """What the stage in the file `script` runs on; dvc.yaml and params.yaml are those of the working folder.

    Raises UserError if one of them cannot be read.
    """

    def __init__(self, script: str) -> None:
        self.stage = Path(script).stem
        self._root = Path(script).resolve().parents[1]
        self._sources = {_relative(path, self._root): _read_code(path) for path in _code_files(self._root)}
        self._links = {path: to for path in self._sources if (to := self.target(path)) != path}
        _forget_bytecode(self._root / path for path in self._sources)
        # Before the texts: an edit between the two must not go unnoticed.
        self._signatures = {name: signature(Path(name)) for name in (PARAMETERS, PIPELINE)}
        self.texts = {name: content_of(Path(name)) for name in (PARAMETERS, PIPELINE, LOCK)}
        # From here on everything may be imported: the code is read.
        from samebits import params

        text = self.texts[PARAMETERS]
        self.settings: Params = params.parse(text, PARAMETERS) if text else params.load(Path(PARAMETERS))
        self.values = dvc_lock.flat(params.read(text, PARAMETERS))
        self._pipeline: dict[str, Any] = dvc_lock.mapping(self.texts[PIPELINE], PIPELINE).get("stages") or {}
        self.recorded = dvc_lock.read(self.texts[LOCK], LOCK).stages
        self._dependencies = self._paths(self.stage, "deps")
        data = [path for _, path in self.outputs() if path in self._dependencies and Path(path).exists()]
        threads = ThreadPoolExecutor(2)  # beside the import of PyTorch, which keeps one core busy for two seconds
        # One process of a training reads all data and asks git; the others compare the signatures with it.
        read = _read_data if rank.is_first() else lambda path: File(signature(path), "")
        self._data: dict[str, Future[File]] = {path: threads.submit(read, Path(path)) for path in data}
        self._commit_and_patch = threads.submit(self._read_git if rank.is_first() else lambda: (None, None))
        threads.shutdown(wait=False)
        self.given = self.list_given()
        self.sealed: set[str] = set()  # the code that was loaded when nothing had changed yet

    def seal(self) -> None:
        """Declare that code and data are loaded. Raises UserError if one of them changed meanwhile, or is undeclared."""
        self.require_dependencies()
        self.sealed = set(self.code)
        changed = [path for path, file in self.files.items() if signature(Path(path)) != file.signature]
        if changed:
            raise UserError(f"{listed(changed)} changed while {self.stage} was starting: run `dvc repro` again")

    def require_dependencies(self) -> None:
        """Raise UserError if the stage has loaded a part of its recipe that it does not depend on."""
        from samebits import parts

        recipe = self.settings.recipe
        used_by = {f"src/samebits/{kind.folder}": kind.used_by for kind in parts.KINDS.values()}
        for path in sorted(self._loaded()):
            folder, _, name = path.rpartition("/")
            if folder not in used_by or name == "__init__.py" or self._depends_on(path):
                continue
            place = f"{RECIPES}/{recipe}/{used_by[folder]}"
            remedy = f"add it to the deps of {self.stage} in {PIPELINE}"
            if self._covers(place):
                remedy = (
                    f"run `ln -s {os.path.relpath(path, place)} {place}/` and `git add {RECIPES}`; "
                    f"`samebits link` makes the links for what {PARAMETERS} names"
                )
            raise UserError(f"recipe {recipe} uses {path}, but {self.stage} does not depend on it: {remedy}")

    @property
    def code(self) -> dict[str, str]:
        """The MD5 of each file of code that is loaded and that the stage depends on, by path."""
        return {path: self._sources[path].md5 for path in sorted(self._loaded()) if self._depends_on(path)}

    @property
    def files(self) -> dict[str, File]:
        """The files that the stage has read and depends on, code and data, by path."""
        return {path: self._sources[path] for path in self.code} | self.data

    @property
    def data(self) -> dict[str, File]:
        """The files and folders of data, outputs of other stages, by path."""
        return {path: file.result() for path, file in self._data.items()}

    @property
    def dependencies(self) -> dict[str, str | None]:
        """The MD5 by which DVC would have recorded each dependency at the start, by path; None for what is not there."""
        return {path: self.recordable_md5(path) for path in sorted(self._dependencies)}

    @property
    def links(self) -> dict[str, str]:
        """The links by which the stage depends on code that is loaded, and the files that they lead to."""
        code = self.code
        return {link: path for link, path in self._links.items() if path in code and self._covers(link)}

    def md5(self, path: str) -> str:
        """Return the MD5 that the data file or folder `path` had at the start."""
        return self._data[path].result().md5 if path in self._data else path_md5(Path(path))

    def sha256(self, path: str) -> str:
        """Return the SHA-256 that the data file or folder `path` had at the start."""
        return (self._data[path].result() if path in self._data else _read_data(Path(path))).sha256

    def commit_and_patch(self) -> tuple[str | None, bytes | None]:
        """Return the commit, if there is one, and how the files differed from it at the start.

        The latter is None if one of them was edited before git had read it. Raises GitError if git fails.
        """
        return self._commit_and_patch.result()

    def _read_git(self) -> tuple[str | None, bytes | None]:
        workspace = Path.cwd()
        commit = git.commit(workspace)
        patch = git.diff(workspace, commit) if commit else b""
        read = self._signatures | {path: file.signature for path, file in self._sources.items()}
        return commit, patch if all(signature(Path(path)) == before for path, before in read.items()) else None

    def parameters(self, stage: str, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return those of `values`, by default the values at the start, that a stage depends on, by dotted name."""
        entries = self._pipeline.get(stage, {}).get("params", [])
        named = [entry.get(PARAMETERS) or [] if isinstance(entry, dict) else [entry] for entry in entries]
        keys = [self._resolved(key) for each in named for key in each]
        values = self.values if values is None else values
        return {name: value for name, value in values.items() if any(f"{name}.".startswith(f"{key}.") for key in keys)}

    def names(self, path: str) -> list[str]:
        """Return the path of a file and those of all links to it."""
        return [path, *(link for link, target in self._links.items() if target == path)]

    def target(self, path: str) -> str:
        """Return where a path of the repository leads now, by links: a path, of the repository if it is in there."""
        found = Path(os.path.realpath(self._root / path))
        return _relative(found, self._root) if found.is_relative_to(self._root) else str(found)

    def list_given(self) -> dict[str, Signature]:
        """Return the files that the stage depends on now and that are neither code nor outputs, such as the user's images.

        CIFAR-10's do not count: prepare downloads them, and published MD5s fix their content.
        """
        data = self.settings.data
        path = os.path.normpath(data.path)
        given = {each for each in self._dependencies if not any(covers(each, source) for source in self._sources)}
        given -= {output for _, output in self.outputs()}
        files: list[str] = []
        if data.source == "folder" and path in given:
            from samebits.data import image_files

            files = image_files.below(path)[0]
        if data.source == "folder" or not data.is_own:
            given.discard(path)
        for each in map(Path, given):
            files += map(str, [each] if each.is_file() else each.rglob("*"))
        return {file: signature(Path(file)) for file in files if not os.path.isdir(file)}

    def outputs(self) -> list[tuple[str, str]]:
        """Return the outputs of the pipeline, as pairs of stage and path."""
        return [(stage, path) for stage in self._pipeline for path in sorted(self._paths(stage, *_OUTPUTS))]

    def written(self) -> dict[str, Signature]:
        """Return the outputs that the stage has written so far, as they were then."""
        return {path: written[path] for path in self._paths(self.stage, *_OUTPUTS) & written.keys()}

    def stages_before(self) -> list[str]:
        """Return the recorded stages whose outputs this one needs, directly or not."""
        found = [self.stage]
        for stage in found:  # which grows
            dependencies = self._paths(stage, "deps")
            makers = [name for name in self._pipeline if dependencies & self._paths(name, *_OUTPUTS)]
            found += [name for name in makers if name not in found]
        return [name for name in found[1:] if name in self.recorded]

    def recordable_md5(self, path: str) -> str | None:
        """Return the MD5 by which DVC would have recorded a dependency at the start; None for what is not known here."""
        if path in self._data:
            return self.md5(path)
        return _recordable(path, {name: file.md5 for name, file in self._sources.items()})

    def recordable_md5_now(self, path: str) -> str | None:
        """Return the MD5 by which DVC would record a file or folder of code now; None if it is neither."""
        files = [file for file in _code_files(self._root) if covers(path, _relative(file, self._root))]
        return _recordable(path, {_relative(file, self._root): file_md5(file) for file in files})

    def _loaded(self) -> set[str]:
        files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
        source = str(self._root / "src")
        paths = {_relative(Path(file), self._root) for file in files if file.startswith(source)}
        return (paths | {f"stages/{self.stage}.py", PINS}) & self._sources.keys()

    def _depends_on(self, path: str) -> bool:
        return not self._dependencies or any(map(self._covers, self.names(path)))

    def _covers(self, path: str) -> bool:
        return any(covers(each, path) for each in self._dependencies)

    def _paths(self, stage: str, *kinds: str) -> set[str]:
        """Return the paths of these kinds (deps, outs, ...) that a stage names; some are followed by settings."""
        entries = [entry for kind in kinds for entry in self._pipeline.get(stage, {}).get(kind, [])]
        named = (self._resolved(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries)
        return {os.path.normpath(path) for path in named}  # as DVC records them

    def _resolved(self, text: str) -> str:
        """Replace ${recipe} and the like as DVC does."""
        return re.sub(r"\$\{([^}]+)\}", lambda match: str(self.values.get(match[1], match[0])), text)


def content_of(path: Path) -> bytes:
    """Return the content of a file; nothing if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def covers(path: str, other: str) -> bool:
    """Tell whether `other` is the file `path` or lies in that folder."""
    return f"{other}/".startswith(f"{path}/")


def _recordable(path: str, md5s: Mapping[str, str]) -> str | None:
    files = {name.removeprefix(f"{path}/"): md5 for name, md5 in md5s.items() if covers(path, name)}
    return md5s.get(path) or (folder_md5(files) if files else None)


def _code_files(root: Path) -> Iterator[Path]:
    for pattern in _CODE:
        yield from (path for path in root.glob(pattern) if path.is_file() and "__pycache__" not in path.parts)


def _forget_bytecode(sources: Iterable[Path]) -> None:
    """Remove compiled code that may be of an earlier version: Python tells versions apart by size and whole seconds."""
    for source in sources:
        compiled = Path(importlib.util.cache_from_source(str(source)))
        with suppress(OSError):
            if int(compiled.stat().st_mtime) <= int(source.stat().st_mtime):
                compiled.unlink()


def _read_code(path: Path) -> File:
    before, content = signature(path), content_of(path)
    return File(before, md5_of(content), content)


def _read_data(path: Path) -> File:
    before, md5, digest = signature(path), path_md5(path), hashlib.sha256()
    for each in (each for each in [path, *sorted(path.rglob("*"))] if each.is_file()):
        with each.open("rb", buffering=0) as file:
            hashlib.file_digest(file, lambda: digest)  # goes on with it
    return File(before, md5, sha256=digest.hexdigest())


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
