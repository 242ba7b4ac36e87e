"""Fingerprints of the code behind a result: what must run again after an edit, and what need not.

The fingerprint of some modules covers their source and that of every module they import, in this
package or in code of the user's own, without comments, docstrings and layout: touching a file or
rewording a comment changes nothing, changing a statement changes exactly the results that depend on
it. Installed packages are left out: their versions are in each manifest. Modules that are looked up
by name while running (a method, a model, a data source) are named by the caller, so that an edit of
one method leaves the others' results alone.
"""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path

from fedgloss import algorithms
from fedgloss.errors import InputError

PACKAGE = "fedgloss"
FOLDER = Path(__file__).parent
# Their functions import one module of several, by a name that the caller knows.
BY_NAME = {
    "fedgloss.jobs.landscape",
    "fedgloss.data.dataset",
    "fedgloss.data.partition.partition",
    "fedgloss.models",
}
STANDARD = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")]
INSTALLED = {"site-packages", "dist-packages"}
# Only says where the methods are; each is behind the fingerprint of the cells that use it.
TABLE_OF_NAMES = "fedgloss.algorithms.names"
IGNORED = ("type_comment", "kind")


@cache
def fingerprint(*modules: str) -> str:
    """SHA-256 over these modules (import names) and all they import outside installed packages."""
    hull: set[str] = {TABLE_OF_NAMES}
    waiting = [module for module in modules if _source(module)]
    while waiting:
        module = waiting.pop()
        if module not in hull:
            hull.add(module)
            names = _imports(module, inner=module not in BY_NAME)
            _digest(module)  # while its tree is at hand
            waiting += [name for name in names if name not in hull and _source(name)]
    digest = hashlib.sha256()
    for module in sorted(hull - {TABLE_OF_NAMES}):
        digest.update(f"{module} {_digest(module)}\n".encode())
    return digest.hexdigest()


def exists(module: str) -> bool:
    """Whether a module could be imported, as far as can be said without importing anything."""
    return _spec(module) is not None


def of_training(method: str, model: str, pretrained: bool = False) -> str:
    """The code that decides a training run's numbers, for a method and a model by name."""
    path = algorithms.METHODS.get(method, method)
    modules = ["fedgloss.jobs.train", path.partition(":")[0], _model_module(model)]
    return fingerprint(*modules, *(["fedgloss.models.weights"] if pretrained else []))


def of_analysis(kind: str, model: str) -> str:
    """The code behind a model's spectra (hessian, locals) or its surfaces, lines (landscape)."""
    job = "landscape" if kind == "landscape" else "spectrum"
    return fingerprint(f"fedgloss.jobs.{job}", _model_module(model))


def of_data(source: str) -> str:
    """The code that prepares a data source."""
    module = {"cifar10": "cifar", "cifar100": "cifar"}.get(source, source)
    return fingerprint("fedgloss.data.dataset", f"fedgloss.data.sources.{module}")


def of_partitions(scheme: str) -> str:
    """The code that cuts data into clients, or imports a split."""
    imported = ["fedgloss.data.partition.splits"] if scheme == "file" else []
    return fingerprint("fedgloss.data.partition.partition", *imported)


def of_tables() -> str:
    """The code that makes tables."""
    return fingerprint("fedgloss.report.tables", "fedgloss.report.writing")


def of_sweeps() -> str:
    """The code that says which trials of a sweep go on, and which wins."""
    return fingerprint("fedgloss.study.standings")


def of_figures() -> str:
    """The code that draws figures, and their style."""
    return _with_files(fingerprint("fedgloss.report.figures"), "*.mplstyle")


def of_report() -> str:
    """The code that writes the report, and its template."""
    return _with_files(fingerprint("fedgloss.report.html"), "*.html", "*.css", "*.js")


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
    """The file of a module of this package, or of the user's own; None for any other name."""
    first, *rest = module.split(".")
    if first == PACKAGE:  # looking for it in the usual way would import torch
        places = FOLDER.joinpath(*rest, "__init__.py"), FOLDER.joinpath(*rest).with_suffix(".py")
        return next((str(place) for place in places if rest and place.is_file()), None)
    spec = None if first in sys.stdlib_module_names else _spec(module)
    if (
        spec is None or spec.origin is None or not spec.has_location
    ):  # a package without __init__.py has no source
        return None
    file = Path(spec.origin).resolve()
    if INSTALLED & {*file.parts} or any(map(file.is_relative_to, STANDARD)):
        return None
    return spec.origin


