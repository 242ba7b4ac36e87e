"""What must run again after an edit, and what need not: tried on a copy of the package."""

import ast
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from fedgloss import fingerprint
from fedgloss.algorithms import METHODS

PACKAGE = Path(fingerprint.__file__).parent
MODELS = ("smallcnn", "cnn", "resnet18", "mobilenetv2")
RESULTS = {
    **{f"train {m}": partial(fingerprint.of_training, m, "smallcnn") for m in METHODS},
    **{f"train on {m}": partial(fingerprint.of_training, "fedavg", m) for m in MODELS},
    "train on given weights": partial(fingerprint.of_training, "fedavg", "cnn", True),
    **{
        f"{kind}": partial(fingerprint.of_analysis, kind, "cnn")
        for kind in ("hessian", "landscape")
    },
    **{
        f"data {source}": partial(fingerprint.of_data, source)
        for source in ("digits", "cifar10", "cifar100", "folder", "landmarks")
    },
    **{f"partition {s}": partial(fingerprint.of_partitions, s) for s in ("dirichlet", "file")},
    "tables": fingerprint.of_tables,
    "figures": fingerprint.of_figures,
    "report": fingerprint.of_report,
}
TRAINING = {name for name in RESULTS if name.startswith("train")}
ANALYSIS = {"hessian", "landscape"}
REPORTING = {"tables", "figures", "report"}
DATA = {name for name in RESULTS if name.startswith("data")}
PARTITIONS = {"partition dirichlet", "partition file"}


def forget():
    """The sources are read once in a process."""
    fingerprint._source.cache_clear()
    fingerprint._text.cache_clear()


class Copy:
    """A copy of the package, which the fingerprints are now taken of."""

    def __init__(self, folder):
        self.folder = folder
        self.before = self.all()

    def all(self):
        forget()
        return {name: take() for name, take in RESULTS.items()}

    def edit(self, file, change=lambda text: text + "\n_EDITED = 1\n"):
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert change(text) != text
        path.write_text(change(text), encoding="utf-8")

    def changed(self):
        now = self.all()
        return {name for name in RESULTS if now[name] != self.before[name]}


@pytest.fixture
def copy(tmp_path, monkeypatch):
    shutil.copytree(PACKAGE, tmp_path / "fedgloss", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "FOLDER", tmp_path / "fedgloss")
    yield Copy(tmp_path / "fedgloss")
    forget()


SOURCES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def test_all_results_have_different_fingerprints_where_their_code_differs(copy):
    of_method = {name: copy.before[f"train {name}"] for name in METHODS}
    modules = {name: path.partition(":")[0] for name, path in METHODS.items()}
    for a in METHODS:
        for b in METHODS:
            assert (of_method[a] == of_method[b]) == (modules[a] == modules[b]), (a, b)


