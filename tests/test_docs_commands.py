"""The commands in README.md and the other pages are those that `samebits`, `dvc` and `make` have, with their options."""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import yaml
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser

from samebits.cli import samebits
from tests.conftest import PROJECT
from tests.test_docs import CODE, PAGES

TARGETS = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
PARAMETERS = yaml.safe_load((PROJECT / "params.yaml").read_text())
COMMAND = re.compile(r"(?:\w+=\S+ )*((?:samebits|dvc|make|python -m) .+)")


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a page, as lists of words: those on lines of their own, and those in the prose."""
    joined = re.sub(r"\\\n\s*", " ", text).replace("-S ...", "-S seed=1")
    for line in re.findall(r"^(?:    |\$ )(.*)$", joined, re.MULTILINE) + CODE.findall(joined):
        for part in re.split(r" (?:&&|\||>) ", line):
            if found := COMMAND.fullmatch(part.strip()):
                yield shlex.split(re.sub(r"[\[\]]", "", found[1]), comments=True)


def mistake(words: list[str]) -> str | None:
    """Return what is wrong with a command, or None. Nothing is run."""
    program, *arguments = words
    match program:
        case "make":
            unknown = [word for word in arguments if "=" not in word and word not in TARGETS]
            return f"no target {unknown[0]}" if unknown else None
        case "python":
            return None if find_spec(arguments[1]) else f"no module {arguments[1]}"
        case "dvc":
            return _mistake_of_dvc(arguments)
    return _mistake_of_samebits(*arguments)


def _mistake_of_samebits(name: str, *arguments: str) -> str | None:
    if name.startswith("--"):
        return None if name in ("--help", "--version") else f"no option {name}"
    if name not in samebits.commands:
        return f"no command {name}"
    try:
        samebits.commands[name].make_context(name, list(arguments))
    except click.MissingParameter:  # in prose: `samebits predict`
        return None
    except click.UsageError as error:
        return error.format_message()
    return None


def _mistake_of_dvc(arguments: list[str]) -> str | None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            parsed = get_main_parser().parse_args(arguments)
    except DvcParserError:
        return f"dvc cannot read {arguments}"
    unknown = [each for each in getattr(parsed, "set_param", None) or [] if not _is_parameter(each.partition("=")[0])]
    return f"no parameter {unknown[0]}" if unknown else None


def _is_parameter(path: str) -> bool:
    value = PARAMETERS
    for key in path.split("."):
        try:
            value = value[int(key) if isinstance(value, list) else key]
        except (KeyError, IndexError, TypeError, ValueError):
            return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_command_exists(page: Path) -> None:
    found = {shlex.join(words): mistake(words) for words in commands(page.read_text())}
    assert {command: what for command, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "line",
    [
        "samebits comapre a b",
        "samebits predict photo.jpg --jsno",
        "samebits --verison",
        "make ran",
        "dvc experiment run",
        "dvc repro --pul0",
        "dvc exp run -S recipes.lab.train.learning_rate=1",
        "python -m samebits.gate.lock_chekc",
        "git pull && samebits sahre",
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    for text in (f"Then:\n\n    {line}   # to see\n", f"Run `{line}` then.", f"```console\n$ {line}\n```\n"):
        assert any(mistake(words) for words in commands(text))
    assert not any(
        mistake(words) for words in commands("`samebits share [--to NAME]`, `dvc exp run -S ...`, `make run TORCH=cpu`")
    )
