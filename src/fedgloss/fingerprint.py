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
FOLDER = Path(__file__).parent
# Their functions import one module of several, by a name that the caller knows.
BY_NAME = {
    "fedgloss.analysis.run",
    "fedgloss.data.datasets",
    "fedgloss.data.partitions",
    "fedgloss.models",
}
# Only says where the methods are; each is behind the fingerprint of the cells that use it.
TABLE_OF_NAMES = "fedgloss.algorithms.names"
IGNORED = ("type_comment", "kind")


def fingerprint(*modules: str) -> str:
    """SHA-256 over these modules (import names) and all they import from this package."""
    hull: set[str] = {TABLE_OF_NAMES}
    waiting = [module for module in modules if _source(module)]
    while waiting:
        module = waiting.pop()
        if module not in hull:
            hull.add(module)
            names = _imports(_text(module), inner=module not in BY_NAME)
            waiting += [name for name in names if name not in hull and _source(name)]
    digest = hashlib.sha256()
    for module in sorted(hull - {TABLE_OF_NAMES}):
        digest.update(f"{module} {_digest(_text(module))}\n".encode())
    return digest.hexdigest()


def of_training(method: str, model: str, pretrained: bool = False) -> str:
    """The code that decides a training run's numbers, for a method and a model by name."""
    path = algorithms.METHODS.get(method, method)
    modules = ["fedgloss.simulation.cell", path.partition(":")[0], _model_module(model)]
    return fingerprint(*modules, *(["fedgloss.models.weights"] if pretrained else []))


def of_analysis(kind: str, model: str) -> str:
    """The code behind Hessian eigenvalues or landscapes of a model."""
    return fingerprint("fedgloss.analysis.run", f"fedgloss.analysis.{kind}", _model_module(model))


def of_data(source: str) -> str:
    """The code that prepares a data source."""
    module = {"cifar10": "cifar", "cifar100": "cifar"}.get(source, source)
    return fingerprint("fedgloss.data.datasets", f"fedgloss.data.{module}")


def of_partitions(scheme: str) -> str:
    """The code that cuts data into clients, or imports a split."""
    imported = ["fedgloss.data.splits"] if scheme == "file" else []
    return fingerprint("fedgloss.data.partitions", *imported)


def of_tables() -> str:
    """The code that makes tables."""
    return fingerprint("fedgloss.report.tables")


def of_figures() -> str:
    """The code that draws figures, and their style."""
    return _with_files(fingerprint("fedgloss.report.figures"), "*.mplstyle")


def of_report() -> str:
    """The code that writes the report, and its template."""
    return _with_files(fingerprint("fedgloss.report.html"), "*.html", "*.css")


def _with_files(code: str, *patterns: str) -> str:
    digest = hashlib.sha256(code.encode())
    for path in sorted(path for pattern in patterns for path in FOLDER.glob(f"report/{pattern}")):
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
    first, *rest = module.split(".")
    if first == PACKAGE:  # looking for it in the usual way would import torch
        places = FOLDER.joinpath(*rest, "__init__.py"), FOLDER.joinpath(*rest).with_suffix(".py")
        return next((str(place) for place in places if place.is_file()), None)
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return found.origin if found and found.origin and found.origin.endswith(".py") else None


@cache
def _text(module: str) -> str:
    return Path(_source(module)).read_text(encoding="utf-8")


@cache
def _imports(text: str, inner: bool) -> tuple[str, ...]:
    """What a module may import from this package, with `inner` also in its functions."""
    names = []
    for statement in _statements(ast.parse(text).body, inner):
        if isinstance(statement, ast.Import):
            names += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            names.append(statement.module)
            names += [f"{statement.module}.{alias.name}" for alias in statement.names]
    return tuple(name for name in names if name.startswith(f"{PACKAGE}."))


def _statements(body: list[ast.stmt], inner: bool) -> Iterator[ast.stmt]:
    """The statements of a module, with those inside its functions and classes if `inner`."""
    for statement in body:
        yield statement
        if inner and isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            yield from (node for node in ast.walk(statement) if isinstance(node, ast.stmt))


@cache
def _digest(text: str) -> str:
    return hashlib.sha256("\n".join(_skeleton(ast.parse(text))).encode()).hexdigest()


def _skeleton(node: ast.AST) -> Iterator[str]:
    """A syntax tree as lines: no docstrings, no positions, nothing that is empty.

    Written out here, since the form of `ast.dump` changes between Python versions and an upgrade of
    Python must not run everything again.
    """
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                if not _is_docstring(child):
                    yield f"({name}"
                    yield from _skeleton(child)
                    yield ")"
            # In lists, None keeps a place: of `**other` in a dict, of a missing default.
            elif (child is not None or isinstance(value, list)) and name not in IGNORED:
                yield f"{name}={child!r}"


def _is_docstring(node: ast.AST) -> bool:
    """Whether this is text that stands alone: a docstring, also one below an attribute."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
