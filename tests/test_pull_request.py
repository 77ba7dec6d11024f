"""The workflows for pull requests: their steps as plain commands, in a bare clone as a runner has it."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import remotes
from tests.conftest import PROJECT, Repository, built_once, copy_tree
from tests.remotes import Remote, clone

WORKFLOW = PROJECT / ".github/workflows/pull-request.yml"
COMPARISON = PROJECT / ".github/workflows/comparison.yml"
SHELL = ("bash", "-e", "-o", "pipefail", "-c")  # as GitHub runs a step


def steps() -> dict[str, str]:
    """Return the commands of the steps by their names; those that set up the runner are GitHub's own."""
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    commands = {step["name"]: step["run"] for step in job["steps"] if "run" in step}
    assert next(iter(commands)) == "install"
    return {name: command for name, command in commands.items() if name != "install"}


def check(repository: Repository, base: str, only: str = "") -> dict[str, "subprocess.CompletedProcess[str]"]:
    """Run every step as GitHub does, or `only` those whose names begin so; give how each ended."""
    summary = repository.root.parent / "summary.md"
    summary.unlink(missing_ok=True)
    environment = {"BASE": base, "GITHUB_STEP_SUMMARY": str(summary)}
    chosen = {name: command for name, command in steps().items() if name.startswith(only)}
    return {name: repository.run(*SHELL, command, ok=False, **environment) for name, command in chosen.items()}


@pytest.fixture(scope="session")
def shared_template(quick_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pull request that takes an experiment over, with all of it in the remote: the folder team beside it."""

    def build(root: Path) -> None:
        copy_tree(quick_template, root)
        (root.parent / "team").mkdir()
        author = Repository(root)
        author.run("dvc", "remote", "add", "--default", "team", "../team")  # by this path copies have their own
        author.run("dvc", "remote", "modify", "team", "verify", "true")
        author.commit("a remote")
        author.run("dvc", "exp", "apply", "other")
        author.run("git", "checkout", "HEAD", "--", ".dvc/config")  # the experiment knew of no remote
        author.commit("another seed")
        author.run("samebits", "share")

    return built_once(tmp_path_factory, "shared", build)


@pytest.fixture
def shared(shared_template: Path, tmp_path: Path) -> tuple[Repository, Remote]:
    for name in ("samebits", "team"):
        copy_tree(shared_template.parent / name, tmp_path / name)
    return Repository(tmp_path / "samebits"), remotes.folder(tmp_path / "team")


def failing(results: dict[str, "subprocess.CompletedProcess[str]"]) -> list[str]:
    return [name for name, done in results.items() if done.returncode != 0]


def test_a_result_that_is_whole_and_shared_is_green(shared: tuple[Repository, Remote], tmp_path: Path) -> None:
    author, _ = shared
    runner = clone(author, "runner")
    results = check(runner, "HEAD~1")
    assert failing(results) == [], [done.stderr for done in results.values()]
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("### Metrics, compared with HEAD~1\n| Path ") and "| metrics.json | " in summary
    assert not (runner.root / "out.bin").exists()


def edit_params(repository: Repository) -> None:
    repository.edit(lambda values: values.update(seed=5))


def edit_code(repository: Repository) -> None:
    work = repository.root / "work.py"
    work.write_text(work.read_text() + "# changed\n")


def edit_metrics(repository: Repository) -> None:
    (repository.root / "metrics.json").write_text('{"score": 1000000}')


def made_from_other_data(repository: Repository) -> None:
    lock = repository.root / "dvc.lock"
    values = yaml.safe_load(lock.read_text())
    for dependency in values["stages"]["work"]["deps"]:
        if dependency["path"] == "data.bin":
            dependency["md5"] = "0" * 32
    lock.write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.mark.parametrize("change", [edit_params, edit_code, edit_metrics, made_from_other_data])
def test_a_stale_lock_is_red(shared: tuple[Repository, Remote], change: Callable[[Repository], None]) -> None:
    author, _ = shared
    change(author)
    author.commit("a change without its result")
    runner = clone(author, "runner")
    results = check(runner, "HEAD~1", only="dvc.lock is the result")
    (first,) = failing(results)
    assert "dvc.lock is not the result of this code and params.yaml" in results[first].stderr


@pytest.mark.parametrize("how", ["missing", "partial", "no remote"])
def test_what_is_not_in_the_remote_is_red(shared: tuple[Repository, Remote], tmp_path: Path, how: str) -> None:
    author, remote = shared
    outputs = yaml.safe_load((author.root / "dvc.lock").read_text())["stages"]["work"]["outs"]
    path = tmp_path / "team/files/md5" / outputs[0]["md5"][:2] / outputs[0]["md5"][2:]
    match how:
        case "missing":
            path.unlink()
        case "partial":
            remote.damage(outputs[0]["md5"])
        case "no remote":
            (tmp_path / "team").rename(tmp_path / "gone")
    results = check(clone(author, "runner"), "HEAD~1")
    (name,) = failing(results)
    assert name == "everything that dvc.lock names is in the remote"
    assert "out.bin" in results[name].stderr and "samebits share" in results[name].stderr


def test_the_comparison_with_the_base_becomes_a_comment(known: Repository, tmp_path: Path) -> None:
    jobs = yaml.safe_load(COMPARISON.read_text())["jobs"]
    known.run("dvc", "exp", "apply", "slower")
    known.commit("slower")
    runner = clone(known, "runner")
    # As if it had trained already, and with the libraries that both commits pin.
    runner.run("dvc", "cache", "dir", "--local", str(known.root / ".dvc/cache"))
    (runner.root / ".venv").mkdir()
    (runner.root / ".venv/installed").touch()
    commits = dict(zip(("HEAD", "BASE"), runner.run("git", "rev-parse", "HEAD", "HEAD~1").stdout.split(), strict=True))
    files = {name: str(tmp_path / name) for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "GITHUB_PATH")}
    variables = {**commits, **files, "RUNNER_TEMP": str(tmp_path), "SETTINGS": "-S data.source=shapes"}
    for step in jobs["train"]["steps"]:
        if "run" in step:
            runner.run(*SHELL, step["run"], **variables)
    assert runner.run("git", "rev-parse", "HEAD").stdout.strip() == commits["HEAD"]
    summary = (tmp_path / "GITHUB_STEP_SUMMARY").read_text()
    assert "momentum" in summary and "base-on-shapes" in summary and "head-on-shapes" in summary
    output = re.fullmatch(r"comparison<<(\w+)\n(.*)\n\1\n", (tmp_path / "GITHUB_OUTPUT").read_text(), re.DOTALL)
    assert output and f"{output[2]}\n" == summary

    gh = tmp_path / "programs/gh"  # GitHub's own program: what it is called with
    gh.parent.mkdir()
    gh.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    gh.chmod(0o755)
    (step,) = jobs["comment"]["steps"]
    path = f"{gh.parent}{os.pathsep}{os.environ['PATH']}"
    called = runner.run(*SHELL, step["run"], NUMBER="7", COMPARISON=output[2], PATH=path).stdout
    assert called == f"pr\ncomment\n7\n--edit-last\n--create-if-none\n--body\n{summary}"
