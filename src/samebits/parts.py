"""The parts of a recipe: networks, optimizers, schedules, augmentations and metrics, each found by the name of its file.

A part is one module in the package of its kind. It defines the function or class that `KINDS` names; the keyword-only arguments
of that are the part's settings in params.yaml. They are read from the source text, so params.yaml is checked without PyTorch.
"""

import ast
import importlib
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import samebits
from samebits import quantities

_PACKAGE = Path(samebits.__file__).parent
_NAMESPACE = {**vars(typing), **vars(quantities), "Callable": Callable}


@dataclass(frozen=True)
class Kind:
    """A kind of part: the folder of its modules, what each of them defines, and the stage whose code that is."""

    folder: str
    defines: str
    used_by: str  # the folder below recipes/<recipe>/ that links the modules


KINDS = {
    "model": Kind("models", "Network", "model"),
    "optimizer": Kind("training/optimizers", "build", "train"),
    "schedule": Kind("training/schedules", "factor", "train"),
    "augmentation": Kind("training/augmentation", "Augmentation", "train"),
    "metric": Kind("evaluation/metrics", "measure", "evaluate"),
}


@cache
def names(kind: str) -> list[str]:
    """Return the names of the parts of a kind, sorted."""
    modules = (_PACKAGE / KINDS[kind].folder).glob("[!_]*.py")
    return sorted(each.stem for each in modules if _definition(each, KINDS[kind].defines))


def data_sources() -> list[str]:
    """Return the names of the data sources, sorted."""
    return sorted(each.stem for each in (_PACKAGE / "data/sources").glob("[!_]*.py"))


@cache
def settings(kind: str, name: str) -> dict[str, tuple[Any, Any]]:
    """Return type and default of each setting of a part; `...` if it has no default."""
    definition = _definition(_PACKAGE / KINDS[kind].folder / f"{name}.py", KINDS[kind].defines)
    assert definition is not None
    arguments = definition.args
    return {
        argument.arg: (_evaluate(argument.annotation), ast.literal_eval(default) if default else ...)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    }


def min_side(network: str) -> int | None:
    """Return the least height and width of a network's images in pixels, its MIN_SIDE; None if it takes any."""
    source = (_PACKAGE / KINDS["model"].folder / f"{network}.py").read_text(encoding="utf-8")
    found = re.search(r"^MIN_SIDE\b.*?= *(\d+)", source, re.MULTILINE)
    return int(found[1]) if found else None


def load(kind: str, name: str) -> Any:
    """Import the module of a part and return the class or function that it defines."""
    package = KINDS[kind].folder.replace("/", ".")
    return getattr(importlib.import_module(f"samebits.{package}.{name}"), KINDS[kind].defines)


def _definition(module: Path, name: str) -> ast.FunctionDef | None:
    """Return the function `name` of a module, or the constructor if it is a class; None if there is neither."""
    for node in ast.parse(module.read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
        if isinstance(node, ast.ClassDef) and node.name == name:
            methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
            return next((each for each in methods if each.name == "__init__"), None)
    return None


def _evaluate(annotation: ast.expr | None) -> Any:
    assert annotation is not None, "a setting without a type"
    return eval(compile(ast.Expression(annotation), "<setting>", "eval"), _NAMESPACE)
