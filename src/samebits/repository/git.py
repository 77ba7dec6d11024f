"""What git knows of a workspace. Without git, or without a commit, there is nothing to know: no error."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Where commits are found: its own branches, others' that it has seen, tags.
_BRANCHES = ("--branches", "--tags", "--remotes")
_EXPERIMENTS = "--glob=refs/exps"
# Refs that DVC keeps beside its experiments for its own work.
_NO_EXPERIMENTS = ("exec", "apply", "stash", "celery")
# DVC writes these while it runs the pipeline: they are results, not what a result was made from.
_WRITTEN_BY_DVC = (":!dvc.lock", ":!metrics")


def top_folder(folder: Path) -> Path | None:
    """The root of the repository that `folder` lies in."""
    output = _git(folder, "rev-parse", "--show-toplevel").decode().strip()
    return Path(output) if output else None


def commit(workspace: Path, revision: str = "HEAD") -> str | None:
    """The full hash of a commit: the one that `workspace` stands on, or that `revision` names."""
    output = _git(workspace, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    return output.decode().strip() or None


def ref(workspace: Path, name: str) -> str | None:
    """The full name of the branch or tag that is called `name`; None if it names a commit in another way, or nothing."""
    output = _git(workspace, "rev-parse", "--verify", "--quiet", "--symbolic-full-name", name)
    return output.decode().strip() or None


def experiments(workspace: Path, name: str) -> list[str]:
    """The commits of the DVC experiments that are called `name`, on whatever commits they are based."""
    listed = _git(workspace, "for-each-ref", "--format=%(objectname) %(refname:lstrip=4)", "refs/exps").decode()
    return [line.split()[0] for line in listed.splitlines() if line.split()[1:] == [name]]


def experiment_names(workspace: Path) -> dict[str, str]:
    """The names of all DVC experiments, by their commits."""
    listed = _git(workspace, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").decode()
    names = {}
    for line in listed.splitlines():
        commit, _, name = line.partition(" ")
        parts = name.split("/")
        if len(parts) == 5 and parts[2] not in _NO_EXPERIMENTS:
            names[commit] = parts[4]
    return names


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
    """The paths of all files of a commit."""
    listed = _git(workspace, "ls-tree", "-r", "-z", "--name-only", "--full-tree", revision)
    return set(listed.decode(errors="replace").split("\0")) - {""}


@contextmanager
def reader(workspace: Path) -> "Iterator[Reader]":
    """Give a function that reads files of any revision by one process of git: much faster for many of them."""
    command = ["git", "cat-file", "--batch"]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, cwd=workspace, stdin=pipe, stdout=pipe, stderr=nowhere) as process:
        yield Reader(process)


class Reader:
    """Reads objects by whatever names git has for them, as in `main:params.yaml`. Not for several threads."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def __call__(self, name: str) -> bytes | None:
        """Give the content of a file; None where there is none."""
        to_git, from_git = self._process.stdin, self._process.stdout
        assert to_git is not None and from_git is not None
        to_git.write(name.encode() + b"\n")
        to_git.flush()
        words = from_git.readline().split()  # hash, type, size; or the name, and that it is missing
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
    listed = _git(workspace, "status", "--porcelain", "--no-renames", "-z").decode(errors="replace")
    return [entry[3:] for entry in listed.split("\0") if entry]


def diff(workspace: Path, before: str = "HEAD", after: str | None = None) -> bytes:
    """How the tracked files of `workspace`, or those of the commit `after`, differ from `before`, as a patch for `git apply`.

    Leaves out untracked files, and dvc.lock and metrics/, which the run itself writes.
    """
    # The user's own settings (pager colours, external viewers, prefixes) must not change the patch.
    plain = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
    return _git(workspace, "diff", *plain, before, *([after] if after else []), "--", ".", *_WRITTEN_BY_DVC)


def _heads(workspace: Path) -> list[str]:
    return [*_BRANCHES, *(["HEAD"] if commit(workspace) else [])]


def _git(workspace: Path, *arguments: str) -> bytes:
    # No optional locks: a training that starts must not make a `git commit` beside it fail.
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=workspace, capture_output=True, stdin=subprocess.DEVNULL)
    except OSError:
        return b""
    return done.stdout if done.returncode == 0 else b""


def read(workspace: Path, revision: str, path: str) -> bytes:
    """The content of the file `path` of `revision`; empty where there is none."""
    return _git(workspace, "show", f"{revision}:./{path}")
