"""What must run again after an edit, and what need not: tried on a copy of the package."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import pytest

from fedgloss import fingerprint
from fedgloss.algorithms import METHODS
from refusal import refused

PACKAGE = Path(fingerprint.__file__).parent
MODELS = ("smallcnn", "cnn", "resnet18", "mobilenetv2")
RESULTS = {
    **{f"train {m}": partial(fingerprint.of_training, m, "smallcnn") for m in METHODS},
    **{f"train on {m}": partial(fingerprint.of_training, "fedavg", m) for m in MODELS},
    "train on given weights": partial(fingerprint.of_training, "fedavg", "cnn", True),
    **{
        f"{kind}": partial(fingerprint.of_analysis, kind, "cnn")
        for kind in ("hessian", "locals", "landscape")
    },
    **{
        f"data {source}": partial(fingerprint.of_data, source)
        for source in ("digits", "cifar10", "cifar100", "folder", "landmarks")
    },
    **{f"partition {s}": partial(fingerprint.of_partitions, s) for s in ("dirichlet", "file")},
    "tables": fingerprint.of_tables,
    "figures": fingerprint.of_figures,
    "report": fingerprint.of_report,
    "sweeps": fingerprint.of_sweeps,
}
TRAINING = {name for name in RESULTS if name.startswith("train")}
SPECTRA = {"hessian", "locals"}
ANALYSIS = {*SPECTRA, "landscape"}
REPORTING = {"tables", "figures", "report"}
DATA = {name for name in RESULTS if name.startswith("data")}
PARTITIONS = {"partition dirichlet", "partition file"}


READS = ("fingerprint", "_source", "_spec", "_tree", "_imports", "_digest")
KNOWN = {}


def forget():
    """The sources are read once in a process."""
    importlib.invalidate_caches()
    for read in READS:
        getattr(fingerprint, read).cache_clear()


def by_content(read):
    """A reading of modules that is done once for the same text, as these tests edit one of many.

    Of the package alone: a user's own module may be another kind of file in another test.
    """

    def known(module, **options):
        if not module.startswith("fedgloss."):
            return read(module, **options)
        key = read, module, *options.values(), Path(fingerprint._source(module)).read_bytes()
        if key not in KNOWN:
            KNOWN[key] = read(module, **options)
        return KNOWN[key]

    return cache(known)


def all_fingerprints():
    forget()
    return {name: take() for name, take in RESULTS.items()}


@cache
def unedited():
    """Taken of the first copy, before it is edited: the others begin alike."""
    return all_fingerprints()


class Copy:
    """A copy of the package, which the fingerprints are now taken of."""

    def __init__(self, folder):
        self.folder = folder
        self.before = unedited()

    def edit(self, file, change=lambda text: text + "\n_EDITED = 1\n"):
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert change(text) != text
        path.write_text(change(text), encoding="utf-8")

    def changed(self):
        now = all_fingerprints()
        return {name for name in RESULTS if now[name] != self.before[name]}


@pytest.fixture
def read_once(monkeypatch):
    for read in ("_imports", "_digest"):
        monkeypatch.setattr(fingerprint, read, by_content(getattr(fingerprint, read).__wrapped__))
    yield
    forget()


@pytest.fixture
def copy(tmp_path, monkeypatch, read_once):
    shutil.copytree(PACKAGE, tmp_path / "fedgloss", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "FOLDER", tmp_path / "fedgloss")
    return Copy(tmp_path / "fedgloss")


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
    for name in ("README.md", "../README.md", "engine/notes.txt", "py.typed"):
        (copy.folder / name).write_text("new")
    assert copy.changed() == set()


def test_a_module_that_nothing_imports_changes_nothing(copy):
    (copy.folder / "engine" / "unused.py").write_text("x = 1\n")
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


# `fedgloss.train`, `fedgloss.flower`, and what only these use: the workflow's jobs do not.
LIBRARY = {"engine/train.py", "engine/identity.py", "engine/digest.py", "engine/client.py"}
LIBRARY |= {"sharpness/measure.py", *(file for file in SOURCES if file.startswith("flower/"))}
ENGINE = {file for file in SOURCES if file.startswith("engine/")} - LIBRARY
ENGINE -= {file for file in ENGINE if file.endswith("__init__.py")}


@pytest.mark.parametrize("file", sorted(ENGINE))
def test_an_edit_of_the_engine_reaches_all_training(copy, file):
    copy.edit(file)
    assert copy.changed() - ANALYSIS == TRAINING


@pytest.mark.parametrize("file", sorted(LIBRARY))
def test_an_edit_of_the_librarys_call_reaches_no_job(copy, file):
    copy.edit(file)
    assert copy.changed() == set()


@pytest.mark.parametrize("file", sorted(p.name for p in (PACKAGE / "report").glob("[!_]*.py")))
def test_an_edit_of_the_reports_code_reaches_no_number(copy, file):
    copy.edit(f"report/{file}")
    changed = copy.changed()
    assert changed <= REPORTING
    assert bool(changed) == (file != "comparison.py")  # for a command, which makes no file


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("report/surfaces.py", {"figures", "report"}),
        ("report/formats.py", REPORTING),
        ("report/latex.py", {"tables", "report"}),
        ("report/style.mplstyle", {"figures"}),
        ("report/report.html", {"report"}),
        ("sharpness/eigenvalues.py", SPECTRA),
        ("sharpness/by_eigsh.py", SPECTRA),
        ("sharpness/trace.py", SPECTRA),
        ("jobs/spectrum.py", SPECTRA),
        ("sharpness/landscape.py", {"landscape"}),
        ("sharpness/objective.py", ANALYSIS),
        ("models/cnn.py", (TRAINING - {"train on resnet18", "train on mobilenetv2"}) | ANALYSIS),
        ("models/torchvision_models.py", {"train on resnet18", "train on mobilenetv2"}),
        ("models/weights.py", {"train on given weights"}),
        ("data/sources/digits.py", {"data digits"}),
        ("data/sources/cifar.py", {"data cifar10", "data cifar100"}),
        ("data/sources/folder.py", {"data folder", "data cifar10", "data cifar100"}),
        ("data/sources/images.py", DATA - {"data digits"}),
        ("data/partition/splits.py", {"partition file"}),
        ("data/partition/generators.py", TRAINING | PARTITIONS | ANALYSIS),
        ("algorithms/core.py", TRAINING),
        ("rng.py", TRAINING | PARTITIONS | ANALYSIS | {"data digits"}),
        ("tensors.py", TRAINING | PARTITIONS | ANALYSIS | DATA),
        ("cli.py", set()),
        ("jobs/commands.py", set()),
        ("jobs/studies.py", set()),
        ("study/study.py", set()),
        ("algorithms/names.py", set()),
        ("study/status.py", set()),
        ("study/layout.py", REPORTING | {"sweeps"}),
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
WITHOUT_RESULTS = {"cli.py", "jobs/commands.py", "jobs/importing.py", "jobs/collecting.py"}
WITHOUT_RESULTS |= {"data/partition/picture.py"}
WITHOUT_RESULTS |= {"jobs/studies.py", "algorithms/names.py", "report/comparison.py"}
WITHOUT_RESULTS |= {"progress.py", "fingerprint.py", "__init__.py", "__main__.py"}
READING = (
    "study",
    "cells",
    "checking",
    "checking_shown",
    "ownership",
    "resolving",
    "schema/study",
    "schema/constants",
    "schema/resources",
    "schema/__main__",
    "inputs",
    "invocation",
    "own",
    "remaining",
    "resources",
    "status",
    "costs",
    "messages",
    "jobfile",
    "sweep",
    "schema/sweep",
    "chosen",
    "choosing",
    "schema/chosen",
)
WITHOUT_RESULTS |= {f"study/{name}.py" for name in READING} | LIBRARY


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


# Code of the user's own: everything that a method or a model imports, but for installed packages


class Package:
    """A package of one's own, below a folder that is on the path."""

    def __init__(self, folder, files):
        self.folder = folder
        for file, text in files.items():
            self.write(file, text)

    def write(self, file, text):
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        forget()

    def method(self):
        return fingerprint.of_training("own.methods.mine:build", "smallcnn")

    def model(self):
        return fingerprint.of_training("fedavg", "own.methods.mine:net")

    def both(self):
        return self.method(), self.model(), fingerprint.of_analysis("hessian", "own.methods.mine:n")


