"""What git knows of a workspace: nothing without a repository or a commit, GitError if git is missing or fails."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from samebits.errors import UserError
from samebits.paths import LOCK

# No optional locks: a training that starts must not make a `git commit` beside it fail.
_GIT = ("git", "--no-optional-locks")
_BRANCHES = ("--branches", "--tags", "--remotes")  # with other people's branches that were fetched
_EXPERIMENTS = "refs/exps"
# DVC writes these while it runs the pipeline: they are results, not what a result was made from.
_WRITTEN_BY_DVC = (f":!{LOCK}", ":!metrics")
# Against settings of the user that would change a patch: those without an option of `git diff`, and the others.
_PLAIN_SETTINGS = ("-c", "core.quotePath=true", "-c", "diff.suppressBlankEmpty=false")
_PLAIN_DIFF = (
    *("--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative", "--no-renames"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "-O/dev/null", "--ita-invisible-in-index"),
    *("--diff-algorithm=myers", "--indent-heuristic", "--unified=3", "--inter-hunk-context=0"),
)

WHO_YOU_ARE = 'run `git config user.name "Your Name"` and `git config user.email you@example.org`'


class GitError(UserError):
    """Git is missing, refuses or fails. Its text is one line: git's own reason, and what to do."""


@dataclass(frozen=True)
class Origin:
    """Where the code and the parameters of a result come from: a commit, or none, and how the files differed from it."""

    commit: str | None
    patch: bytes
    experiment: str | None
    files: dict[str, bytes] = field(default_factory=dict)  # params.yaml and dvc.yaml
    is_dirty: bool = False  # the commit alone would not give this result: also true if the patch was not kept


def require_repository(folder: Path) -> Path:
    """Return the root of the repository that `folder` is in. Raises UserError if it is in none."""
    if not (root := _text(folder, "rev-parse", "--show-toplevel")):
        raise UserError(f"{folder} is in no git repository: run this in a clone of samebits, made by `git clone`")
    return Path(root)