def reworded(text):
    """The same program with other comments, docstrings and layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
            node.value.value += " Reworded."
    return f'"""Another docstring."""\n\n# A comment.\n\n{ast.unparse(tree)}\n# The end.\n'


def test_comments_docstrings_and_layout_change_nothing(copy):
    for file in SOURCES:
        copy.edit(file, reworded)
    assert copy.changed() == set()


def test_removing_every_docstring_and_comment_changes_nothing(copy):
    def bare(text):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and len(body) > 1:
                node.body = [s for s in body if not fingerprint._is_docstring(s)]
        return ast.unparse(tree)

    for file in SOURCES:
        path = copy.folder / file
        path.write_text(bare(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert copy.changed() == set()


def test_files_that_are_no_code_change_nothing(copy):
    for name in ("README.md", "../README.md", "simulation/notes.txt", "py.typed"):
        (copy.folder / name).write_text("new")
    assert copy.changed() == set()


def test_a_module_that_nothing_imports_changes_nothing(copy):
    (copy.folder / "simulation" / "unused.py").write_text("x = 1\n")
    assert copy.changed() == set()


METHOD_FILES = sorted({path.partition(":")[0].split(".")[-1] for path in METHODS.values()})
# FedSMOO, FedSpeed, SCAFFOLD and FedOpt share FedAvg's record of what a client sends.
SHARED = {"averaging": {"fedsmoo", "fedspeed", "scaffold", "fedopt"}}


@pytest.mark.parametrize("family", METHOD_FILES)
def test_an_edit_of_a_method_reaches_the_methods_of_its_file_only(copy, family):
    copy.edit(f"algorithms/{family}.py")
    files = {family, *SHARED.get(family, ())}
    methods = {name for name, path in METHODS.items() if path.split(":")[0].split(".")[-1] in files}
    expected = {f"train {name}" for name in methods}
    if "fedavg" in methods:
        expected |= {name for name in TRAINING if name.startswith("train on")}
    assert copy.changed() == expected


@pytest.mark.parametrize("file", sorted(p.name for p in (PACKAGE / "simulation").glob("[!_]*.py")))
def test_an_edit_of_the_engine_reaches_all_training(copy, file):
    copy.edit(f"simulation/{file}")
    assert copy.changed() - ANALYSIS == TRAINING


@pytest.mark.parametrize("file", sorted(p.name for p in (PACKAGE / "report").glob("[!_]*.py")))
def test_an_edit_of_the_reports_code_reaches_no_number(copy, file):
    copy.edit(f"report/{file}")
    changed = copy.changed()
    assert changed and changed <= REPORTING


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("report/surfaces.py", {"figures", "report"}),
        ("report/formats.py", REPORTING),
        ("report/style.mplstyle", {"figures"}),
        ("report/report.html", {"report"}),
        ("analysis/hessian.py", {"hessian"}),
        ("analysis/landscape.py", {"landscape"}),
        ("analysis/objective.py", ANALYSIS),
        ("models/cnn.py", (TRAINING - {"train on resnet18", "train on mobilenetv2"}) | ANALYSIS),
        ("models/torchvision_models.py", {"train on resnet18", "train on mobilenetv2"}),
        ("models/weights.py", {"train on given weights"}),
        ("data/digits.py", {"data digits"}),
        ("data/cifar.py", {"data cifar10", "data cifar100"}),
        ("data/folder.py", {"data folder"}),
        ("data/images.py", {"data folder", "data landmarks"}),
        ("data/splits.py", {"partition file"}),
        ("data/generators.py", TRAINING | PARTITIONS | ANALYSIS),
        ("algorithms/core.py", TRAINING),
        ("rng.py", TRAINING | PARTITIONS | ANALYSIS | {"data digits"}),
        ("tensors.py", TRAINING | PARTITIONS | ANALYSIS | DATA),
        ("cli.py", set()),
        ("commands.py", set()),
        ("study.py", set()),
        ("algorithms/names.py", set()),
        ("status.py", set()),
        ("progress.py", set()),
        ("fingerprint.py", set()),
        ("__init__.py", set()),
    ],
)
def test_an_edit_reaches_what_depends_on_it(copy, file, expected):
    copy.edit(file, lambda text: text + "\n_EDITED = 1\n")
    assert copy.changed() == expected


# What shapes no result by itself: the command line, the study's reader (its results, the resolved
# settings, are parameters of the jobs), looking at a grid, and where the methods are.
WITHOUT_RESULTS = {"cli.py", "commands.py", "study.py", "configuration.py", "algorithms/names.py"}
WITHOUT_RESULTS |= {"importing.py", "estimate.py", "status.py", "progress.py", "fingerprint.py"}
WITHOUT_RESULTS |= {"__init__.py", "__main__.py"}


def test_every_other_module_is_behind_some_result(copy):
    """A module that no fingerprint covers could change numbers without anything running again."""
    for file in SOURCES:
        if file not in WITHOUT_RESULTS and not file.endswith("__init__.py"):
            copy.edit(file)
            assert copy.changed(), file
            shutil.copy(PACKAGE / file, copy.folder / file)


def digest(text):
    return "\n".join(fingerprint._skeleton(ast.parse(text)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 1", "x = '1'"),
        ("x = 'a'", "x = b'a'"),
        ("x = None", "x = 0"),
        ("x = a + b", "x = a - b"),
        ("x = a - b", "x = b - a"),
        ("x = (a - b) * c", "x = a - b * c"),
        ("x = a[1:]", "x = a[:1]"),
        ("x = a[:, None]", "x = a[None, :]"),
        ("x = {**a, 'k': b}", "x = {'k': a, **b}"),
        ("x = f(a, b=c)", "x = f(a, **c)"),
        ("def f(*, a, b=1): return a", "def f(*, a=1, b): return a"),
        ("def f(a, b=1): return a", "def f(a, *, b=1): return a"),
        ("def f(a, /, b): return a", "def f(a, b): return a"),
        ("def f(): return", "def f(): pass"),
        ("def f(): return None", "def f(): return 0"),
        ("def f(): yield a", "def f(): return a"),
        ("if a:\n x = 1\nelse:\n x = 2", "if a:\n x = 2\nelse:\n x = 1"),
        ("for x in a:\n f(x)\ng(x)", "for x in a:\n f(x)\n g(x)"),
        ("while a:\n f()\nelse:\n g()", "while a:\n f()\n g()"),
        ("a = b = c", "a = c"),
        ("f'{a:.3f}'", "f'{a:.4f}'"),
        ("f'{a!r}'", "f'{a!s}'"),
        ("@cache\ndef f(): return 1", "def f(): return 1"),
        ("from a import b", "from a import b as c"),
        ("x: int = 1", "x: float = 1"),
        ("a < b < c", "a < b > c"),
        ("x = a if b else c", "x = c if b else a"),
        ("lambda x: x", "lambda y: x"),
        ("x = 'text'", "'text'"),
        ("return_('text')", "return_()"),
        ("try:\n f()\nexcept A:\n g()", "try:\n f()\nfinally:\n g()"),
    ],
)
def test_programs_that_differ_have_different_digests(one, other):
    assert digest(one) != digest(other)


def test_every_constant_name_and_operator_of_a_method_counts():
    """Change each in turn: nothing that decides a number may be overlooked."""
    text = (PACKAGE / "algorithms" / "scaffold.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    before = "\n".join(fingerprint._skeleton(tree))
    docstrings = {n.value for n in ast.walk(tree) if fingerprint._is_docstring(n)}
    tried = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in docstrings:
            field, other = "value", "changed"
        elif isinstance(node, ast.Name):
            field, other = "id", "changed"
        elif isinstance(node, ast.Attribute):
            field, other = "attr", "changed"
        elif isinstance(node, ast.keyword):
            field, other = "arg", "changed"
        elif isinstance(node, ast.BinOp):
            field, other = "op", ast.MatMult()
        else:
            continue
        old = getattr(node, field)
        setattr(node, field, other)
        assert "\n".join(fingerprint._skeleton(tree)) != before, ast.unparse(node)
        setattr(node, field, old)
        tried += 1
    assert tried > 150
    assert "\n".join(fingerprint._skeleton(tree)) == before


def test_the_skeleton_does_not_depend_on_the_python_that_takes_it():
    """Recorded; fields that newer Pythons add to the tree are empty here and leave no trace."""
    text = (
        '"""Doc."""\nclass A(B):\n  x: int = 1\n  """Doc."""\n  def f(self, *, a, b=None): return a'
    )
    assert re.sub(r"\s+", " ", digest(text)) == (
        "Module (body ClassDef name='A' (bases Name id='B' (ctx Load ) ) (body AnnAssign "
        "(target Name id='x' (ctx Store ) ) (annotation Name id='int' (ctx Load ) ) (value "
        "Constant value=1 ) simple=1 ) (body FunctionDef name='f' (args arguments (args arg "
        "arg='self' ) (kwonlyargs arg arg='a' ) (kwonlyargs arg arg='b' ) kw_defaults=None "
        "(kw_defaults Constant ) ) (body Return (value Name id='a' (ctx Load ) ) ) ) )"
    )


def test_a_users_own_method_is_fingerprinted_too(tmp_path, monkeypatch):
    (tmp_path / "my_method.py").write_text("def build(): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    before = fingerprint.of_training("my_method:build", "smallcnn")
    assert before != fingerprint.of_training("fedavg", "smallcnn")
    (tmp_path / "my_method.py").write_text("def build(): return 2\n")
    forget()
    assert fingerprint.of_training("my_method:build", "smallcnn") != before


def test_fingerprints_import_neither_torch_nor_the_code_they_cover():
    code = """
import sys
from fedgloss import fingerprint
fingerprint.of_training("fedgloss", "resnet18"), fingerprint.of_report(), fingerprint.of_figures()
fingerprint.of_analysis("hessian", "cnn"), fingerprint.of_data("digits")
print([name for name in ("torch", "numpy", "fedgloss.simulation.train") if name in sys.modules])
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