@pytest.fixture
def own(tmp_path, monkeypatch, read_once):
    """A package without `__init__` beside one with, both on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    init = {f"own/{folder}__init__.py": "" for folder in ("", "methods/", "tools/")}
    return Package(tmp_path, {**init, "own/methods/mine.py": "def build(): return 1\n"})


IMPORTS = {
    "from . import helper": "own/methods/helper.py",
    "from .helper import f": "own/methods/helper.py",
    "from .helper import *": "own/methods/helper.py",
    "from ..tools.deep import f": "own/tools/deep.py",
    "from .. import tools": "own/tools/__init__.py",
    "from ..tools import deep": "own/tools/deep.py",
    "import own.tools.deep": "own/tools/deep.py",
    "import own.tools.deep as d": "own/tools/deep.py",
    "from own.tools import deep": "own/tools/deep.py",
    "from own.tools.deep import f as g": "own/tools/deep.py",
    "import beside": "beside.py",
    "from beside import f": "beside.py",
    "import nameless.part": "nameless/part.py",  # a folder without __init__.py
    "from nameless import part": "nameless/part.py",
    "def build():\n    from . import helper": "own/methods/helper.py",
    "async def build():\n    import beside": "beside.py",
    "class A:\n    import beside": "beside.py",
    "try:\n    from . import fast\nexcept ImportError:\n    from . import helper": (
        "own/methods/helper.py"
    ),
    "if True:\n    import beside": "beside.py",
    "with a:\n    import beside": "beside.py",
    "for a in b:\n    import beside": "beside.py",
    "import importlib\nf = importlib.import_module('beside')": "beside.py",
    "f = __import__('beside')": "beside.py",
    "from importlib import import_module\nf = import_module('.helper', __package__)": (
        "own/methods/helper.py"
    ),
}


@pytest.mark.parametrize("statement", IMPORTS)
def test_an_edit_of_what_it_imports_reaches_a_method_or_model_of_ones_own(statement, own):
    own.write("own/methods/mine.py", f"{statement}\ndef build(): return 1\n")
    file = IMPORTS[statement]
    own.write(file, "def f(): return 1\n")
    before = own.both()
    own.write(file, "# A comment.\ndef f(): return 1\n")
    assert own.both() == before
    own.write(file, "def f(): return 2\n")
    assert not {*own.both()} & {*before}


@pytest.mark.parametrize("file", ["own/__init__.py", "own/methods/__init__.py"])
def test_the_packages_around_it_count_since_they_run_first(file, own):
    before = own.both()
    own.write(file, "SWITCH = True\n")
    assert not {*own.both()} & {*before}


def test_a_chain_of_imports_counts_to_its_end_and_circles_end(own):
    own.write("own/methods/mine.py", "from . import a\n")
    own.write("own/methods/a.py", "from ..tools import b\n")
    own.write("own/tools/b.py", "import beside\nfrom ..methods import mine\n")
    own.write("beside.py", "x = 1\n")
    before = own.both()
    own.write("beside.py", "x = 2\n")
    assert not {*own.both()} & {*before}


def test_a_module_that_is_beside_it_and_not_imported_does_not_count(own):
    before = own.both()
    own.write("own/methods/other.py", "x = 1\n")
    own.write("own/tools/unused.py", "x = 1\n")
    assert own.both() == before


def test_imports_for_type_checkers_alone_do_not_count(own):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import beside\n"
    own.write("own/methods/mine.py", text)
    own.write("beside.py", "x = 1\n")
    before = own.both()
    own.write("beside.py", "x = 2\n")
    assert own.both() == before


def test_installed_packages_do_not_count(own, monkeypatch):
    """Their versions are in every manifest."""
    own.write("own/methods/mine.py", "import torch, numpy.linalg, json\nimport installed\n")
    monkeypatch.syspath_prepend(own.folder / "lib" / "site-packages")
    own.write("lib/site-packages/installed.py", "x = 1\n")
    before = own.both()
    own.write("lib/site-packages/installed.py", "x = 2\n")
    assert own.both() == before
    assert fingerprint._source("installed") is fingerprint._source("torch") is None


def test_an_extension_of_ones_own_counts_by_its_bytes(own):
    from importlib.machinery import EXTENSION_SUFFIXES

    own.write("own/methods/mine.py", "from . import fast\n")
    own.write(f"own/methods/fast{EXTENSION_SUFFIXES[0]}", "one")
    before = own.both()
    own.write(f"own/methods/fast{EXTENSION_SUFFIXES[0]}", "two")
    assert not {*own.both()} & {*before}


def test_a_method_and_a_model_of_ones_own_do_not_count_for_each_other(own):
    own.write("nets.py", "def net(): return 1\n")

    def taken():
        return [
            fingerprint.of_training("own.methods.mine:build", "nets:net"),
            fingerprint.of_training("fedavg", "nets:net"),
            fingerprint.of_training("own.methods.mine:build", "cnn"),
        ]

    before = taken()
    own.write("own/methods/mine.py", "def build(): return 2\n")
    assert [a != b for a, b in zip(before, taken(), strict=True)] == [True, False, True]


def test_code_of_ones_own_that_is_no_python_is_one_line(own):
    own.write("own/methods/mine.py", "from . import helper\n")
    own.write("own/methods/helper.py", "def f(:\n")
    with refused("own/methods/helper.py", "line 1"):
        own.method()


def test_finding_code_of_ones_own_runs_none_of_it(own):
    own.write("own/__init__.py", "raise SystemExit('was imported')\n")
    own.write("own/methods/mine.py", "from ..tools import deep\n")
    own.write("own/tools/deep.py", "raise SystemExit('was imported')\n")
    assert len({*own.both()}) == 3
    assert fingerprint.exists("own.tools.deep") and not fingerprint.exists("own.tools.nothing")
    assert not [name for name in sys.modules if name.split(".")[0] == "own"]


def test_a_users_own_method_differs_from_others(own):
    assert own.method() != fingerprint.of_training("fedavg", "smallcnn")


def test_fingerprints_import_neither_torch_nor_the_code_they_cover():
    code = """
import sys
from fedgloss import fingerprint
fingerprint.of_training("fedgloss", "resnet18"), fingerprint.of_report(), fingerprint.of_figures()
fingerprint.of_analysis("hessian", "cnn"), fingerprint.of_data("digits")
print([name for name in ("torch", "numpy", "fedgloss.engine.assembly") if name in sys.modules])
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
