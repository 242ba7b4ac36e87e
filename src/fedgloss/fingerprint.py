"""Fingerprints of the code behind a result: what must run again after an edit, and what need not.

The fingerprint of some modules covers their source and that of every module of this package they
import, without comments, docstrings and layout: touching a file or rewording a comment changes
nothing, changing a statement changes exactly the results that depend on it. Modules that are looked
up by name while running (a method, a model, a data source) are named by the caller, so that an edit
of one method leaves the others' results alone.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fedgloss import algorithms

PACKAGE = "fedgloss"


def fingerprint(*modules: str) -> str:
    """SHA-256 over these modules (import names) and all they import from this package."""
    hull: set[str] = set()
    waiting = [module for module in modules if _source(module)]
    while waiting:
        module = waiting.pop()
        if module not in hull:
            hull.add(module)
            waiting += [name for name in _imports(module) if name not in hull]
    digest = hashlib.sha256()
    for module in sorted(hull):
        digest.update(f"{module} {_digest(module)}\n".encode())
    return digest.hexdigest()


def of_training(method: str, model: str) -> str:
    """The code that decides a training run's numbers, for a method and a model by name."""
    path = algorithms.METHODS.get(method, method)
    return fingerprint("fedgloss.simulation.cell", path.partition(":")[0], _model_module(model))


def of_analysis(kind: str, model: str) -> str:
    """The code behind Hessian eigenvalues or landscapes of a model."""
    return fingerprint("fedgloss.analysis.run", f"fedgloss.analysis.{kind}", _model_module(model))


def of_data(source: str) -> str:
    """The code that prepares a data source."""
    module = {"cifar10": "cifar", "cifar100": "cifar"}.get(source, source)
    return fingerprint("fedgloss.data.datasets", f"fedgloss.data.{module}")


def of_partitions() -> str:
    """The code that cuts data into clients."""
    return fingerprint("fedgloss.data.partitions")


def of_report() -> str:
    """The code that draws the report, template included."""
    folder = Path(_source("fedgloss.report.html")).parent
    digest = hashlib.sha256(fingerprint("fedgloss.report.html").encode())
    for path in sorted([*folder.glob("*.html"), *folder.glob("*.css"), *folder.glob("*.mplstyle")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _model_module(model: str) -> str:
    if ":" in model:
        return model.partition(":")[0]
    small = model in ("smallcnn", "cnn")
    return "fedgloss.models.cnn" if small else "fedgloss.models.torchvision_models"


@cache
def _source(module: str) -> str | None:
    """The file of a Python module, or None."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return found.origin if found and found.origin and found.origin.endswith(".py") else None


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(Path(_source(module)).read_text(encoding="utf-8"))


@cache
def _imports(module: str) -> tuple[str, ...]:
    """The package's modules that a module imports when it is itself imported."""
    names = []
    for statement in _tree(module).body:
        if isinstance(statement, ast.Import):
            names += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            names.append(statement.module)
            names += [f"{statement.module}.{alias.name}" for alias in statement.names]
    return tuple(n for n in names if n.split(".")[0] == PACKAGE and n != PACKAGE and _source(n))


@cache
def _digest(module: str) -> str:
    return hashlib.sha256("\n".join(_skeleton(_tree(module))).encode()).hexdigest()


def _skeleton(node: ast.AST) -> Iterator[str]:
    """A syntax tree as lines: no docstrings, no positions, nothing that is empty.

    Written out here, since the form of `ast.dump` changes between Python versions and an upgrade of
    Python must not run everything again.
    """
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        if name == "body" and isinstance(value, list) and _is_docstring(value):
            children = value[1:]
        for child in children:
            if isinstance(child, ast.AST):
                yield f"({name}"
                yield from _skeleton(child)
                yield ")"
            elif child is not None and name not in ("type_comment", "kind"):
                yield f"{name}={child!r}"


def _is_docstring(body: list[ast.AST]) -> bool:
    return bool(body) and (
        isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    )
