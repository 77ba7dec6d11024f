"""What README.md and docs/*.md refer to exists: links, headings, files of the repository, outputs of the pipeline."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from samebits import paths
from tests.conftest import PROJECT

PAGES = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "data/raw/README.md",
    *sorted((PROJECT / "docs").glob("*.md")),
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# In code: `training/loop.py`, `params.yaml`, `stages/`; not `train/<class>/`, `data.path` or `photo.jpg`.
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(
    r"[\w.-][\w./-]*\.(?:py|md|ya?ml|json|toml|lock|csv|safetensors)"
    r"|(?:\.dvc|\.github|benchmarks|data|docs|hashes|metrics|recipes|src|stages|tests)/[\w./-]*"
)
# Paths may be relative to any of these: docs/lab.md speaks of `training/loop.py`.
FOLDERS = (PROJECT, PROJECT / "src/samebits", PROJECT / "docs")


def headings(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def outputs() -> set[str]:
    """Return the paths and the bare names of what is written: the outputs of dvc.yaml, with their folders, and samebits.paths."""
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"].values()
    listed = [entry for stage in stages for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    written = {entry if isinstance(entry, str) else next(iter(entry)) for entry in listed}
    written |= {str(folder) for path in written for folder in Path(path).parents}
    written |= {path for path in vars(paths).values() if isinstance(path, str)}
    return written | {Path(path).name for path in written}


def broken(page: Path, text: str) -> list[str]:
    """Return what `text`, as the content of `page`, links to or names although it does not exist."""
    missing = []
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        linked = page.parent / path if path else page
        if not linked.exists() or (anchor and anchor not in headings(linked)):
            missing.append(target)
    # A tutorial writes the files whose names stand above their content.
    written = outputs() | set(re.findall(r"`([\w/.]+)`:\n\n```", text))
    prose = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)  # commands may name files that the user has
    for code in CODE.findall(prose):
        if (
            FILE.fullmatch(code)
            and code.rstrip("/") not in written
            and not any((folder / code).exists() for folder in FOLDERS)
        ):
            missing.append(code)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_reference_leads_somewhere(page: Path) -> None:
    assert broken(page, page.read_text()) == []


def test_a_broken_reference_is_found() -> None:
    page = PROJECT / "docs/lab.md"
    good = "[a](team.md#share-artifacts) [b](../README.md) `training/loop.py` `dataset.json` `photo.jpg` `stages/`"
    assert broken(page, good) == []
    for bad in (
        "[a](../src/samebits/gone.py)",
        "[a](team.md#gone)",
        "[a](#gone)",
        "`turns.py`",
        "`docs/gone.md`",
        "`data/plots/gone.png`",
    ):
        assert broken(page, f"{good} {bad}") == [bad.strip("`") if bad[0] == "`" else bad[4:-1]]


def test_the_citation_names_this_version() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert (citation["title"], citation["version"]) == (project["name"], project["version"])