def _file(module: str) -> Path:
    """The file of a module that has a `_source`."""
    return Path(_source(module) or "")


@cache
def _spec(module: str) -> ModuleSpec | None:
    """Where a module is, found without importing the packages it is in."""
    package, _, name = module.rpartition(".")
    within = _spec(package) if package else None
    folders = list(within.submodule_search_locations or ()) if within else None
    if not name or (package and not folders):
        return None
    finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
    try:
        found = (find(module, folders) for find in finders if find)
        return next((spec for spec in found if spec is not None), None)
    except (ImportError, ValueError):
        return None


@lru_cache(maxsize=1)
def _tree(module: str) -> ast.Module | None:
    """A module as a syntax tree; None for one that is no Python source.

    Only the last one is kept: among the objects of a hundred trees Python's garbage collector takes
    longer than its parser.
    """
    file = _file(module)
    if file.suffix != ".py":
        return None
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as Python ({error})") from None


@cache
def _imports(module: str, inner: bool) -> tuple[str, ...]:
    """What a module may import, with `inner` also in its functions; names that are none among it.

    Importing a module of a package runs the package's own file first. This package's do nothing.
    """
    names = [] if module.startswith(f"{PACKAGE}.") else [*_parents(module)]
    tree = _tree(module)
    for node in _nodes(tree.body, inner) if tree else ():
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = _absolute(module, node)
            names.append(start)
            names += [f"{start}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:  # import_module("x"), __import__("x")
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            name = getattr(node.args[0], "value", None)
            if called in ("import_module", "__import__") and isinstance(name, str):
                package = ast.ImportFrom(name.lstrip("."), [], len(name) - len(name.lstrip(".")))
                names.append(_absolute(module, package))
    return tuple(dict.fromkeys(names))


def _parents(module: str) -> Iterator[str]:
    """The packages that a module is in."""
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """What `from .x import y` means in a module."""
    if not node.level:
        return node.module or ""
    package = _file(module).stem == "__init__"
    parts = module.split(".")
    kept = parts[: len(parts) - node.level + package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _nodes(body: list[ast.stmt], inner: bool) -> Iterator[ast.AST]:
    """All that runs when a module is imported, and with `inner` when its functions are called.

    Not what stands under `if TYPE_CHECKING`, which never runs.
    """
    for node in body:
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from _nodes(node.orelse, inner)
        elif inner or not is_function:
            yield from ast.walk(node)


@cache
def _digest(module: str) -> str:
    tree = _tree(module)
    if tree is None:  # an extension: its bytes are all that can be said
        return hashlib.sha256(_file(module).read_bytes()).hexdigest()
    return hashlib.sha256("\n".join(_skeleton(tree)).encode()).hexdigest()


def _skeleton(tree: ast.AST) -> list[str]:
    """A syntax tree as lines: no docstrings, no positions, nothing that is empty.

    Written out here, since the form of `ast.dump` changes between Python versions and an upgrade of
    Python must not run everything again.
    """
    lines: list[str] = []
    _describe(tree, lines)
    return lines


def _describe(node: ast.AST, lines: list[str]) -> None:
    """Add a node and what is below it to the lines."""
    lines.append(type(node).__name__)
    for name in node._fields:
        value = getattr(node, name, None)
        children = value if isinstance(value, list) else [value]
        for child in children:
            if isinstance(child, ast.AST):
                if not _is_docstring(child):
                    lines.append(f"({name}")
                    _describe(child, lines)
                    lines.append(")")
            # In lists, None keeps a place: of `**other` in a dict, of a missing default.
            elif (child is not None or children is value) and name not in IGNORED:
                lines.append(f"{name}={child!r}")


def _is_docstring(node: ast.AST) -> bool:
    """Whether this is text that stands alone: a docstring, also one below an attribute."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
