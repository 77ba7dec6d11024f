"""The folders recipes/<recipe>/{model,train,evaluate}: links to the code that only this recipe uses.

DVC follows the links, so a stage depends on the parts of the chosen recipe and on no other: adding a part makes nothing stale.
"""

import os
from pathlib import Path

from samebits import parts
from samebits.params import Recipe


def expected(name: str, recipe: Recipe) -> dict[Path, Path]:
    """Return the links that a recipe needs, with the files that they lead to, as paths from the root of the repository."""
    source, folder = Path("src/samebits"), Path("recipes", name)
    links = {folder / "evaluate/summary.py": source / "evaluation/metrics/summary.py"}  # so that no folder is empty
    for kind, part in recipe.parts:
        links[folder / parts.KINDS[kind].used_by / f"{part}.py"] = source / parts.KINDS[kind].folder / f"{part}.py"
    return links


def missing(root: Path, recipes: dict[str, Recipe]) -> dict[Path, Path]:
    """Return the links that recipes need and that do not lead where they should, with their targets."""
    links = {link: file for name, recipe in recipes.items() for link, file in expected(name, recipe).items()}
    return {link: file for link, file in links.items() if (root / link).resolve() != (root / file).resolve()}


def unnamed(root: Path, recipes: dict[str, Recipe]) -> list[Path]:
    """Return the links of recipes that none of their settings asks for."""
    links = {link for name, recipe in recipes.items() for link in expected(name, recipe)}
    there = (path.relative_to(root) for name in recipes for path in sorted((root / "recipes" / name).glob("*/*.py")))
    return [path for path in there if path not in links]


def create(root: Path, recipes: dict[str, Recipe]) -> list[Path]:
    """Make the missing links; return them."""
    made = missing(root, recipes)
    for link, file in made.items():
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).unlink(missing_ok=True)
        (root / link).symlink_to(os.path.relpath(file, link.parent))
    return list(made)
