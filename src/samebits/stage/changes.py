"""What has changed since a stage read its inputs, and the ways out: a stage is recorded with what it read, or not at all."""

import ast
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samebits.atomic import signature
from samebits.errors import UserError, listed, printable
from samebits.paths import PARAMETERS
from samebits.repository import dvc_lock, git
from samebits.repository.digests import md5_if_readable
from samebits.stage.inputs import Inputs, content_of

DIGITS = 7  # of a hash: enough to tell two contents apart
_ABSENT = "absent"


@dataclass(frozen=True)
class Change:
    """A parameter, by its dotted name, or a file, by its path, before and after."""

    what: str
    before: str
    after: str
    is_parameter: bool = False

    def __str__(self) -> str:
        return printable(f"{self.what} {self.before} → {self.after}")


class Watch:
    """Tells `say`, whenever `look` is called, what has changed since the last time."""

    def __init__(self, inputs: Inputs, say: Callable[[str], None]) -> None:
        self._inputs, self._say = inputs, say
        self._seen: list[Change] = []

    def look(self) -> None:
        """Say what has changed and what to do, or that everything is as it was again."""
        changes, stage = since_start(self._inputs), self._inputs.stage
        if changes != self._seen:
            self._seen = changes
            self._say(
                f"warning: {listed(changes)} while {stage} runs: it continues with what it read at its start, and will not be "
                "recorded unless you undo the edit before it ends. Ctrl-C stops it; to run other values side by side, undo "
                "the edit and use `dvc exp run --temp -S KEY=VALUE`"
                if changes
                else f"note: everything is again as it was when {stage} started"
            )


def require_none(inputs: Inputs) -> None:
    """Raise UserError, naming the ways out, if something has changed, or if the stage loaded what it does not depend on."""
    inputs.require_dependencies()
    if changes := since_start(inputs):
        raise UserError(
            f"{listed(changes)} while {inputs.stage} ran, so it is not recorded: {_ways_out(inputs, changes)}"
        )


def since_start(inputs: Inputs) -> list[Change]:
    """Return what the stage runs on, or has written, that is different now."""
    return [*_in_parameters(inputs), *_in_files(inputs)]


def between(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Return the differences between flat parameters."""
    changes = []
    for name in {**before, **after}:
        one, other = before.get(name), after.get(name)
        if one != other or isinstance(one, bool) != isinstance(other, bool):
            was, became = (_ABSENT if value is None else str(value) for value in (one, other))
            changes.append(Change(name, was, became, is_parameter=True))
    return changes


def _in_parameters(inputs: Inputs) -> list[Change]:
    content = content_of(Path(PARAMETERS))
    if content == inputs.texts[PARAMETERS]:
        return []
    if (values := _values(content)) is None:
        return [Change(PARAMETERS, "readable", "not YAML")]
    return between(inputs.parameters(inputs.stage), inputs.parameters(inputs.stage, values))


def _in_files(inputs: Inputs) -> Iterator[Change]:
    for path, file in inputs.files.items():
        if signature(Path(path)) != file.signature:
            md5 = md5_if_readable(Path(path)) or _ABSENT
            is_late = path not in {*inputs.sealed, *inputs.data}  # loaded after `seal`: nobody knows which version
            if is_late or not (md5 == file.md5 or _is_same_code(file.content, Path(path))):
                yield Change(path, file.md5[:DIGITS], md5[:DIGITS] if md5 != file.md5 else "changed and back")
    for link, target in inputs.links.items():
        if (now := inputs.target(link)) != target:
            yield Change(link, target, now)
    given = inputs.list_given()
    for path in {**inputs.given, **given}:
        if inputs.given.get(path) != given.get(path):
            before, after = "there" if path in inputs.given else _ABSENT, "changed" if path in given else "removed"
            yield Change(path, before, after)
    for path, then in inputs.written().items():
        if signature(Path(path)) != then:
            yield Change(path, "as it was written", "changed")


def _ways_out(inputs: Inputs, changes: list[Change]) -> str:
    without = " without training again" if inputs.stage == "train" else ""
    undone = f"undo the edit{_undo_command(inputs, changes)} and run `dvc repro`, which finishes{without}"
    if not all(change.is_parameter for change in changes):
        return undone
    now, ran = _values(content_of(Path(PARAMETERS))) or {}, inputs.values
    edited = [key for key in ran if _decides(inputs, key) and now.get(key) != ran[key]]
    overrides = [f"{'' if key in now else '+'}{key}={_in_hydra(ran[key])}" for key in edited]
    overrides += [f"~{key}" for key in now if _decides(inputs, key) and key not in ran]
    command = " ".join(["dvc exp run --temp", *(f"-S {shlex.quote(each)}" for each in overrides)])
    return f"{undone}; or keep the edit and run `{command}`, which records what ran{without}"


def _undo_command(inputs: Inputs, changes: list[Change]) -> str:
    paths = {PARAMETERS if change.is_parameter else change.what for change in changes}
    if paths <= inputs.data.keys():
        return f" (`dvc checkout {shlex.join(sorted(paths))}`)"
    try:
        commit, patch = inputs.commit_and_patch()
        in_commit = git.trees(Path.cwd(), commit, *paths) if commit and not any(map(os.path.isabs, paths)) else {}
    except UserError:
        return ""
    if (
        commit is None
        or patch is None
        or not paths <= in_commit.keys()
        or any(f" b/{path}\n".encode() in patch or path in inputs.data for path in paths)
        or not all(map(str.isascii, paths))  # a patch quotes such a path
    ):
        return ""
    return f" (`git checkout {commit[:DIGITS]} -- {shlex.join(sorted(paths))}`)"


def _decides(inputs: Inputs, key: str) -> bool:
    """Tell whether a parameter is one of those that decide this result: none of another recipe does."""
    recipe = f"recipes.{inputs.settings.recipe}."
    return key.startswith((recipe, "data.")) or key in ("recipe", "seed", "device")


def _in_hydra(value: Any) -> str:
    """Return a value as `dvc exp run --set-param` takes it: like JSON, but the keys of a mapping have no quotes."""
    match value:
        case list():
            return f"[{', '.join(map(_in_hydra, value))}]"
        case dict():
            return f"{{{', '.join(f'{key}: {_in_hydra(each)}' for key, each in value.items())}}}"
        case str() if re.fullmatch(r"[\w./-]+", value):
            return value
    return json.dumps(value, ensure_ascii=False)


def _values(content: bytes) -> dict[str, Any] | None:
    from samebits import params

    try:
        return dvc_lock.flat(params.read(content, PARAMETERS))
    except UserError:
        return None


def _is_same_code(before: bytes, path: Path) -> bool:
    """Tell whether a file is Python that differs from its content before in nothing but comments and layout."""
    try:
        return path.suffix == ".py" and ast.dump(ast.parse(before)) == ast.dump(ast.parse(content_of(path)))
    except (SyntaxError, ValueError):
        return False
