"""What a stage runs on: fixed at its start, and compared with the files until it ends.

DVC reads parameters and hashes dependencies when the command of a stage has ended. A stage that did not compare them itself
would be recorded with whatever was edited meanwhile. A stage takes its `Inputs` before it imports any code that decides its
outputs, so this module imports such code only when it has read all of it.
"""

import ast
import hashlib
import importlib.util
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samebits.atomic import Signature, signature, written
from samebits.errors import UserError
from samebits.repository import dvc_lock, git
from samebits.repository.digests import file_md5, md5_of

if TYPE_CHECKING:
    from samebits.params import Params
    from samebits.repository.dvc_lock import Stage

_PARAMETERS, _PIPELINE, _LOCK = "params.yaml", "dvc.yaml", "dvc.lock"
_CODE = ("compute.lock", "stages/*", "src/samebits/**/*")
_DIGITS = 7  # of a hash: enough to tell two contents apart
_NAMED = 4  # of the things that have changed
_ABSENT = "absent"


@dataclass(frozen=True)
class Origin:
    """Where code and parameters come from: a commit, or none, and how the files differed from it."""

    commit: str | None
    patch: bytes
    experiment: str | None
    files: dict[str, bytes] = field(default_factory=dict)  # params.yaml and dvc.yaml
    is_dirty: bool = False  # the commit alone would not give this result: also true if the patch was not kept


@dataclass(frozen=True)
class Change:
    """A parameter, by its dotted name, or a file, by its path, as it was at the start and as it is now."""

    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.what} {self.before} → {self.after}"


@dataclass(frozen=True)
class _File:
    """A file as it was; the content is kept of code only."""

    signature: Signature
    md5: str
    content: bytes = b""
    sha256: str = ""  # of data only


