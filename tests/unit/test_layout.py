"""Where everything lies: known in one place, and told back."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedgloss.study.layout import CELL, HERE, Layout

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(f for f in (ROOT / "src").rglob("*.py") if f.name != "layout.py")
RULES = [ROOT / "Snakefile", *sorted((ROOT / "workflow" / "rules").glob("*.smk"))]
CELL_PATH = "digits/alpha-0/smallcnn/fedgloss/seed-0"

FOLDERS = "runs analysis partitions checkpoints logs benchmarks tables figures report studies jobs"
FOLDERS += " sweeps"
IN_TEXT = re.compile(
    r"(^|/)(results|runs|analysis|partitions|checkpoints|benchmarks|tables|figures|studies|sweeps)/"
)


def paths_in(text):
    """Where a Python source spells out a folder of the results, but for docstrings."""
    tree = ast.parse(text)
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(words)) if id(node) not in prose:
                found = IN_TEXT.search(words)
            case ast.BinOp(op=ast.Div(), right=ast.Constant(value=name)):
                found = name in FOLDERS.split()
            case ast.Call(func=ast.Name(id="Path"), args=[ast.Constant(value="results")]):
                found = True
            case _:
                found = False
        if found:
            yield node.lineno


def paths_in_rules(text):
    """The same for a rule file, which is no Python: its lines but for docstrings and comments."""
    text = re.sub(r'""".*?"""', "", text, flags=re.S)
    for line in text.splitlines():
        if re.search(rf"\bresults/|[\"'/]({FOLDERS.replace(' ', '|')})/", line.split("#")[0]):
            yield line


def test_no_other_module_and_no_rule_spells_out_a_path():
    found = {str(f.relative_to(ROOT)): [*paths_in(f.read_text())] for f in SOURCES}
    found |= {str(f.relative_to(ROOT)): [*paths_in_rules(f.read_text())] for f in RULES}
    assert {file: lines for file, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    ['p = results / "runs"', 'p = f"results/{x}"', 'p = f"{x}/figures/a"', 'p = Path("results")'],
)
def test_which_this_would_notice(line):
    assert [*paths_in(line)] == [1]
    assert not [*paths_in(f"'''{line}'''")]


@pytest.mark.parametrize("line", ['        f"results/report/{x}"', '        x="{a}/runs/{b}",'])
def test_and_in_a_rule(line):
    assert [*paths_in_rules(line)] == [line]


def every_path(layout):
    """The paths of all methods of a layout, each argument its own name as a wildcard."""
    for name, method in inspect.getmembers(layout, inspect.ismethod):
        if not name.startswith("_") and name not in ("cell_of", "study_of"):
            made = method(*(f"{{{word}}}" for word in inspect.signature(method).parameters))
            yield from made.values() if isinstance(made, dict) else [made]


def test_every_path_lies_in_the_results_folder_and_no_two_are_one():
    made = [*every_path(Layout(Path("elsewhere")))]
    assert len(made) == len(set(made)) > 15
    for path in made:
        assert path.parts[0] == "elsewhere" and path.parts[1] in ("data", *FOLDERS.split())
    assert {path.parts[1] for path in made} == {"data", *FOLDERS.split()}


def test_wildcards_make_patterns_and_values_make_paths():
    pattern = str(HERE.metrics("{study}", CELL))
    values = {"dataset": "digits", "alpha": "0", "model": "smallcnn", "algorithm": "fedgloss"}
    assert pattern.format(study="s", seed=0, **values) == str(HERE.metrics("s", CELL_PATH))
    assert str(HERE.metrics("s", CELL_PATH)) == f"results/runs/s/{CELL_PATH}/metrics.csv"


def test_a_file_of_a_cell_is_known_again():
    for path in (HERE.metrics("s", CELL_PATH), HERE.hessian("s", CELL_PATH)):
        assert HERE.cell_of("s", path) == CELL_PATH
        assert HERE.cell_of("other", path) is None
    for path in (HERE.report("s"), HERE.runs("s"), HERE.runs("s") / "x", Path("table_x")):
        assert HERE.cell_of("s", path) is None


def test_whose_a_result_is_is_in_its_path():
    one = [HERE.metrics("s", CELL_PATH), HERE.hessian("s", CELL_PATH), HERE.report("s")]
    one += [HERE.chosen("s"), HERE.paused("s", CELL_PATH, 5), HERE.promoted("s", "fedavg", 1)]
    one += [*HERE.table("s", "t").values(), *HERE.figure("s", "f").values()]
    assert {HERE.study_of(path) for path in one} == {"s"}
    shared = [HERE.data("digits"), HERE.partition("digits", "0"), HERE.runs("s"), HERE.results]
    assert {HERE.study_of(path) for path in (*shared, Path("table_x"))} == {None}


def test_asking_for_paths_imports_nothing_else():
    code = """
import sys
before = {*sys.modules}
import fedgloss.study.layout
found = {name.partition(".")[0] for name in {*sys.modules} - before}
sys.exit(str(found) if found - sys.stdlib_module_names - {"fedgloss"} else 0)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
