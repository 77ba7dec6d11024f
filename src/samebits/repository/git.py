"""What git knows of a workspace. Without git, or without a commit, there is nothing to know: no error."""

import subprocess
from pathlib import Path

# DVC writes these while it runs the pipeline: they are results, not what a result was made from.
_WRITTEN_BY_DVC = (":!dvc.lock", ":!metrics")


def commit(workspace: Path) -> str | None:
    """The full hash of the commit that `workspace` stands on."""
    output = _git(workspace, "rev-parse", "--verify", "--quiet", "HEAD")
    return output.decode().strip() or None


def diff(workspace: Path) -> bytes:
    """How the tracked files of `workspace` differ from its commit, as a patch for `git apply`.

    Leaves out untracked files, and dvc.lock and metrics/, which the run itself writes.
    """
    # The user's own settings (pager colours, external viewers, prefixes) must not change the patch.
    plain = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
    return _git(workspace, "diff", *plain, "HEAD", "--", ".", *_WRITTEN_BY_DVC)


def is_dirty(workspace: Path) -> bool:
    """Whether tracked code or parameters differ from the commit; see `diff` for what is left out."""
    return bool(diff(workspace))


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