class Inputs:
    """What the stage whose file is `script` runs on: code, data and parameters, and where they come from.

    The working folder holds dvc.yaml and params.yaml. Raises UserError if one of them cannot be read.
    """

    def __init__(self, script: str) -> None:
        self.stage = Path(script).stem
        self._root = Path(script).resolve().parents[1]
        self._code = {_relative(path, self._root): _read_code(path) for path in _code_files(self._root)}
        _forget_bytecode(self._root / path for path in self._code)
        self._texts = {name: _content(Path(name)) for name in (_PARAMETERS, _PIPELINE, _LOCK)}
        # From here on everything may be imported: the code is read.
        from samebits import params

        text = self._texts[_PARAMETERS]
        self.settings: Params = params.parse(text, _PARAMETERS) if text else params.load(Path(_PARAMETERS))
        self._values = _flat(params.read(text, _PARAMETERS))
        self._pipeline: dict[str, Any] = dvc_lock.mapping(self._texts[_PIPELINE], _PIPELINE).get("stages") or {}
        self._recorded = dvc_lock.read(self._texts[_LOCK], _LOCK).stages
        self._dependencies = {
            path.replace("${data.source}", self.settings.data.source)
            for path in dvc_lock.paths(self._pipeline.get(self.stage, {}), "deps")
        }
        outputs = {
            path for stage in self._pipeline.values() for path in dvc_lock.paths(stage, "outs", "metrics", "plots")
        }
        data = [path for path in sorted(self._dependencies & outputs) if Path(path).is_file()]
        threads = ThreadPoolExecutor(2)  # beside the import of PyTorch, which keeps one core busy for two seconds
        self._data: dict[str, Future[_File]] = {path: threads.submit(_read_data, Path(path)) for path in data}
        self._commit_and_patch = threads.submit(_commit_and_patch)
        threads.shutdown(wait=False)
        self._images = self._list_images()
        self._sealed: set[str] = set()
        self._noticed: list[Change] = []

    def seal(self) -> None:
        """Take it that code and data are loaded. Raises UserError if one of them changed while they were."""
        self._sealed = set(self.code)
        if changed := [path for path, file in self._files().items() if signature(Path(path)) != file.signature]:
            raise UserError(
                f"{', '.join(changed[:_NAMED])} changed while {self.stage} was starting: run `dvc repro` again"
            )

    @property
    def code(self) -> dict[str, str]:
        """The MD5 of each file of code that is loaded and that the stage depends on, by path."""
        package = self._root / "src"
        loaded = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
        paths = {_relative(Path(file), self._root) for file in loaded if Path(file).is_relative_to(package)}
        paths |= {f"stages/{self.stage}.py", "compute.lock"}
        return {path: self._code[path].md5 for path in sorted(paths & self._code.keys()) if self._depends_on(path)}

    def md5(self, path: str) -> str:
        """Return the MD5 that the data file `path` had at the start."""
        return self._data[path].result().md5 if path in self._data else file_md5(Path(path))

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 that the data file `path` had at the start."""
        file = self._data.get(path.as_posix())
        return file.result().sha256 if file else _read_data(path).sha256

    def is_recorded(self, path: str) -> bool:
        """Tell whether DVC runs this stage and has recorded the data file `path` as it was at the start."""
        recorded = dvc_lock.read(_content(Path(_LOCK)), _LOCK).hashes
        return "DVC_STAGE" in os.environ and recorded.get(path) == self.md5(path)

    def origin(self) -> Origin:
        """Return where code and parameters come from. Raises GitError if git cannot tell."""
        commit, patch = self._commit_and_patch.result()
        experiment = os.environ.get("DVC_EXP_NAME")
        # What was edited just when a stage before had ended is removed from dvc.lock a moment later.
        recorded = dvc_lock.read(_content(Path(_LOCK)), _LOCK).stages
        before = self._stages_before()
        if any(recorded.get(name) != self._recorded[name] or self._misfits(name) for name in before):
            return Origin(commit, b"", experiment, {}, is_dirty=True)
        files = {name: self._texts[name] for name in (_PARAMETERS, _PIPELINE)}
        return Origin(commit, patch, experiment, files, is_dirty=bool(patch))

    def require_stages_before(self) -> None:
        """Raise UserError if the stages before were recorded with other parameters or outputs than there were at the start.

        That is so if something was edited after they ended. A stage that is not run by DVC has no record to look at.
        """
        for name in self._stages_before() if "DVC_STAGE" in os.environ else ():
            for output in self._recorded[name].outputs:
                if output.path in self._data and self.md5(output.path) != output.md5:
                    raise UserError(
                        f"{output.path} is not what {name} wrote: run `dvc checkout {output.path}` and `dvc repro`"
                    )
            if changes := [change for change in self._misfits(name) if change.what in self._values]:
                raise UserError(
                    f"{name} ran with other values than params.yaml had when {self.stage} started ({_some(changes)}): "
                    "run `dvc repro`"
                )

    def changes(self) -> list[Change]:
        """Return what the stage runs on that is otherwise now than at the start."""
        return [*self._changed_parameters(), *self._changed_files(), *self._changed_images(), *self._changed_outputs()]

    def notice(self, say: Callable[[str], None]) -> None:
        """Say what has changed since the last time and what to do, or that all is as it was."""
        changes = self.changes()
        if changes != self._noticed:
            self._noticed = changes
            say(
                f"warning: {_some(changes)} while {self.stage} runs: it goes on with what it read at its start, and DVC will "
                "not record it unless the edit is undone before it ends. Ctrl-C stops it; to run other values side by side, "
                "undo the edit and use `dvc exp run --temp -S KEY=VALUE`"
                if changes
                else f"note: everything is again as it was when {self.stage} started"
            )

    def require_unchanged(self) -> None:
        """Raise UserError, naming the ways out, if something that the stage runs on is otherwise than at the start."""
        if changes := self.changes():
            raise UserError(
                f"{_some(changes)} while {self.stage} ran, so it is not recorded: {self._ways_out(changes)}"
            )

    def misrecorded(self, recorded: "Stage", outputs: Mapping[str, str]) -> list[Change]:
        """Return what DVC has recorded of this stage otherwise than it ran; `outputs` are MD5s of what it wrote."""
        hashes = {output.path: output.md5 for output in recorded.outputs}
        changes = [
            Change(path, md5[:_DIGITS], hashes[path][:_DIGITS])
            for path, md5 in outputs.items()
            if hashes.get(path, md5) != md5
        ]
        changes += self._differing(self._stage_values(self.stage), _flat(recorded.params))
        for path, md5 in recorded.dependencies.items():
            expected = self._recordable_md5(path)
            if expected in (None, md5):
                continue
            changed = any(_covers(path, change.what) for change in self.changes())
            is_layout = path in self._code and path in self.code and file_md5(Path(path)) == md5 and not changed
            is_unused = not any(_covers(path, used) for used in (*self.code, *self._data))
            if changed or not (is_layout or is_unused or (expected and expected.endswith(".dir"))):
                changes.append(Change(path, (expected or "")[:_DIGITS], md5[:_DIGITS]))
        return changes

    def _ways_out(self, changes: list[Change]) -> str:
        without = " without training again" if self.stage == "train" else ""
        undone = f"undo the edit{self._command_that_undoes(changes)} and run `dvc repro`, which finishes{without}"
        if not all(change.what in self._values or change.before == _ABSENT for change in changes):
            return undone
        now = _flat(_values_of(_content(Path(_PARAMETERS))) or {})
        ran = {key: value for key, value in self._values.items() if self._is_mine(key)}
        differing = [_override(key, value, key in now) for key, value in ran.items() if now.get(key) != value]
        differing += [f"~{key}" for key in now if self._is_mine(key) and key not in ran]
        command = " ".join(["dvc exp run --temp", *(f"-S {shlex.quote(each)}" for each in differing)])
        return f"{undone}; or keep the edit and run `{command}`, which takes over what ran{without}"

    def _command_that_undoes(self, changes: list[Change]) -> str:
        paths = {
            _PARAMETERS if change.what in self._values or change.before == _ABSENT else change.what
            for change in changes
        }
        if paths <= self._data.keys():
            return f" (`dvc checkout {' '.join(sorted(paths))}`)"
        try:
            commit, patch = self._commit_and_patch.result()
        except UserError:
            return ""
        if commit is None or any(f" b/{path}\n".encode() in patch or path in self._data for path in paths):
            return ""
        return f" (`git checkout {commit[:_DIGITS]} -- {' '.join(sorted(paths))}`)"

    def _is_mine(self, key: str) -> bool:
        """Tell whether a parameter is one of those that decide this result: of other recipes none does."""
        recipe = f"recipes.{self.settings.recipe}."
        return key.startswith((recipe, "data.")) or key in ("recipe", "seed", "device", "determinism")

    def _stage_values(self, stage: str) -> dict[str, Any]:
        """Return the parameters that a stage depends on, by dotted name."""
        keys = [
            key.replace("${recipe}", self.settings.recipe) for key in self._pipeline.get(stage, {}).get("params", [])
        ]
        return {name: value for name, value in self._values.items() if any(_is_part(name, key) for key in keys)}

    def _changed_parameters(self) -> list[Change]:
        content = _content(Path(_PARAMETERS))
        if content == self._texts[_PARAMETERS]:
            return []
        if (values := _values_of(content)) is None:
            return [Change(_PARAMETERS, "readable", "not YAML")]
        before = self._stage_values(self.stage)
        keys = [
            key.replace("${recipe}", self.settings.recipe)
            for key in self._pipeline.get(self.stage, {}).get("params", [])
        ]
        after = {name: value for name, value in _flat(values).items() if any(_is_part(name, key) for key in keys)}
        return self._differing(before, after)

    def _differing(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
        names = [name for name in {**before, **after} if not _is_same(before.get(name), after.get(name))]
        return [Change(name, _shown(before, name), _shown(after, name)) for name in names]

    def _files(self) -> dict[str, _File]:
        return {path: self._code[path] for path in self.code} | {
            path: file.result() for path, file in self._data.items()
        }

    def _changed_files(self) -> Iterator[Change]:
        for path, file in self._files().items():
            if signature(Path(path)) == file.signature:
                continue
            content = _content(Path(path)) if file.content else b""
            md5 = md5_of(content) if file.content else _md5_or_absent(Path(path))
            is_late = path in self._code and path not in self._sealed  # loaded after `seal`: who knows which version
            if is_late or not (md5 == file.md5 or (path.endswith(".py") and _is_same_code(file.content, content))):
                yield Change(path, file.md5[:_DIGITS], md5[:_DIGITS] if md5 != file.md5 else "another and back")

    def _list_images(self) -> dict[str, Signature]:
        """Return the image files that prepare reads, unless their content is known by published MD5s."""
        if "${data.path}" not in self._dependencies or self.settings.data.source != "folder":
            return {}
        from samebits.data import image_files

        return {path: signature(Path(path)) for path in image_files.below(self.settings.data.path).paths}

    def _changed_images(self) -> list[Change]:
        if not self._images:
            return []
        now = self._list_images()
        changed = [path for path in {**self._images, **now} if self._images.get(path) != now.get(path)]
        return [
            Change(path, "there" if path in self._images else _ABSENT, "changed" if path in now else "removed")
            for path in changed
        ]

    def written(self) -> dict[str, Signature]:
        """Return the outputs of the stage that it has written so far, as they were then."""
        outputs = dvc_lock.paths(self._pipeline.get(self.stage, {}), "outs", "metrics", "plots")
        return {path: written[path] for path in outputs & written.keys()}

    def _changed_outputs(self) -> list[Change]:
        changed = [path for path, before in self.written().items() if signature(Path(path)) != before]
        return [Change(path, "as it was written", "changed") for path in changed]

    def _stages_before(self) -> list[str]:
        """Return the stages whose outputs this one needs, directly or not, as far as DVC has recorded them."""
        before: list[str] = []
        needed = [self.stage]
        while needed:
            dependencies = dvc_lock.paths(self._pipeline.get(needed.pop(), {}), "deps")
            makers = [
                name
                for name, stage in self._pipeline.items()
                if dependencies & dvc_lock.paths(stage, "outs", "metrics", "plots")
            ]
            needed += [name for name in makers if name not in before]
            before += [name for name in makers if name not in before]
        return [name for name in before if name in self._recorded]

    def _misfits(self, stage: str) -> list[Change]:
        """Return what a stage before was recorded with and what is otherwise at the start of this one."""
        recorded = self._recorded[stage]
        changes = self._differing(_flat(recorded.params), self._stage_values(stage))
        for path, md5 in recorded.dependencies.items():
            if (expected := self._recordable_md5(path)) not in (None, md5):
                changes.append(Change(path, md5[:_DIGITS], (expected or "")[:_DIGITS]))
        return changes

    def _recordable_md5(self, path: str) -> str | None:
        """Return the MD5 by which DVC would have recorded a dependency at the start; None for what is not known here."""
        if path in self._code:
            return self._code[path].md5
        if path in self._data:
            return self._data[path].result().md5
        members = [name for name in self._code if _covers(path, name)]
        # As DVC names a folder: by the MD5 of the list of its files.
        entries = [{"md5": self._code[name].md5, "relpath": name.removeprefix(f"{path}/")} for name in members]
        listed = json.dumps(sorted(entries, key=lambda entry: entry["relpath"].split("/")), sort_keys=True)
        return f"{md5_of(listed.encode())}.dir" if members else None

    def _depends_on(self, path: str) -> bool:
        return not self._dependencies or any(_covers(each, path) for each in self._dependencies)


def _code_files(root: Path) -> Iterator[Path]:
    for pattern in _CODE:
        yield from (path for path in root.glob(pattern) if path.is_file() and "__pycache__" not in path.parts)


def _forget_bytecode(sources: Iterator[Path]) -> None:
    """Remove compiled code that may be of an earlier version: Python tells versions apart by size and whole seconds."""
    for source in sources:
        compiled = Path(importlib.util.cache_from_source(str(source)))
        with suppress(OSError):
            if int(compiled.stat().st_mtime) <= int(source.stat().st_mtime):
                compiled.unlink()


def _read_code(path: Path) -> _File:
    before, content = signature(path), _content(path)
    return _File(before, md5_of(content), content)


def _read_data(path: Path) -> _File:
    before, md5 = signature(path), file_md5(path)
    with path.open("rb") as file:
        return _File(before, md5, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _commit_and_patch() -> tuple[str | None, bytes]:
    workspace = Path.cwd()
    commit = git.commit(workspace)
    return commit, git.diff(workspace, commit) if commit else b""


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _md5_or_absent(path: Path) -> str:
    try:
        return file_md5(path)
    except OSError:
        return _ABSENT


def _values_of(content: bytes) -> dict[str, Any] | None:
    from samebits import params

    try:
        return params.read(content, _PARAMETERS)
    except UserError:
        return None


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by dotted name, without those that are null: they are the same as absent."""
    return {key: value for key, value in dvc_lock.flatten(values).items() if value is not None}


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _covers(path: str, other: str) -> bool:
    return other == path or other.startswith(f"{path}/")


def _is_part(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.")


def _is_same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)  # True == 1


def _is_same_code(one: bytes, other: bytes) -> bool:
    """Tell whether two Python sources differ in nothing but comments and layout."""
    try:
        return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))
    except (SyntaxError, ValueError):
        return False


def _shown(values: Mapping[str, Any], name: str) -> str:
    return str(values[name]) if name in values else _ABSENT


def _some(changes: list[Change]) -> str:
    more = f" and {len(changes) - _NAMED} more" if len(changes) > _NAMED else ""
    return f"{', '.join(map(str, changes[:_NAMED]))}{more}"


def _override(key: str, value: Any, is_there: bool) -> str:
    """Return a value as `dvc exp run --set-param` takes it."""
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and re.fullmatch(r"[\w./-]+", value):
        text = value
    return f"{'' if is_there else '+'}{key}={text}"
