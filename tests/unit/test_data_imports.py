"""How the modules of `fedgloss.data` depend on each other."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import fedgloss.data

FOLDER = Path(fedgloss.data.__file__).parent


def imports(module):
    """The modules of this package that one imports, at its head or inside its functions."""
    tree = ast.parse((FOLDER / f"{module}.py").read_text())
    for_types = [
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in for_types:
            if node.module == "fedgloss.data":
                yield from (alias.name for alias in node.names)
            elif node.module.startswith("fedgloss.data."):
                yield node.module.split(".")[2]


def test_imports_run_one_way():
    """No circle, not even one that is broken by importing inside a function."""
    graph = {file.stem: set(imports(file.stem)) for file in FOLDER.glob("*.py")}
    order = list(TopologicalSorter(graph).static_order())  # CycleError, which names the circle
    assert order.index("folder") < order.index("datasets")
