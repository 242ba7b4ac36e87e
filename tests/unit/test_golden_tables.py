"""Golden tables: every verdict, every outcome of a claim, ties, and what is missing, as text.

`python tests/unit/test_golden_tables.py FOLDER` writes the files anew, from runs that it makes in
an empty folder; read their difference before you commit it.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fedgloss.files import write_text
from fedgloss.report import tables, verdict
from fedgloss.report.model import Grid, Table
from fedgloss.report.results import DIVERGED, NOT_REACHED, NOT_RUN
from fedgloss.report.writing import texts, write
from fedgloss.study.study import Study, check_study, load_study
from studies import ROOT
from toy_results import LAMBDA1, SEEDS, summary, write_cell

GOLDEN = Path(__file__).parent / "golden"
LONG = re.compile(r"\d+\.\d{9,}(e[-+]\d+)?")
C10 = {"dataset": "cifar10", "alpha": "0.05", "model": "cnn"}
C100 = {"dataset": "cifar100", "alpha": "0", "model": "cnn"}
LANDMARKS = {"dataset": "landmarks-user-160k", "alpha": "natural", "model": "mobilenetv2"}
COLUMNS = [C10, C100, LANDMARKS]
# By data set and label: the accuracies of three seeds; "x" diverged, None not run.
FINAL: dict[str, dict[str, tuple[float | str | None, ...]]] = {
    "cifar10": {
        "fedavg": (65.2, 65.9, 66.0),  # agrees
        "fedprox": (71.0, 71.1, 71.2),  # above
        "feddyn": (60.0, 72.0, 84.0),  # uncertain
        "scaffold": (54.5, None, 53.5),  # incomplete
        "fedgloss-sgd": (76.4, 76.4, 76.4),  # close
        "fedsam": (60.0, 60.1, 60.2),  # below
        "feddyn-sam": (81.0, "x", 81.9),  # diverged here only
        "fedgamma": (None, None, None),  # not run
        "fedsmoo": (84.1, 84.4, 84.7),  # a tie with FedGloSS
        "fedgloss": (84.2, 84.4, 84.6),
        "fedgloss-short": (70.0, 70.5, 71.0),  # 200 rounds
        "mine": (50.0, 50.0, 50.0),  # the paper has no such method
    },
    "cifar100": {
        "fedavg": (28.3, 28.6, 28.7),
        "fedprox": (None, None, None),
        "feddyn": ("x", "x", "x"),  # diverged in both
        "scaffold": (29.0, 29.1, 29.2),  # diverged in the paper only; not reached there
        "fedgloss-sgd": ("x", 42.4, 42.6),
        "fedsam": (28.0, 28.1, 28.2),  # FedAvg's accuracy is not reached here
        "feddyn-sam": ("x", None, None),
        "fedgamma": (20.0, 20.1, 20.2),  # not reached in both
        "fedsmoo": (47.5, 47.8, 48.0),
        "fedgloss": (50.4, 50.8, 51.2),
        "fedgloss-short": (30.0, 30.5, 31.0),
        "mine": (None, 20.0, None),
    },
    "landmarks-user-160k": {
        "fedavg": (50.0, 50.2, 50.4),
        "scaffold": ("x", "x", "x"),  # as the paper says
        "fedsam": (50.1, 50.5, 50.2),  # above FedAvg, or not
        "fedgamma": ("x", "x", "x"),
        "fedsmoo": (50.0, 52.0, 54.0),
        "fedgloss": (53.4, 53.5, 53.9),  # 3.4 above FedAvg
    },
}
NAMES = ("verdicts", "sharpness", "gain", "communication", "claims", "costs")


def study() -> Study:
    """All of it, as a study file would say it."""
    training = {"evaluate_every": 1000, "last": 1000, "record": ["communication"]}
    short = {"rounds": 200, "evaluate_every": 10, "last": 20}
    kinds: dict[str, dict[str, object]] = {
        "verdicts": {"kind": "methods", "paper": "table3", "columns": [C10, C100]},
        "sharpness": {"kind": "methods", "show": ["lambda1"], "columns": [C10, C100]},
        "gain": {
            "kind": "methods",
            "paper": "table5",
            "show": ["accuracy", "accuracy_gain"],
            "columns": [LANDMARKS],
            "rows": [*FINAL["landmarks-user-160k"]],
        },
        "communication": {"kind": "communication", "paper": "table6", "columns": [C100]},
        "claims": {"kind": "claims", "paper": "claims", "title": "Claims: 100 % & <more>"},
        "costs": {"kind": "costs", "paper": "table2", "columns": [C10]},
    }
    config = {
        "study": "toy",
        "seeds": [*SEEDS],
        "training": training,
        "algorithms": {
            "fedgloss-short": {"method": "fedgloss", "training": short},
            "mine": {"method": "fedopt", "name": "Mine"},
        },
        "grid": [
            {
                "dataset": column["dataset"],
                "alphas": [column["alpha"]],
                "model": column["model"],
                "algorithms": [*FINAL[column["dataset"]]],
            }
            for column in COLUMNS
        ],
        "tables": kinds,
    }
    return check_study(config, "config/golden.yaml")


def write_runs(folder: Path) -> Study:
    """The results folder of these runs; eigenvalues fall with the accuracy."""
    made = study()
    for i, label in enumerate(FINAL["cifar10"]):
        LAMBDA1.setdefault(label, 50.0 - 4 * i)
    for cell in made.cells:
        final = FINAL[cell.dataset][cell.algorithm][SEEDS.index(cell.seed)]
        if final is not None:
            write_cell(folder, cell, final, made)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    known = dict(LAMBDA1)
    write_runs(folder)
    LAMBDA1.clear()
    LAMBDA1.update(known)
    return folder


def shown(name: str, folder: Path) -> dict[str, str]:
    """A table's texts by suffix; fingerprints of code, which each edit changes, are named."""
    made = study()
    found = texts(tables.build(made, name, folder))
    for label in dict.fromkeys(cell.algorithm for cell in made.cells):
        for column in COLUMNS:
            code = made.code(label, column["model"])
            found["csv"] = found["csv"].replace(code, f"code-of-{label}")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_table_is_the_golden_one(name: str, folder: Path) -> None:
    for suffix, text in shown(name, folder).items():
        golden = (GOLDEN / f"{name}.{suffix}").read_text(encoding="utf-8")
        assert sized(text, suffix) == sized(golden, suffix), suffix