def has_identity(workspace: Path) -> bool:
    """Tell whether git knows who commits here, from the environment or its configuration; DVC's experiments need that."""
    variables = (f"GIT_{role}_{what}" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL"))
    if all(os.environ.get(name) for name in variables):
        return True
    configured = _names(workspace, "config", "-z", "--name-only", "--get-regexp", r"^user\.(name|email)$")
    return len(set(configured)) == 2


def has_remote(workspace: Path, name: str) -> bool:
    """Tell whether git knows another repository by this name."""
    return name in _text(workspace, "remote").split()


def commit(workspace: Path, revision: str = "HEAD") -> str | None:
    """Return the full hash of the commit that `revision` names, by default of the one that is checked out."""
    found = _text(workspace, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if not found and revision == "HEAD":
        _git(workspace, "log", "-1", "--format=")  # tells a branch without a commit from a damaged one
    return found or None


def ref(workspace: Path, name: str) -> str | None:
    """Return the full name of the branch or tag called `name`; None if it names a commit in another way, or nothing."""
    return _text(workspace, "rev-parse", "--verify", "--quiet", "--symbolic-full-name", name) or None


def references(workspace: Path, *patterns: str) -> dict[str, str]:
    """Return the commits, or annotated tags, of all references that git finds by `patterns`, by their full names."""
    listed = _text(workspace, "for-each-ref", "--format=%(refname) %(objectname)", *patterns)
    return dict(line.rsplit(" ", 1) for line in listed.splitlines())


def tips(workspace: Path) -> dict[str, str]:
    """Return the names of all branches and tags by commit; a branch rather than a tag."""
    # An annotated tag is an object of its own, which leads to the commit.
    shown = "--format=%(objectname) %(*objectname) %(refname:short)"
    listed = _text(workspace, "for-each-ref", "--sort=-refname", shown, "refs/tags", "refs/heads")
    return {peeled or own: name for own, peeled, name in (line.split(" ", 2) for line in listed.splitlines())}


def experiment_names(workspace: Path) -> dict[str, str]:
    """Return the names of all DVC experiments by commit."""
    return {commit: name for _, commit, name in _experiments(workspace)}


def trees(workspace: Path, revision: str, *paths: str) -> dict[str, str]:
    """Return the hashes of the contents that files and folders have in a commit, by path; without those that it lacks."""
    listed = _names(workspace, "ls-tree", "-z", "--full-tree", revision, "--", *paths)
    return {path: entry.split()[2] for entry, _, path in (line.partition("\t") for line in listed)}


def experiments(workspace: Path, name: str) -> list[str]:
    """Return the commits of the DVC experiments called `name`, whatever commits they are based on."""
    return [commit for _, commit, found in _experiments(workspace) if found == name]


def remove_experiment(workspace: Path, name: str, commit: str) -> None:
    """Remove the DVC experiment that is called `name` and is this commit."""
    for reference, *found in _experiments(workspace):
        if found == [commit, name]:
            _git(workspace, "update-ref", "-d", reference, commit)


def _experiments(workspace: Path) -> list[tuple[str, str, str]]:
    """Return reference (refs/exps/ab/cdef.../name), commit and name of each experiment."""
    # DVC keeps more below refs/exps for its own work, but nothing that lies as deep in a folder of two letters.
    found = references(workspace, f"{_EXPERIMENTS}/??/*/*")
    return [(reference, commit, reference.rpartition("/")[2]) for reference, commit in found.items()]


def commits_by_subject(workspace: Path) -> dict[str, str]:
    """Return all commits, also unreachable ones, by the first lines of their messages."""
    listed = _git(workspace, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectname)")
    commits = b"".join(line.removeprefix(b"commit ") for line in listed.splitlines(True) if line.startswith(b"commit"))
    shown = _git(workspace, "log", "--no-walk=unsorted", "--stdin", "--format=%H %s", given=commits) if commits else b""
    lines = (line.partition(" ") for line in shown.decode(errors="replace").splitlines())
    return {subject: commit for commit, _, subject in lines}


def described(workspace: Path, commit: str) -> str:
    """Return who made a commit, when, and its subject."""
    return _text(workspace, "show", "--no-show-signature", "--no-patch", "--format=%an <%ae>, %as: %s", commit)


def reached_by(workspace: Path, commit: str) -> list[str]:
    """Return the names of this repository's own branches and tags that contain a commit."""
    shown = ("--format=%(refname:short)", "refs/heads", "refs/tags")
    return _text(workspace, "for-each-ref", "--contains", commit, *shown).split()


def commits_of(workspace: Path, *paths: str) -> list[str]:
    """Return all commits on any branch or tag that changed one of `paths`, the oldest first."""
    options = ("--full-history", "--topo-order", "--reverse")
    return _text(workspace, "rev-list", *options, *_heads(workspace), "--", *paths).split()


def versions(workspace: Path, *paths: str, published: bool = False) -> list[bytes]:
    """Return the different contents that files of these paths have in any commit of any branch, tag or experiment.

    If `published`, only in commits on the branches of git's remotes, as they were fetched or pushed last.
    """
    roots = ("--remotes",) if published else (*_heads(workspace), f"--glob={_EXPERIMENTS}")
    commits = _git(workspace, "rev-list", "--full-history", *roots, "--", *paths)
    # Not `rev-list --objects`, which finds nothing in folders by a pattern such as *.dvc.
    options = ("--stdin", "-r", "-m", "--root", "--no-commit-id")
    changes = _git(workspace, "diff-tree", *options, "--", *paths, given=commits).decode(errors="replace")
    names = dict.fromkeys(line.split()[3] for line in changes.splitlines())
    with reader(workspace) as read_object:
        return [content for name in names if (content := read_object(name)) is not None]


def files(workspace: Path) -> set[str]:
    """Return the paths of all files of the checked-out commit."""
    if commit(workspace) is None:
        return set()
    return set(_names(workspace, "ls-tree", "-r", "-z", "--name-only", "--full-tree", "HEAD"))


def present(workspace: Path, *paths: str) -> list[str]:
    """Return the files of these paths in the workspace, committed or not; without those that git ignores."""
    listed = _names(workspace, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *paths)
    return [path for path in dict.fromkeys(listed) if (workspace / path).is_file()]


def uncommitted(workspace: Path, untracked: tuple[str, ...] = ("",)) -> list[str]:
    """Return the files that differ from the checked-out commit, also untracked ones whose path begins with one of `untracked`."""
    options = ("--porcelain", "--untracked-files=normal", "--no-renames", "-z")
    entries = [(entry[:2], entry[3:]) for entry in _names(workspace, "status", *options)]
    return [path for state, path in entries if state != "??" or path.startswith(untracked)]


def changed(workspace: Path, before: str) -> list[str]:
    """Return the tracked files that differ from those of a commit; without dvc.lock and metrics/, which runs write."""
    return _names(workspace, "diff", "--name-only", "-z", "--no-renames", before, "--", ".", *_WRITTEN_BY_DVC)


def diff(workspace: Path, before: str, after: str | None = None) -> bytes:
    """Return how the tracked files of `workspace`, or of the commit `after`, differ from `before`: a patch for `git apply`.

    Leaves out untracked files, and dvc.lock and metrics/, which the run itself writes. No setting of the user changes it.
    """
    commits = [before, *([after] if after else [])]
    return _git(workspace, *_PLAIN_SETTINGS, "diff", *_PLAIN_DIFF, *commits, "--", ".", *_WRITTEN_BY_DVC)


def read(workspace: Path, revision: str, path: str) -> bytes:
    """Return the content of the file `path` of `revision`; empty if there is none."""
    with reader(workspace) as read_object:
        return read_object(f"{revision}:./{path}") or b""


@contextmanager
def reader(workspace: Path) -> Iterator[Callable[[str], bytes | None]]:
    """Yield a function that returns a file's content by any name that git has for it, such as `main:params.yaml`, or None.

    One process of git answers all calls: much faster for many of them. Not for several threads.
    """
    with tempfile.TemporaryFile() as errors, _start(workspace, "cat-file", "--batch", stderr=errors) as process:
        to_git, from_git = process.stdin, process.stdout
        assert to_git is not None and from_git is not None

        def read_object(name: str) -> bytes | None:
            with suppress(BrokenPipeError):
                os.write(to_git.fileno(), name.encode() + b"\n")
            answer = from_git.readline()
            if not answer:
                process.wait()
                errors.seek(0)
                _require_nothing_to_know(workspace, errors.read())
                return None
            words = answer.split()  # hash, type, size; or the name, and that it is missing
            if len(words) != 3 or not words[2].isdigit():
                return None
            content = from_git.read(int(words[2]))
            from_git.read(1)  # a line feed after it
            return content if words[1] == b"blob" else None

        yield read_object


def _heads(workspace: Path) -> list[str]:
    return [*_BRANCHES, *(["HEAD"] if commit(workspace) else [])]


def _text(workspace: Path, *arguments: str) -> str:
    return _git(workspace, *arguments).decode(errors="replace").strip()


def _names(workspace: Path, *arguments: str) -> list[str]:
    """Return the entries of a list that ends each with a zero byte."""
    return [name for name in _git(workspace, *arguments).decode(errors="replace").split("\0") if name]


def _git(workspace: Path, *arguments: str, given: bytes = b"") -> bytes:
    with _start(workspace, *arguments, stderr=subprocess.PIPE) as process:
        output, errors = process.communicate(given)
    if process.returncode == 0:
        return output
    if errors:  # else it has only found nothing
        _require_nothing_to_know(workspace, errors)
    return b""


def _start(workspace: Path, *arguments: str, stderr: int | IO[bytes]) -> "subprocess.Popen[bytes]":
    # GIT_DIFF_OPTS wins over options; reasons are told apart by their English words.
    environment = {name: value for name, value in os.environ.items() if name != "GIT_DIFF_OPTS"} | {"LC_ALL": "C"}
    pipe, command = subprocess.PIPE, [*_GIT, *arguments]
    try:
        return subprocess.Popen(command, cwd=workspace, env=environment, stdin=pipe, stdout=pipe, stderr=stderr)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        remedy = "install git, or add it to PATH" if error.filename == "git" else "go to a folder that exists"
        raise GitError(f"git cannot be run ({error.strerror}: {error.filename}): {remedy}") from None


def _require_nothing_to_know(workspace: Path, stderr: bytes) -> None:
    """Raise GitError, unless git failed because there is no repository or no commit yet."""
    lines = stderr.decode(errors="replace").splitlines()
    reason = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[0] if lines else "")
    folders = [workspace.absolute(), *workspace.absolute().parents]
    is_none = "not a git repository" in reason.lower() and not any((folder / ".git").exists() for folder in folders)
    if is_none or "does not have any commits yet" in reason:
        return
    offered = next((line.strip() for line in lines if line.strip().startswith("git config ")), None)
    if offered:
        remedy = f"if you trust its owner, run `{offered}`"
    elif "index" in reason:
        remedy = "move .git/index away and run `git reset`, which changes no file"
    else:
        remedy = "fix that; `git status` and `git fsck` say more"
    raise GitError(f"git fails in {workspace} ({reason.partition(': ')[2] or reason or 'without a reason'}): {remedy}")
