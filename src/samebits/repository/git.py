"""What git knows of a workspace. Without git, or without a commit, there is nothing to know: no error."""

import subprocess
from pathlib import Path

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


def experiments(workspace: Path, name: str) -> list[str]:
    """The commits of the DVC experiments that are called `name`, on whatever commits they are based."""
    listed = _git(workspace, "for-each-ref", "--format=%(objectname) %(refname:lstrip=4)", "refs/exps").decode()
    return [line.split()[0] for line in listed.splitlines() if line.split()[1:] == [name]]


def named_experiments(workspace: Path) -> dict[str, str]:
    """The names of all DVC experiments by commit, on whatever commits they are based."""
    listed = _git(workspace, "for-each-ref", "--format=%(objectname) %(refname:lstrip=4)", "refs/exps").decode()
    return {commit: name for commit, _, name in (line.partition(" ") for line in listed.splitlines()) if name}


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


def diff(workspace: Path) -> bytes:
    """How the tracked files of `workspace` differ from its commit, as a patch for `git apply`.

    Leaves out untracked files, and dvc.lock and metrics/, which the run itself writes.
    """
    # The user's own settings (pager colours, external viewers, prefixes) must not change the patch.
    plain = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
    return _git(workspace, "diff", *plain, "HEAD", "--", ".", *_WRITTEN_BY_DVC)


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