def sized(text: str, suffix: str) -> str:
    """A table without the last digits of numbers, which a C library's logarithms decide."""
    return LONG.sub(lambda digits: f"{float(digits[0]):.12g}", text) if suffix == "csv" else text


def test_the_golden_tables_have_every_verdict() -> None:
    said = "".join((GOLDEN / f"{n}.md").read_text(encoding="utf-8") for n in NAMES)
    words = {value.word for value in vars(verdict).values() if isinstance(value, verdict.Verdict)}
    found = {word for word in words if re.search(rf"\| . {re.escape(word)} +\|", said)}
    assert words - found == set()
    for word in ("incomplete 2/3", "200 of 20,000 rounds"):
        assert f"· {word}" in said


def test_the_golden_claims_have_every_outcome() -> None:
    said = (GOLDEN / "claims.csv").read_text(encoding="utf-8")
    there = ("holds", "fails", "unclear")
    for word in (*there, "not run", "seeds missing", "not printed", "no number"):
        assert f",{word}," in said or f",{word}\n" in said, word
    table = (GOLDEN / "claims.md").read_text(encoding="utf-8")
    assert "| open (" in table


def test_ties_are_bold_together_and_only_where_another_is_worse() -> None:
    lines = (GOLDEN / "verdicts.md").read_text(encoding="utf-8").splitlines()
    bold = [line.split("|")[1].strip() for line in lines if "| **8" in line.replace("  ", "")]
    assert bold == ["FedSMOO", "FedGloSS"]


TEX = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex is installed")
DOCUMENT = r"""\documentclass{article}
\usepackage[a4paper,margin=2cm]{geometry}
\usepackage{array,booktabs}
\begin{document}
Before.
%s
After.
\end{document}
"""


