"""Tables: what stands in each cell, in Markdown, LaTeX and CSV."""

import csv
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fedgloss.errors import InputError
from fedgloss.files import sha256
from fedgloss.report import formats, html, latex, tables
from fedgloss.report.published import published
from fedgloss.report.results import DIVERGED, NOT_COMPUTED, NOT_REACHED, NOT_RUN, OUTDATED, Results
from fedgloss.report.seeds import Summary
from fedgloss.report.tables import Table
from fedgloss.report.writing import write
from fedgloss.study.layout import Layout
from fedgloss.study.study import Cell
from toy_results import (
    C10,
    C100,
    ROWS,
    SEEDS,
    cell,
    edit_manifest,
    make_study,
    summary,
    write_cell,
    write_results,
)

MARKDOWN = """\
**Accuracy (18 of 24 runs)**

| Method         |   Comm. cost |   CIFAR-10, α = 0: accuracy (%) |      paper | verdict              |   CIFAR-100, α = 0: accuracy (%) |      paper | verdict            |
|:---------------|-------------:|--------------------------------:|-----------:|:---------------------|---------------------------------:|-----------:|:-------------------|
| **Client SGD** |              |                                 |            |                      |                                  |            |                    |
| FedAvg         |           1× |                60.3 ± 1.5 (n=3) | 59.9 ± 0.4 | = agrees             |                 28.5 ± 0.5 (n=3) | 28.6 ± 0.7 | = agrees           |
| SCAFFOLD       |           2× |         25.5 ± 0.7 (n=2, × 1/3) | 25.1 ± 3.7 | ≠ diverged here only |               × (1/3, 2 not run) |          × | = diverged in both |
| **Client SAM** |              |                                 |            |                      |                                  |            |                    |
| FedDyn + SAM   |           1× |                80.5 ± 1.8 (n=3) | 79.3 ± 3.1 | ∼ uncertain          |                          × (3/3) |          × | = diverged in both |
| FedGloSS       |           1× |              83.8 ± 1.1 (n=2/3) | 83.9 ± 0.4 | · incomplete 2/3     |                            n=0/3 | 50.8 ± 0.8 | · not run          |
"""  # noqa: E501

LATEX = r"""\begin{tabular}{lrr@{\ }c@{\ }lr@{\ }c@{\ }l}
\toprule
 &  & \multicolumn{3}{c}{CIFAR-10, $\alpha$ $=$ 0} & \multicolumn{3}{c}{CIFAR-100, $\alpha$ $=$ 0} \\
\cmidrule(lr){3-5} \cmidrule(lr){6-8}
Method & Comm. cost & accuracy (\%) &  & paper & accuracy (\%) &  & paper \\
\midrule
\multicolumn{8}{l}{\textbf{Client SGD}} \\
FedAvg & 1$\times$ & 60.3 $\pm$ 1.5 & $=$ & 59.9 $\pm$ 0.4 & 28.5 $\pm$ 0.5 & $=$ & 28.6 $\pm$ 0.7 \\
SCAFFOLD & 2$\times$ & 25.5 $\pm$ 0.7 {\tiny n$=$2, $\times$ 1/3} & $\neq$ & 25.1 $\pm$ 3.7 & $\times$ {\tiny 1/3, 2 not run} & $=$ & $\times$ \\
\midrule
\multicolumn{8}{l}{\textbf{Client SAM}} \\
FedDyn + SAM & 1$\times$ & 80.5 $\pm$ 1.8 & $\sim$ & 79.3 $\pm$ 3.1 & $\times$ & $=$ & $\times$ \\
FedGloSS & 1$\times$ & 83.8 $\pm$ 1.1 {\tiny n$=$2/3} & $\cdot$ & 83.9 $\pm$ 0.4 & {\tiny n$=$0/3} & $\cdot$ & 50.8 $\pm$ 0.8 \\
\bottomrule
\end{tabular}
"""  # noqa: E501


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("results"))


def build(folder: Path, name: str, **config: object) -> Table:
    return tables.build(make_study(**config), name, folder)


