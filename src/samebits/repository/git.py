"""What git knows of a workspace. Without a repository, or without a commit, there is nothing to know: no error.

A git that is not installed, refuses or fails is no answer: every function then raises GitError.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from samebits.errors import UserError

# Where commits are found: its own branches, others' that it has seen, tags.
_BRANCHES = ("--branches", "--tags", "--remotes")
_EXPERIMENTS = "--glob=refs/exps"
# Refs that DVC keeps beside its experiments for its own work.
_NO_EXPERIMENTS = ("exec", "apply", "stash", "celery")
# DVC writes these while it runs the pipeline: they are results, not what a result was made from.
_WRITTEN_BY_DVC = (":!dvc.lock", ":!metrics")
# Settings of the user's that would change a patch, and have no option of `git diff`.
_PLAIN_SETTINGS = ("-c", "core.quotePath=true", "-c", "diff.suppressBlankEmpty=false")
# The options for all others: colours, external viewers, prefixes, context and so on.
_PLAIN_DIFF = (
    *("--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative", "--no-renames"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "-O/dev/null", "--ita-invisible-in-index"),
    *("--diff-algorithm=myers", "--indent-heuristic", "--unified=3", "--inter-hunk-context=0"),
)


class GitError(UserError):
    """Git is not there, refuses or fails. Its text is one line: git's own reason, and what to do."""


def top_folder(folder: Path) -> Path | None:
    """The root of the repository that `folder` lies in."""
    output = _git(folder, "rev-parse", "--show-toplevel").decode().strip()
    return Path(output) if output else None