def compiled(file: Path) -> int:
    """Compile a document, of which nothing may be an error or too wide; returns its pages."""
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", file.name],
        cwd=file.parent,
        capture_output=True,
        timeout=120,
    )
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert not re.findall(r"Overfull .hbox.*", log)
    (pages,) = re.findall(r"Output written on [^(]*\((\d+) pages?", log)
    return int(pages)


@TEX
@pytest.mark.parametrize("name", NAMES)
def test_a_tables_latex_compiles_by_itself(name: str, tmp_path: Path) -> None:
    shutil.copy(GOLDEN / f"{name}.tex", tmp_path)
    assert compiled(tmp_path / f"{name}.tex") >= 1


@TEX
def test_all_tables_of_the_papers_study_compile_by_input(tmp_path: Path) -> None:
    paper = load_study(ROOT / "config" / "paper.yaml")
    for name in paper.tables:
        write(tables.build(paper, name, tmp_path), tmp_path)
    for name in NAMES:
        shutil.copy(GOLDEN / f"{name}.tex", tmp_path)
    inputs = "\n".join(rf"\input{{{name}}}" for name in (*paper.tables, *NAMES))
    (tmp_path / "main.tex").write_text(DOCUMENT % inputs, encoding="utf-8")
    assert compiled(tmp_path / "main.tex") > 5


@TEX
def test_long_tables_go_on_over_pages_in_two_columns(folder: Path, tmp_path: Path) -> None:
    """Each part fits its page, under the number of the first; another study's has another label."""
    claims = tables.build(study(), "claims", folder)
    assert isinstance(claims, Grid)
    write(replace(claims, lines=claims.lines * 3), tmp_path)
    write(replace(claims, study="other", name="others"), tmp_path)
    inputs = r"See \ref{tab:toy-claims} and \ref{tab:other-others}.\input{claims}\input{others}"
    document = (DOCUMENT % inputs).replace("{article}", "[twocolumn]{article}", 1)
    (tmp_path / "main.tex").write_text(document, encoding="utf-8")
    assert compiled(tmp_path / "main.tex") > 5
    log = (tmp_path / "main.log").read_text(encoding="utf-8", errors="replace")
    assert "Float too large" not in log
    assert "multiply" not in log
    parts = (tmp_path / "claims.tex").read_text(encoding="utf-8").split(r"\begin{table*}")[1:]
    assert [part.count(r"\caption") for part in parts] == [1] + [0] * (len(parts) - 1)
    assert all("continued" in part for part in parts[1:])


WIDE = {
    "rounds": summary(18_880.0, 8_880.0, DIVERGED, NOT_REACHED),
    "cost": summary(1.88, 0.88, NOT_REACHED),
    "lambda1": summary(1888.88, 888.88, NOT_RUN),
}
PERCENT = summary(88.8, 48.8, DIVERGED)


@TEX
@pytest.mark.parametrize(
    ("config", "name"), [("paper", "table6"), ("paper", "table3"), ("reproduction", "table3")]
)
def test_a_table_fits_a_page_whatever_comes_out(config: str, name: str, tmp_path: Path) -> None:
    table = tables.build(load_study(ROOT / "config" / f"{config}.yaml"), name, tmp_path)
    assert isinstance(table, Table)
    ours = [WIDE.get(column.metric, PERCENT) for column in table.columns]
    rows = [
        replace(
            row,
            entries=tuple(
                replace(entry, ours=summary, best=True)
                for entry, summary in zip(row.entries, ours, strict=True)
            ),
        )
        for row in table.rows
    ]
    write(replace(table, rows=tuple(rows)), tmp_path)
    (tmp_path / "main.tex").write_text(DOCUMENT % rf"\input{{{name}}}", encoding="utf-8")
    assert compiled(tmp_path / "main.tex") >= 1


if __name__ == "__main__":
    runs = Path(sys.argv[1])
    write_runs(runs)
    for name in NAMES:
        for suffix, text in shown(name, runs).items():
            write_text(GOLDEN / f"{name}.{suffix}", text)
