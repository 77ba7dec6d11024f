"""Is everything that dvc.lock names in the default remote? `python -m samebits.gate.remote_check` fetches nothing to tell."""

from pathlib import Path

from samebits.errors import UserError, as_one_line
from samebits.repository import cache as caches
from samebits.repository import dvc_lock, git
from samebits.repository.remote import open_remote


def require_shared(root: Path) -> int:
    """Return the number of outputs of dvc.lock in `root` that the default remote holds.

    Raises UserError where it lacks one, or holds one of another size, or cannot be asked. What git holds needs no remote.
    """
    path = root / "dvc.lock"
    if not path.is_file():
        raise UserError(f"{root} has no dvc.lock: run `dvc repro`")
    in_git = git.files(root, "HEAD")
    outputs = [output for output in dvc_lock.read(path.read_bytes(), "dvc.lock").outputs if output.path not in in_git]
    with open_remote(root, None, caches.settings(root)) as remote:
        there = remote.object_sizes([output.md5 for output in outputs])
        missing = [output.path for output in outputs if output.md5 not in there]
        files = [output for output in outputs if not output.md5.endswith(".dir")]
        partial = [output.path for output in files if there.get(output.md5, output.size) != output.size]
        if missing or partial:
            what = "; ".join(
                f"{how} {', '.join(paths)}"
                for how, paths in (("lacks", missing), ("holds only a part of", partial))
                if paths
            )
            raise UserError(f"the remote {remote} {what}: run `samebits share` where the result was made")
        print(f"{remote}: all {len(outputs)} outputs of dvc.lock are there")
    return len(outputs)


if __name__ == "__main__":
    with as_one_line():
        require_shared(Path.cwd())