def commit(workspace: Path, revision: str = "HEAD") -> str | None:
    """The full hash of a commit: the one that `workspace` stands on, or that `revision` names."""
    output = _git(workspace, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if not output and revision == "HEAD":
        _git(workspace, "log", "-1", "--format=")  # tells a branch without a commit from a damaged one
    return output.decode().strip() or None


def ref(workspace: Path, name: str) -> str | None:
    """The full name of the branch or tag that is called `name`; None if it names a commit in another way, or nothing."""
    output = _git(workspace, "rev-parse", "--verify", "--quiet", "--symbolic-full-name", name)
    return output.decode().strip() or None


def references(workspace: Path, *prefixes: str) -> dict[str, str]:
    """The commits, or tags with a message, of all references below `prefixes`, by their full names."""
    listed = _git(workspace, "for-each-ref", "--format=%(refname) %(objectname)", *prefixes).decode()
    return dict(line.rsplit(" ", 1) for line in listed.splitlines())


def experiments(workspace: Path, name: str) -> list[str]:
    """The commits of the DVC experiments that are called `name`, on whatever commits they are based."""
    return [commit for ref, commit in references(workspace, "refs/exps").items() if ref.split("/", 4)[4:] == [name]]


def remove_experiment(workspace: Path, name: str, commit: str) -> None:
    """Remove the DVC experiment that is called `name` and is this commit."""
    for ref, found in references(workspace, "refs/exps").items():
        if found == commit and ref.split("/", 4)[4:] == [name]:
            _git(workspace, "update-ref", "-d", ref, commit)


def experiment_names(workspace: Path) -> dict[str, str]:
    """The names of all DVC experiments, by their commits."""
    names = {}
    for ref, commit in references(workspace, "refs/exps").items():
        parts = ref.split("/")
        if len(parts) == 5 and parts[2] not in _NO_EXPERIMENTS:
            names[commit] = parts[4]
    return names


def commits_by_subject(workspace: Path) -> dict[str, str]:
    """All commits that are there, also those that nothing leads to any more, by the first lines of their messages."""
    listed = _git(workspace, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectname)")
    commits = b"".join(line[len("commit ") :] + b"\n" for line in listed.splitlines() if line.startswith(b"commit "))
    shown = _git(workspace, "log", "--no-walk=unsorted", "--stdin", "--format=%H %s", given=commits) if commits else b""
    lines = (line.partition(" ") for line in shown.decode(errors="replace").splitlines())
    return {subject: commit for commit, _, subject in lines}


def described(workspace: Path, commit: str) -> str:
    """Who made a commit, when, and its subject."""
    shown = ("--no-show-signature", "--no-patch", "--format=%an <%ae>, %as: %s")
    return _git(workspace, "show", *shown, commit).decode(errors="replace").strip()


def reached_by(workspace: Path, commit: str) -> list[str]:
    """The names of the branches and tags of this repository itself that hold a commit."""
    listed = _git(
        workspace, "for-each-ref", "--contains", commit, "--format=%(refname:short)", "refs/heads", "refs/tags"
    )
    return listed.decode().split()


def commits_of(workspace: Path, *paths: str) -> list[str]:
    """All commits that changed one of `paths`, on every branch and before every tag, the oldest first."""
    options = ("--full-history", "--topo-order", "--reverse")
    return _git(workspace, "rev-list", *options, *_heads(workspace), "--", *paths).decode().split()


def versions(workspace: Path, *paths: str) -> list[bytes]:
    """The different contents that files of these paths have in any commit of any branch, tag or experiment."""
    roots = (*_heads(workspace), _EXPERIMENTS)
    listed = _git(workspace, "rev-list", "--objects", "--full-history", *roots, "--", *paths).decode()
    named = dict(line.split(" ", 1) for line in listed.splitlines() if " " in line)
    with reader(workspace) as read_object:
        contents = (read_object(name) for name in named)
        return [content for content in contents if content is not None]


def present(workspace: Path, *paths: str) -> list[str]:
    """The files of these paths that are there now, committed or not; without those that git ignores."""
    options = ("--cached", "--others", "--exclude-standard", "-z")
    listed = _git(workspace, "ls-files", *options, "--", *paths).decode(errors="replace").split("\0")
    return [path for path in dict.fromkeys(listed) if path and (workspace / path).is_file()]


def parent(workspace: Path, revision: str) -> str | None:
    """The full hash of a commit's first parent."""
    return commit(workspace, f"{revision}^")


def files(workspace: Path, revision: str) -> set[str]:
    """The paths of all files of a commit; none if there is no such commit."""
    if commit(workspace, revision) is None:
        return set()
    listed = _git(workspace, "ls-tree", "-r", "-z", "--name-only", "--full-tree", revision)
    return set(listed.decode(errors="replace").split("\0")) - {""}


@contextmanager
def reader(workspace: Path) -> "Iterator[Reader]":
    """Yield a function that reads files of any revision by one process of git: much faster for many of them."""
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as errors, _running(workspace):
        command = _command("cat-file", "--batch")
        with subprocess.Popen(
            command, cwd=workspace, env=_environment(), stdin=pipe, stdout=pipe, stderr=errors
        ) as process:
            yield Reader(workspace, process, errors)


class Reader:
    """Reads objects by whatever names git has for them, as in `main:params.yaml`. Not for several threads."""

    def __init__(self, workspace: Path, process: "subprocess.Popen[bytes]", errors: BinaryIO) -> None:
        self._workspace = workspace
        self._process = process
        self._errors = errors

    def __call__(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        to_git, from_git = self._process.stdin, self._process.stdout
        assert to_git is not None and from_git is not None
        with suppress(BrokenPipeError):
            os.write(to_git.fileno(), name.encode() + b"\n")
        answer = from_git.readline()
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            _require_nothing_to_know(self._workspace, self._errors.read())
            return None
        words = answer.split()  # hash, type, size; or the name, and that it is missing
        if len(words) != 3 or not words[2].isdigit():
            return None
        content = from_git.read(int(words[2]))
        from_git.read(1)  # a line feed after it
        return content if words[1] == b"blob" else None


def tips(workspace: Path) -> dict[str, str]:
    """The names of all branches and tags by commit; a branch before a tag."""
    # A tag with a message is an object of its own, and the commit stands behind it.
    shown = "--format=%(objectname) %(*objectname) %(refname:short)"
    listed = _git(workspace, "for-each-ref", "--sort=-refname", shown, "refs/tags", "refs/heads").decode()
    return {peeled or own: name for own, peeled, name in (line.split(" ", 2) for line in listed.splitlines())}


def uncommitted(workspace: Path) -> list[str]:
    """The files that no commit holds as they are in `workspace`, also untracked ones."""
    listed = _git(workspace, "status", "--porcelain", "--untracked-files=normal", "--no-renames", "-z").decode(
        errors="replace"
    )
    return [entry[3:] for entry in listed.split("\0") if entry]


def diff(workspace: Path, before: str, after: str | None = None) -> bytes:
    """How the tracked files of `workspace`, or those of the commit `after`, differ from `before`, as a patch for `git apply`.

    Leaves out untracked files, and dvc.lock and metrics/, which the run itself writes. The user's settings change nothing.
    """
    commits = [before, *([after] if after else [])]
    return _git(workspace, *_PLAIN_SETTINGS, "diff", *_PLAIN_DIFF, *commits, "--", ".", *_WRITTEN_BY_DVC)


def read(workspace: Path, revision: str, path: str) -> bytes:
    """The content of the file `path` of `revision`; empty if there is none."""
    with reader(workspace) as read_object:
        return read_object(f"{revision}:./{path}") or b""


def _heads(workspace: Path) -> list[str]:
    return [*_BRANCHES, *(["HEAD"] if commit(workspace) else [])]


def _git(workspace: Path, *arguments: str, given: bytes = b"") -> bytes:
    with _running(workspace):
        done = subprocess.run(_command(*arguments), cwd=workspace, env=_environment(), capture_output=True, input=given)
    if done.returncode == 0:
        return done.stdout
    if done.stderr:  # else it has only found nothing
        _require_nothing_to_know(workspace, done.stderr)
    return b""


def _command(*arguments: str) -> list[str]:
    # No optional locks: a training that starts must not make a `git commit` beside it fail.
    return ["git", "--no-optional-locks", *arguments]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "GIT_DIFF_OPTS"}  # it wins over options
    return kept | {"LC_ALL": "C"}  # reasons are told apart by their English words


@contextmanager
def _running(workspace: Path) -> Iterator[None]:
    """Turn a git that cannot be started into a GitError."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if error.filename not in ("git", str(workspace), workspace):
            raise
        reason = (
            "install git, or set PATH to where it is" if error.filename == "git" else "go to a folder that is there"
        )
        raise GitError(f"git cannot be run ({error.strerror}: {error.filename}): {reason}") from None


def _require_nothing_to_know(workspace: Path, stderr: bytes) -> None:
    """Raise GitError, unless git failed for want of a repository or of a first commit."""
    lines = stderr.decode(errors="replace").splitlines()
    reason = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[0] if lines else "")
    folders = [workspace.absolute(), *workspace.absolute().parents]
    if "not a git repository" in reason.lower() and not any((folder / ".git").exists() for folder in folders):
        return
    if "does not have any commits yet" in reason:
        return
    offered = next((line.strip() for line in lines if line.strip().startswith("git config ")), None)
    if offered:
        remedy = f"if you trust its owner, run `{offered}`"
    elif "index" in reason:
        remedy = "move .git/index away and run `git reset`, which changes no file"
    else:
        remedy = "mend that; `git status` and `git fsck` say more"
    raise GitError(f"git fails in {workspace} ({reason.partition(': ')[2] or reason or 'without a reason'}): {remedy}")
