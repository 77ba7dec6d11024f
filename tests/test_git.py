"""What git knows, of real repositories: with nothing to know, damaged, refused, and under a user's settings."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from samebits.repository import git
from samebits.repository.git import GitError
from tests.conftest import IDENTITY

NOBODY = 65534
# Settings of a user's that would each change a patch, some so that it cannot be applied.
SETTINGS = {
    "diff.context": "0",
    "diff.noprefix": "true",
    "diff.mnemonicPrefix": "true",
    "diff.external": "true",
    "diff.algorithm": "patience",
    "diff.interHunkContext": "9",
    "diff.relative": "true",
    "diff.renames": "copies",
    "diff.submodule": "log",
    "diff.orderFile": "/nonexistent/order",
    "diff.suppressBlankEmpty": "true",
    "diff.indentHeuristic": "false",
    "core.quotePath": "false",
    "core.abbrev": "5",
    "color.ui": "always",
    "diff.upper.textconv": "tr a-z A-Z <",
}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (IDENTITY | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}).items():
        monkeypatch.setenv(name, value)


def run(folder: Path, *arguments: str, given: bytes | None = None) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, input=given)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    root = tmp_path / "clone"
    root.mkdir()
    run(root, "init", "--quiet", "--initial-branch=main")
    text = "".join(f"line {number}\n\n" for number in range(30))
    for name in ("a.txt", "ä.txt", "old.txt", "sub/b.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    (root / ".gitattributes").write_text("a.txt diff=upper\n")
    run(root, "add", "--all")
    run(root, "commit", "--quiet", "--message", "first")
    return root


def everything_known(root: Path) -> list[object]:
    head = git.commit(root)
    known = [head, git.experiment_names(root), git.commits_of(root, "a.txt"), git.tips(root)]
    return [
        *known,
        git.versions(root, "a.txt"),
        git.uncommitted(root),
        git.files(root),
        git.read(root, "HEAD", "a"),
    ]


@pytest.mark.parametrize("folder", [b"", b"sub/deeper/", b"caf\xe9/"], ids=["root", "folder", "not UTF-8"])
def test_versions_are_found_by_a_pattern_in_every_folder(clone: Path, folder: bytes) -> None:
    path = Path(os.fsdecode(folder), "x.dvc")
    (clone / path).parent.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        (clone / path).write_text(f"{number}")
        run(clone, "add", "--all")
        run(clone, "commit", "--quiet", "--message", "another")
    (clone / path).unlink()
    run(clone, "commit", "--quiet", "--all", "--message", "without")
    run(clone, "checkout", "--quiet", "-b", "side", "HEAD~2")
    (clone / path).write_text("side")
    run(clone, "commit", "--quiet", "--all", "--message", "side")
    run(clone, "checkout", "--quiet", "main")
    with suppress(subprocess.CalledProcessError):
        run(clone, "merge", "--quiet", "side")
    (clone / path).write_text("merged")
    run(clone, "add", "--all")
    run(clone, "commit", "--quiet", "--message", "merged")
    assert sorted(git.versions(clone, "a.dvc", "*.dvc")) == [b"0", b"1", b"merged", b"side"]


def test_without_a_repository_or_a_commit_there_is_nothing_to_know(tmp_path: Path) -> None:
    assert not any(everything_known(tmp_path))
    run(tmp_path, "init", "--quiet")
    assert not any(everything_known(tmp_path))


def damage_index(root: Path) -> None:
    (root / ".git/index").write_bytes(b"garbage")


def damage_head(root: Path) -> None:
    (root / ".git/HEAD").write_bytes(b"")


def damage_branch(root: Path) -> None:
    (root / ".git/refs/heads/main").write_bytes(b"")


def lose_commit(root: Path) -> None:
    head = git.commit(root)
    assert head
    (root / ".git/objects" / head[:2] / head[2:]).unlink()


def misconfigure(root: Path) -> None:
    run(root, "config", "diff.algorithm", "foo")


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (damage_index, "index file smaller than expected): move .git/index away and run `git reset`"),
        (damage_head, "not a git repository"),
        (damage_branch, "your current branch appears to be broken): fix that"),
        (lose_commit, "bad object HEAD): fix that"),
        (misconfigure, "bad config variable 'diff.algorithm' in file '.git/config' at line "),
    ],
)
def test_a_git_that_fails_is_no_clean_workspace(clone: Path, break_it, reason: str) -> None:
    before = git.commit(clone)
    assert before
    (clone / "a.txt").write_text("edited\n")
    break_it(clone)
    with pytest.raises(GitError) as raised:
        git.commit(clone)
        git.diff(clone, before)
    assert reason in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_said_of_a_damaged_index_mends_it(clone: Path) -> None:
    (clone / "a.txt").write_text("edited\n")
    damage_index(clone)
    (clone / ".git/index").rename(clone / ".git/index.damaged")
    run(clone, "reset")
    assert git.uncommitted(clone) == ["a.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a clone to another user")
def test_a_clone_of_another_user_is_refused_with_the_line_that_git_offers(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (clone, clone / ".git"):
        os.chown(path, NOBODY, NOBODY)
    for ask in (git.require_repository, git.commit, git.uncommitted, lambda root: git.read(root, "HEAD", "a.txt")):
        with pytest.raises(
            GitError, match=r"dubious ownership.*: if you trust its owner, run `git config --global --add safe"
        ):
            ask(clone)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    run(tmp_path, "config", "--global", "--add", "safe.directory", str(clone))
    assert git.require_repository(clone) == clone


def test_a_machine_without_git(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for ask in (git.commit, lambda root: git.read(root, "HEAD", "a.txt")):
        with pytest.raises(GitError, match=r"git cannot be run .*: install git"):
            ask(clone)


def test_no_setting_of_the_user_changes_a_patch(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = git.commit(clone)
    assert head
    for name in ("a.txt", "ä.txt", "sub/b.txt"):
        path = clone / name
        path.write_text(path.read_text().replace("line 7\n", "line seven\n").replace("line 12\n", ""))
    run(clone, "mv", "old.txt", "new.txt")
    plain = git.diff(clone, head)
    after = {path.name: path.read_bytes() for path in (*clone.glob("*.txt"), *clone.glob("sub/*"))}
    for number, (name, value) in enumerate(SETTINGS.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", name)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
        monkeypatch.setenv("GIT_CONFIG_COUNT", str(number + 1))
        assert git.diff(clone, head) == plain, name
    monkeypatch.setenv("GIT_DIFF_OPTS", "-u0")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "true")
    assert git.diff(clone, head) == plain
    run(clone, "reset", "--quiet", "--hard")
    run(clone, "apply", "--index", "-", given=plain)
    assert {path.name: path.read_bytes() for path in (*clone.glob("*.txt"), *clone.glob("sub/*"))} == after


def test_a_patch_is_taken_against_the_commit_that_is_named(clone: Path) -> None:
    first = git.commit(clone)
    assert first
    (clone / "a.txt").write_text("edited\n")
    patch = git.diff(clone, first)
    run(clone, "commit", "--quiet", "--all", "--message", "meanwhile")
    assert patch and git.diff(clone, first) == patch and git.diff(clone, "HEAD") == b""


def test_links_are_files_of_their_own_in_a_patch(clone: Path) -> None:
    links = clone / "links"
    links.mkdir()
    for name in ("moved", "replaced", "left"):
        (links / name).symlink_to("../a.txt")
    run(clone, "add", "--all")
    run(clone, "commit", "--quiet", "--message", "links")
    head = git.commit(clone)
    assert head and git.versions(clone, "links") == [b"../a.txt"]
    for name in ("moved", "replaced"):
        (links / name).unlink()
    (links / "moved").symlink_to("../sub/b.txt")
    (links / "replaced").write_text("a copy\n")
    (clone / "a.txt").write_text("edited behind a link\n")
    assert git.uncommitted(clone) == ["a.txt", "links/moved", "links/replaced"]
    assert git.present(clone, "links") == ["links/left", "links/moved", "links/replaced"]
    patch = git.diff(clone, head)
    run(clone, "reset", "--quiet", "--hard")
    run(clone, "apply", "--index", "-", given=patch)
    assert (links / "moved").readlink() == Path("../sub/b.txt") and (links / "left").readlink() == Path("../a.txt")
    assert not (links / "replaced").is_symlink() and (links / "replaced").read_text() == "a copy\n"
    assert (links / "left").read_text() == "edited behind a link\n" and git.diff(clone, head) == patch
