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
    in_git = git.files(root)
    outputs = [output for output in recorded if output.path not in in_git]
    with open_remote(root) as remote:
        there = remote.sizes([output.md5 for output in outputs])
        wrong: dict[str, list[str]] = {"lacks": [], "holds only a part of": []}
        for output in outputs:
            files, sizes = {output.path: output.md5}, there
            if output.md5.endswith(".dir") and output.md5 in there:
                listed = caches.members(remote.read_object(output.md5) or b"[]")
                files = {f"{output.path}/{name}": md5 for name, md5 in listed.items()}
                sizes = remote.sizes(files.values())
            if lacked := [path for path, md5 in files.items() if md5 not in sizes]:
                wrong["lacks"] += lacked
            elif sum(sizes[md5] for md5 in files.values()) != output.size:
                wrong["holds only a part of"].append(output.path)
        if any(wrong.values()):
            what = "; ".join(f"{how} {', '.join(paths)}" for how, paths in wrong.items() if paths)
            raise UserError(f"the remote {remote} {what}: run `samebits share` where the result was made")
        print(f"{remote}: all {len(outputs)} outputs of {LOCK} are there")


if __name__ == "__main__":
    with as_one_line():
        require_shared(Path.cwd())