def test_markdown_is_the_golden_one(folder: Path) -> None:
    """Sample std, one decimal; missing seeds, crosses and the paper's numbers as agreed."""
    text = formats.to_markdown(build(folder, "table3"))
    assert text.startswith(MARKDOWN)
    notes = text.removeprefix(MARKDOWN)
    for part in (
        "ddof = 1",
        "0, 42 and 200299",
        "mean test accuracy of the evaluated rounds among the last 1,000 of 10,000 or 20,000",
        "Verdict on ours against the paper's.",
        "FedGloSS, CIFAR-100, α = 0: tables 7 and 8 print 50.6 ± 0.6.",
        "results/runs/toy/cifar10/alpha-0/cnn/fedavg/seed-0/metrics.csv",
    ):
        assert part in notes


def test_latex_is_the_golden_one(folder: Path) -> None:
    assert LATEX in latex.to_latex(build(folder, "table3"))


def test_files_are_byte_stable(folder: Path, tmp_path: Path) -> None:
    for again in ("one", "two"):
        write(build(folder, "table3"), tmp_path / again)
    for suffix in ("csv", "md", "tex"):
        first, second = (tmp_path / f / f"table3.{suffix}" for f in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("name", ["table3", "table6", "table7"])
def test_latex_compiles_with_booktabs_alone(folder: Path, tmp_path: Path, name: str) -> None:
    hostile = "100 % of a_b & {c} #1 ~ ^ $x$ \\ <y>"
    table = replace(build(folder, name), title=hostile)
    (tmp_path / "main.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}"
        + latex.to_latex(table)
        + r"\end{document}",
        encoding="utf-8",
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout.decode()[-2000:]


def test_names_in_any_script_compile_or_are_spelled_by_their_codes() -> None:
    assert latex.tex("smaller ρ, Δ, Ω, Α and ά") == (
        r"smaller $\rho$, $\Delta$, $\Omega$, A and $\alpha$"
    )
    assert latex.tex("x₂ é — µ ﬁ") == "x$_2$ é — µ fi"
    assert latex.tex("a_b {c} <|>") == r"a\_b \{c\} $<$$|$$>$"
    assert latex.tex("中 😀 ą") == "U+4E2D U+1F600 a"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_every_letter_that_is_left_as_it_is_compiles(tmp_path: Path) -> None:
    every = [*latex.KNOWN, *latex.TEX, *map(chr, range(0x370, 0x400)), "中", "`ρ`"]
    text = "\n\n".join(map(latex.tex, sorted(every)))
    (tmp_path / "main.tex").write_text(
        r"\documentclass{article}\begin{document}" + text + r"\end{document}", encoding="utf-8"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_csv_has_every_number_in_full(folder: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(formats.to_csv(build(folder, "table3")))))
    here = [r for r in rows if (r["algorithm"], r["dataset"]) == ("fedavg", "cifar10")]
    assert [(r["source"], r["seed"], r["mean"]) for r in here] == [
        ("seed", "0", "59.0"),
        ("seed", "42", "60.0"),
        ("seed", "200299", "62.0"),
        ("ours", "", repr(181 / 3)),
        ("paper table 3", "", "59.9"),
    ]
    ours = here[3]
    assert float(ours["std"]) == pytest.approx((7 / 3) ** 0.5, rel=1e-15)
    assert (ours["n"], ours["planned"], ours["diverged"]) == ("3", "3", "0")
    assert ours["verdict"] == "agrees"
    run, code = "runs/toy/cifar10/alpha-0/cnn/fedavg/seed-0", make_study().code("fedavg", "cnn")
    assert (here[0]["run"], here[0]["code"], here[0]["rounds"]) == (run, code, "10000")
    assert (here[0]["device"], here[0]["precision"]) == ("cpu", "float32, TF32 off")
    assert here[0]["metrics_sha256"] == sha256(folder / run / "metrics.csv")
    assert ours["run"] == "" and here[4]["line"]
    cross = [r for r in rows if (r["algorithm"], r["dataset"]) == ("feddyn-sam", "cifar100")]
    assert [(r["source"], r["mean"], r["diverged"], r["status"]) for r in cross] == [
        ("ours", "", "3", ""),
        ("paper table 3", "", "", "diverged"),
    ]


@pytest.mark.parametrize(
    ("ours", "text"),
    [
        (summary(1.25, 1.35, 1.36), "1.3 ± 0.1 (n=3)"),
        (summary(1.0, NOT_RUN, NOT_RUN), "1.0 (n=1/3)"),
        (summary(1.0), "1.0 (n=1)"),
        (summary(1.0, 2.0, DIVERGED), "1.5 ± 0.7 (n=2, × 1/3)"),
        (summary(1.0, DIVERGED, NOT_RUN), "1.0 (n=1/3, × 1/3)"),
        (summary(DIVERGED, DIVERGED, DIVERGED), "× (3/3)"),
        (summary(DIVERGED, NOT_RUN, NOT_RUN), "× (1/3, 2 not run)"),
        (summary(NOT_RUN, NOT_RUN, NOT_RUN), "n=0/3"),
        (summary(), ""),
        (summary(1.0, 2.0, NOT_REACHED), "1.5 ± 0.7 (2/3 reached)"),
        (summary(NOT_REACHED, NOT_REACHED, NOT_REACHED), "–"),
        (summary(NOT_REACHED, NOT_RUN, NOT_RUN), "– (1 not reached, 2 not run)"),
        (summary(DIVERGED, NOT_REACHED, NOT_REACHED), "× (1/3, 2 not reached)"),
        (summary(1.0, 2.0, OUTDATED), "1.5 ± 0.7 (n=2/3, outdated)"),
        (summary(1.0, NOT_RUN, OUTDATED), "1.0 (n=1/3, 1 not run, 1 outdated)"),
        (summary(NOT_COMPUTED, NOT_COMPUTED), "n=0/2, not computed"),
        (summary(DIVERGED, OUTDATED), "× (1/2, 1 outdated)"),
        (summary(1.0, 2.0, against="FedAvg n=1/2"), "1.5 ± 0.7 (n=2, FedAvg n=1/2)"),
    ],
)
def test_nothing_is_averaged_silently(folder: Path, ours: Summary, text: str) -> None:
    table = build(folder, "table3")
    entry = replace(table.rows[0].entries[0], ours=ours, best=False)
    row = replace(table.rows[0], entries=(entry, *table.rows[0].entries[1:]))
    line = formats.to_markdown(replace(table, rows=(row,))).splitlines()[5]
    assert line.split("|")[3].strip() == text


def test_outdated_runs_are_left_out_and_a_note_says_so(folder: Path) -> None:
    """They were made with another learning rate than the study has now."""
    edited = {"fedavg": {"training": {"lr": 0.5}}}
    table = build(folder, "table3", algorithms=edited)
    assert [entry.ours.missing for entry in table.rows[0].entries] == [3, 3]
    assert [entry.ours.n for entry in table.rows[2].entries] == [3, 0]
    (note,) = (note for note in table.notes if "outdated" in note)
    assert note == (
        "6 runs are outdated and left out, as if not run: cifar10/alpha-0/cnn/fedavg/seed-0 first,"
        " settings.training.lr is 0.01 in the run, 0.5 here; delete its folder, or run the cell"
        " again with snakemake --force."
    )
    assert not [note for note in build(folder, "table3").notes if "outdated" in note]


def bold(table: Table) -> set[tuple[str, int]]:
    return {(row.label, i) for row in table.rows for i, e in enumerate(row.entries) if e.best}


def write_cell_anew(folder: Path, one: Cell, final: float) -> None:
    for kind in ("runs", "analysis"):
        shutil.rmtree(folder / kind / "toy" / str(one))
    write_cell(folder, one, final)


def test_best_is_marked_in_each_group_among_methods_with_all_seeds(tmp_path: Path) -> None:
    """None where only one has them: SCAFFOLD diverged at a seed, one of FedGloSS is missing."""
    folder = write_results(tmp_path)
    assert bold(build(folder, "table3")) == bold(build(folder, "table7")) == set()
    write_cell(folder, cell("cifar10", "fedgloss", 42), 83.9)
    assert bold(build(folder, "table3")) == bold(build(folder, "table7")) == {("fedgloss", 0)}
    for seed, final in zip((0, 42, 200299), (83.01, 83.91, 84.61), strict=True):
        write_cell_anew(folder, cell("cifar10", "feddyn-sam", seed), final)
    assert bold(build(folder, "table3")) == set()  # printed alike: 83.8


def test_lambda1_names_its_hessian_and_data(folder: Path) -> None:
    notes = " ".join(build(folder, "table7").notes)
    assert "average of the last 1,000 rounds' global models" in notes
    assert "all training images without augmentation (`data: paper`)" in notes


def test_columns_without_published_numbers_have_no_verdict(folder: Path) -> None:
    study = make_study()
    cells = tuple(replace(c, alpha="0.3") if c.dataset == "cifar100" else c for c in study.cells)
    spec = {"kind": "methods", "columns": [{**C100, "alpha": "0.3"}], "rows": ROWS}
    study = replace(study, cells=cells, config={**study.config, "tables": {"own": spec}})
    text = formats.to_markdown(tables.build(study, "own", folder))
    assert "verdict" not in text.lower()
    assert "paper" not in text


def test_communication_counts_to_fedavgs_final_accuracy(folder: Path) -> None:
    """FedAvg ends at 60.33; FedDyn + SAM climbs by 8 a tenth and is there after 8 of 10."""
    rows = {row.label: row.entries for row in build(folder, "table6").rows}
    assert rows["fedavg"][0].ours.values == {0: 10000, 42: 10000, 200299: 10000}
    assert rows["fedavg"][1].ours.mean == 1.0
    assert rows["feddyn-sam"][0].ours.mean == 8000
    assert rows["feddyn-sam"][1].ours.mean == pytest.approx(0.8)
    assert rows["fedgloss"][0].ours.missing == 1
    scaffold = rows["scaffold"][0].ours
    assert (scaffold.n, scaffold.diverged, scaffold.unreached) == (0, 1, 2)
    assert rows["fedgloss"][0].verdict.word == "incomplete 2/3"
    assert rows["fedgloss"][1].verdict is None  # the paper's cost is its rounds, to one digit


def test_fedavg_is_counted_by_the_rule_of_the_others_too(folder: Path) -> None:
    """Its seeds end at 59, 60 and 62 %, climbing by tenths: one passes their mean, at the end."""
    first = build(folder, "table6").rows[-1]
    assert (first.name, first.client) == ("FedAvg, first reached", "sgd")
    rounds, cost = (entry.ours for entry in first.entries)
    assert rounds.values == {200299: 10000} and rounds.unreached == 2
    assert cost.values == {200299: 1.0}
    assert not any(entry.paper or entry.best for entry in first.entries)
    final = {"fedavg": {"training": {"evaluate_every": 1000}}}
    assert "fair savings" in " ".join(build(folder, "table6", algorithms=final).notes)


def test_communication_to_fedglosss_accuracy_stands_beside_section_6_4_1(folder: Path) -> None:
    """FedGloSS ends at 83.8; FedDyn + SAM, by tenths up to 82.5, never comes there."""
    spec = {"kind": "communication", "against": "fedgloss", "columns": [C10], "rows": ROWS}
    table = build(folder, "table7", tables={"table7": spec})
    rows = {row.label: row.entries for row in table.rows}
    assert rows["fedgloss"][0].ours.values == {0: 10000, 200299: 10000}
    assert rows["feddyn-sam"][0].ours.unreached == 3
    assert table.rows[-1].name == "FedGloSS, first reached"
    naive = make_study(algorithms={"scaffold": {"method": "naivefedgloss"}}, tables={"t": spec})
    column = naive.tables["t"].columns[0]
    assert published(naive, column, "scaffold", "cost_vs_fedgloss").mean == 1.96
    assert published(naive, column, "scaffold", "rounds_to_fedgloss") is None


def without_fedavg(folder: Path, *finals: float | str | None) -> Path:
    """Results whose FedAvg on CIFAR-10 came to something else."""
    for seed, final in zip((0, 42, 200299), finals, strict=True):
        for kind in ("runs", "analysis"):
            shutil.rmtree(folder / kind / "toy" / str(cell("cifar10", "fedavg", seed)))
        if final is not None:
            write_cell(folder, cell("cifar10", "fedavg", seed), final)
    return folder


@pytest.mark.parametrize(
    ("finals", "lacks", "mean"),
    [
        ((59.0, None, None), "FedAvg n=1/3", 8000),
        ((59.0, "x", 60.0), "FedAvg n=2, × 1/3", 8000),
    ],
)
def test_what_is_counted_against_a_part_of_fedavg_says_so(
    finals, lacks: str, mean: float, tmp_path: Path
) -> None:
    """Their own seeds are all there, and the number will change: no bold face and no verdict."""
    folder = without_fedavg(write_results(tmp_path), *finals)
    write_cell(folder, cell("cifar10", "fedgloss", 42), 83.9)
    table = build(folder, "table6")
    rows = {row.label: row.entries for row in table.rows}
    for entry in rows["feddyn-sam"]:
        assert (entry.ours.n, entry.ours.against, entry.best) == (3, lacks, False)
    assert rows["feddyn-sam"][0].ours.mean == mean
    assert rows["feddyn-sam"][0].verdict.word == f"incomplete, {lacks}"
    assert f"8,000 ± 0 (n=3, {lacks})" in formats.to_markdown(table)
    assert f"`{lacks}`: counted against these seeds alone." in " ".join(table.notes)
    assert lacks.replace("=", "$=$").replace("×", r"$\times$") in latex.to_latex(table)
    assert f",{lacks}," in formats.to_csv(table).replace('"', "")
    assert not rows["fedavg"][0].ours.against  # its own count says it


@pytest.mark.parametrize(
    ("final", "why"), [("x", "FedAvg diverged"), (None, "FedAvg not run")], ids=str
)
def test_without_any_fedavg_there_is_nothing_to_count_against(
    final, why: str, tmp_path: Path
) -> None:
    folder = without_fedavg(write_results(tmp_path), final, final, final)
    (entry, _) = next(r.entries for r in build(folder, "table6").rows if r.label == "feddyn-sam")
    assert (entry.ours.nothing, entry.verdict.word) == (why, why)
    assert formats.count(entry.ours) == f"n=0/3, {why}"
    gain = {"kind": "methods", "columns": [C10], "rows": ROWS, "show": ["accuracy_gain"]}
    table = build(folder, "t", tables={"t": gain})
    assert f" n=0/3, {why} |" in formats.to_markdown(table)


def test_where_nothing_was_evaluated_before_half_the_number_is_not_called_not_run(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for seed in (0, 42, 200299):
        run = Results(make_study(), tmp_path).run(cell("cifar10", "fedavg", seed))
        edit_manifest(run, lambda manifest: manifest.update(accuracy_at_half=None))
    half = {"kind": "methods", "columns": [C10], "rows": ROWS, "show": ["accuracy_at_half"]}
    table = build(tmp_path, "t", tables={"t": half})
    assert table.rows[0].entries[0].ours.nothing == "not evaluated then"


COSTS = {"table2": {"kind": "costs", "columns": [C10], "rows": ROWS}}


def test_costs_are_those_of_the_runs_beside_table_2(folder: Path) -> None:
    table = build(folder, "table2", tables=COSTS)
    assert [column.metric for column in table.columns] == ["communication_cost", "gradients"]
    rows = {row.label: row.entries for row in table.rows}
    assert [rows[label][0].ours.mean for label in ROWS] == [1.0, 2.0, 1.0, 1.0]
    assert [rows[label][0].verdict.word for label in ROWS[:3]] == ["agrees"] * 3
    # The synthetic runs count one gradient for every method; with client SAM the paper has two.
    assert [rows[label][1].paper.mean for label in ROWS] == [1, 1, 2, 2]
    assert [rows[label][1].verdict.word for label in ROWS[:3]] == ["agrees", "agrees", "below"]
    assert not any(entry.best for row in table.rows for entry in row.entries)
    assert not table.has_costs  # they would stand there twice


def test_what_diverged_in_all_seeds_has_a_cross_for_its_costs(folder: Path) -> None:
    table = build(folder, "t", tables={"t": {**COSTS["table2"], "columns": [C100]}})
    entry = next(row.entries[0] for row in table.rows if row.label == "feddyn-sam")
    assert formats.number(entry.ours, "gradients") == "×"
    assert entry.verdict.word == "diverged here only"


@pytest.mark.parametrize(
    ("label", "gradients"),
    [("fedgloss-sgd", 1), ("feddyn", 1), ("fedgamma", 2), ("naivefedgloss", 4), ("fedspeed", 2)],
)
def test_the_papers_gradients_are_read_from_its_notes(label: str, gradients: int) -> None:
    study = make_study(tables=COSTS)
    column = study.tables["table2"].columns[0]
    assert published(study, column, label, "gradients", "table2").mean == gradients


def test_cost_is_counted_in_what_fedavg_exchanges(tmp_path: Path) -> None:
    """Let SCAFFOLD's runs, which move twice as much, pass for FedAvg's: B is twice as large."""
    names = {"fedavg": {"method": "scaffold"}, "scaffold": {"method": "fedavg"}}
    folder = write_results(tmp_path, make_study(algorithms=names))
    table = build(folder, "table6", algorithms=names)
    rounds, cost = (entry.ours.mean for entry in table.rows[0].entries)
    assert rounds == 5000  # 59, 60 and 62 %, climbing by tenths, pass 25.5 % at half
    assert cost == pytest.approx(5000 / 10000 / 2)


def test_communication_needs_fedavg_in_the_grid(folder: Path) -> None:
    study = make_study()
    spec = {"kind": "communication", "columns": [C10], "rows": ["fedgloss"]}
    cells = tuple(cell for cell in study.cells if cell.algorithm != "fedavg")
    study = replace(study, cells=cells, config={**study.config, "tables": {"t": spec}})
    with pytest.raises(InputError, match="fedavg, which the grid lacks at cifar10/0/cnn"):
        tables.build(study, "t", folder)


def test_an_unknown_table_is_refused_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no table 'table9' \(allowed: table3, table7, table6\)"):
        build(folder, "table9")


def test_an_empty_results_folder_still_makes_the_table(tmp_path: Path) -> None:
    text = formats.to_markdown(build(tmp_path, "table3"))
    assert text.count("n=0/3") == 8
    assert text.count("· not run") == 8
    assert latex.to_latex(build(tmp_path, "table6"))


def test_labels_of_ones_own_stay_as_they_are(tmp_path: Path) -> None:
    study = make_study(algorithms={"my_sam.v2": {"method": "pkg.mod:method"}})
    cells = (*study.cells, Cell(*C10.values(), "my_sam.v2", 0))
    spec = {"kind": "methods", "columns": [C10], "rows": ["fedavg", "my_sam.v2"]}
    study = replace(study, cells=cells, config={**study.config, "tables": {"t": spec}})
    table = tables.build(study, "t", tmp_path)
    assert [group for group, _ in table.groups] == ["Client SGD", "Other methods"]
    assert "| my_sam.v2 " in formats.to_markdown(table)
    assert r"my\_sam.v2 & " in latex.to_latex(table)


def test_lambda1_names_its_images_their_error_the_method_and_what_did_not_converge(
    tmp_path: Path,
) -> None:
    folder = write_results(tmp_path)
    for i, file in enumerate(sorted(folder.glob("analysis/toy/cifar10/*/*/*/*/hessian.json"))):
        record = json.loads(file.read_text())
        record |= {"samples": 2500, "population": 50000, "method": "eigsh", "converged": i != 0}
        record["sampling_error"] = 0.03 * (record["lambda1"] or 0)
        file.write_text(json.dumps(record))
    (note,) = (
        line
        for line in build(folder, "table7", hessian={"method": "eigsh"}).notes
        if line.startswith("λ₁: ")
    )
    assert "over 2,500 of 50,000 training images without augmentation (`data: paper`)" in note
    assert "a class-balanced subset, sampling error 3 % of λ₁ (`method: eigsh`)" in note
    assert "; not converged in 1 of 10 runs" in note
    assert "is up to" not in note


def test_lambda1_of_a_subset_says_how_far_it_may_be_above_that_of_all_images(
    tmp_path: Path,
) -> None:
    folder = write_results(tmp_path)
    for i, file in enumerate(sorted(folder.glob("analysis/toy/cifar10/*/*/*/*/hessian.json"))):
        record = json.loads(file.read_text()) | {"samples": 2500, "population": 50000}
        share = 0.7 if i == 0 else 0.9
        record["elsewhere"] = {"curvature": share * (record["lambda1"] or 0), "samples": 2500}
        file.write_text(json.dumps(record))
    (note,) = (n for n in build(folder, "table7").notes if n.startswith("λ₁: "))
    assert "; over all images λ₁ is up to 30 % lower" in note


def test_eigenvalues_measured_otherwise_are_left_out_and_the_table_says_so(folder: Path) -> None:
    """The section `hessian` was changed after they were measured."""
    results = {"hessian": {"method": "pyhessian"}}
    file = folder / "analysis/toy/cifar10/alpha-0/cnn/fedavg/seed-0/hessian.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | {"method": "lanczos"}))
    table = build(folder, "table7", **results)
    file.write_text(before)
    assert table.rows[0].entries[0].ours.n == 2
    (note,) = (note for note in table.notes if note.startswith("λ₁: "))
    one = cell("cifar10", "fedavg", 0)
    assert (
        f"λ₁ of 1 run is left out, as if not measured: {one}: `method` is lanczos there, pyh"
        in note
    )


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (2.4, "lambda1", "2.40"),
        (0.13, "lambda1", "0.13"),
        (0.0712, "lambda1", "0.071"),
        (0.00712, "lambda1_official", "0.0071"),
        (-0.00712, "trace", "-0.0071"),
        (0.0, "lambda1", "0.00"),
        (0.04, "accuracy", "0.0"),
    ],
)
def test_of_a_small_eigenvalue_two_digits_are_shown(value, metric, text) -> None:
    assert formats.number(summary(value), metric) == text


def test_small_eigenvalues_that_are_printed_apart_are_ranked_apart(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    write_cell(folder, cell("cifar10", "fedgloss", 42), 83.9)
    for label, value in (("feddyn-sam", 0.0112), ("fedgloss", 0.0071)):
        for seed in SEEDS:
            file = Layout(folder).hessian("toy", cell("cifar10", label, seed))
            file.write_text(json.dumps({**json.loads(file.read_text()), "lambda1": value}))
    assert bold(build(folder, "table7")) == {("fedgloss", 0)}


def test_where_all_are_alike_none_is_the_best(tmp_path: Path) -> None:
    """As models at chance are."""
    study = make_study()
    for one in study.cells:
        write_cell(tmp_path, one, 10.0 if one.dataset == "cifar10" else 1.0 + one.seed % 2)
    table = tables.build(study, "table3", tmp_path)
    assert not any(entry.best for row in table.rows for entry in row.entries)
    assert not any("accura" in line for line in html._winners(study, [table]))


def edited(folder: Path, change) -> Path:
    """Results whose eigenvalues on CIFAR-10 are changed, each by its place."""
    for i, file in enumerate(sorted(folder.glob("analysis/toy/cifar10/*/*/*/*/hessian.json"))):
        record = json.loads(file.read_text())
        file.write_text(json.dumps(change(i, record)))
    return folder


def note_on_lambda1(folder: Path, **config: object) -> str:
    return next(n for n in build(folder, "table7", **config).notes if n.startswith("λ₁: "))


def test_lambda1_names_the_model_that_the_file_is_of(tmp_path: Path) -> None:
    folder = edited(write_results(tmp_path), lambda i, record: record | {"model": "final"})
    note = note_on_lambda1(folder, hessian={"models": ["final"]})
    assert "mean loss at the global model after the last round, over all" in note
    assert "average" not in note


def test_the_sampling_errors_of_lambda1_are_told_from_the_least_to_the_largest(
    tmp_path: Path,
) -> None:
    def cut(i: int, record: dict) -> dict:
        share = 0.004 if i else 0.025
        largest = {"sampling_error": share * (record["lambda1"] or 0)}
        return record | {"samples": 2500, "population": 50000} | largest

    assert ", sampling error 0.4 to 2.5 % of λ₁" in note_on_lambda1(
        edited(write_results(tmp_path), cut)
    )


@pytest.mark.parametrize(
    ("training", "words"),
    [
        (
            {"evaluate_every": 1000, "last": 1000},
            "T/2: test accuracy of the evaluation in round 5,000.",
        ),
        ({"evaluate_every": 500, "last": 1000}, "evaluations in the last 1,000 rounds before half"),
        (
            {"evaluate_every": 1000, "last": 1000, "rounds": 7500},
            "test accuracy of the evaluation in round 3,000.",
        ),
    ],
)
def test_accuracy_at_half_says_of_which_evaluations_it_is(
    training: dict, words: str, tmp_path: Path
) -> None:
    half = {"kind": "methods", "columns": [C10], "rows": ROWS, "show": ["accuracy_at_half"]}
    changed = {"training": {**training, "record": ["communication"]}, "tables": {"t": half}}
    folder = write_results(tmp_path, make_study(**changed))
    assert words in " ".join(build(folder, "t", **changed).notes)
