"""Is everything that dvc.lock names in the default remote? `python -m samebits.gate.remote_check` tells without fetching it."""

from pathlib import Path

from samebits.errors import UserError, as_one_line
from samebits.paths import LOCK
from samebits.repository import cache as caches
from samebits.repository import dvc_lock, git
from samebits.repository.remote import open_remote


def require_shared(root: Path) -> None:
    """Raise UserError unless the default remote holds, in full size, each output of dvc.lock that git does not."""
    recorded = dvc_lock.of_workspace(root).outputs
    if not recorded:
        raise UserError(f"{root} has no {LOCK}: run `dvc repro`")
    in_git = git.files(root, "HEAD")
    outputs = [output for output in recorded if output.path not in in_git]
    with open_remote(root, None, caches.settings(root)) as remote:
        there = remote.sizes([output.md5 for output in outputs])
        files = [output for output in outputs if not output.md5.endswith(".dir")]
        wrong = {
            "lacks": [output.path for output in outputs if output.md5 not in there],
            "holds only a part of": [each.path for each in files if there.get(each.md5, each.size) != each.size],
        }
        if any(wrong.values()):
            what = "; ".join(f"{how} {', '.join(paths)}" for how, paths in wrong.items() if paths)
            raise UserError(f"the remote {remote} {what}: run `samebits share` where the result was made")
        print(f"{remote}: all {len(outputs)} outputs of {LOCK} are there")


if __name__ == "__main__":
    with as_one_line():
        require_shared(Path.cwd())
