"""Tables of kind locals: lambda_1 of local models beside the paper's Table 1."""

import csv
import io
import json
from pathlib import Path

import pytest

from fedgloss.report import tables
from fedgloss.report.local_models import numbered, spread
from fedgloss.report.model import Grid
from fedgloss.report.results import Results
from fedgloss.report.writing import texts
from fedgloss.study.study import check_study
from refusal import refused
from toy_results import C10, SEEDS, make_study, write_results

CLASSES = {0: ["cat", "airplane", "airplane"], 42: ["airplane", "frog", "dog"], 200299: ["dog"] * 3}
"""By seed: the classes of FedAvg's three participants."""
TABLE = {"table1": {"kind": "locals", "title": "Table 1", "columns": [C10], "rows": ["fedavg"]}}


def local(client: int, name: str, own: float, everyone: float, **changes: object) -> dict:
    found = {"lambda1": 0.0, "residual": 0.001, "converged": True, "products": 9}
    return {
        **{"client": client, "class": name, "share": 1.0, "images": 500},
        "local": {**found, "lambda1": own, "sampling_error": 0.0, **changes},
        "global": {**found, "lambda1": everyone, "sampling_error": everyone / 50},
    }


def write_locals(folder: Path, seed: int, rows: list[dict], **changes: object) -> None:
    file = folder / "analysis/toy/cifar10/alpha-0/cnn/fedavg" / f"seed-{seed}/locals.json"
    record = {"status": "completed", "method": "lanczos", "images": "auto", "samples": 2500}
    file.write_text(json.dumps({**record, "population": 50000, **changes, "locals": rows}))


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = write_results(tmp_path)
    for i, (seed, classes) in enumerate(CLASSES.items()):
        rows = [local(j, name, 100 * (i + 1) + j, 50.0) for j, name in enumerate(classes)]
        write_locals(folder, seed, rows[::-1])
    return folder


def build(folder: Path, **config: object) -> Grid:
    return tables.build(make_study(**{"tables": TABLE, **config}), "table1", folder)


def lines_of(folder: Path, **config: object) -> dict[str, tuple[str, ...]]:
    """{what the third column says: the numbers} of the one method."""
    lines = build(folder, **config).lines
    assert lines[0][:2] == ("CIFAR-10, α = 0", "FedAvg")
    assert all(line[:2] == ("", "") for line in lines[1:])
    return {line[2]: line[3:] for line in lines}


def test_the_first_line_is_the_distribution_over_all_participants_of_all_seeds(folder):
    assert build(folder).lines[0] == (
        *("CIFAR-10, α = 0", "FedAvg", "all 9"),
        *("201.0 (100.0–302.0)", "263.2 (9.1–483.5)"),
        *("50.0 (50.0–50.0)", "259.0 (237.0–273.6)"),
        *("4.0 (2.0–6.0)", "1.0 (0.038–1.8)"),
    )


def test_published_clients_are_matched_by_class_and_number_where_the_class_occurs(folder):
    lines = lines_of(folder)
    assert [*lines] == ["all 9", "airplane-1 (2)", "cat (1)", "airplane-2 (1)", "frog (1)"]
    assert lines["cat (1)"] == ("100.0", "424.2", "50.0", "273.6", "2.0", "1.6")
    assert lines["airplane-1 (2)"][:2] == ("150.5 (101.0–200.0)", "9.1")
    assert lines["airplane-2 (1)"][:2] == ("102.0", "483.5"), "by the order of the clients"


@pytest.mark.parametrize(
    ("client", "expected"),
    [("airplane-1", "airplane-1"), ("airplane-2", "airplane-2"), ("cat", "cat-1")],
)
def test_a_class_that_the_paper_does_not_number_is_its_first_client(client, expected):
    assert numbered(client, dict.fromkeys(["airplane-1", "cat", "airplane-2"])) == expected


def test_medians_and_ranges_are_short():
    assert spread([]) == spread([float("nan")]) == ""
    assert spread([9.13]) == "9.1"
    assert spread([0.038, 1234.56, 12.0]) == "12.0 (0.038–1,234.6)"


def test_seeds_that_are_missing_or_diverged_are_said(folder):
    for seed in SEEDS[1:]:
        (folder / "analysis/toy/cifar10/alpha-0/cnn/fedavg" / f"seed-{seed}/locals.json").unlink()
    assert "all 3, 1/3 seeds" in lines_of(folder)
    rows = {**TABLE["table1"], "rows": ["feddyn-sam", "scaffold"]}
    lines = build(folder, tables={"table1": rows}).lines
    assert [line[2] for line in lines] == ["all 0, 0/3 seeds", "all 0, 0/3 seeds, × 1/3"]


def test_the_papers_cross_stands_where_the_method_diverged(folder):
    column = {"dataset": "cifar100", "alpha": "0", "model": "cnn"}
    rows = {**TABLE["table1"], "columns": [column], "rows": ["feddyn-sam"]}
    (line,) = build(folder, tables={"table1": rows}).lines
    assert line == ("CIFAR-100, α = 0", "FedDyn + SAM", "all 0, × 3/3", *["×"] * 6)


def test_not_converged_is_marked_and_said(folder):
    write_locals(folder, 0, [local(0, "cat", 7.0, 3.0, converged=False)])
    lines = lines_of(folder)
    assert lines["cat (1)"][0] == "7.0†" and lines["frog (1)"][0] == "201.0"
    notes = " ".join(build(folder).notes)
    assert "†: among these are eigenvalues that did not converge (1 of 14)." in notes


def test_the_notes_name_the_images_their_error_and_the_papers_table(folder):
    notes = " ".join(build(folder).notes)
    for words in (
        "over 2,500 of 50,000 training images",
        "a class-balanced subset, sampling error 2 % of λ₁",
        "before the server averages them",
        "Paper: as printed in Tab. 1",
        "locals.json",
    ):
        assert words in notes


def test_results_of_other_images_or_another_method_do_not_count(folder):
    for changed in ({"images": 500}, {"method": "eigsh"}):
        assert [*lines_of(folder, hessian=changed)] == ["all 0, 0/3 seeds"]


def test_the_csv_has_every_client_and_every_number_of_the_papers(folder):
    rows = [*csv.DictReader(io.StringIO(texts(build(folder))["csv"]))]
    ours = [row for row in rows if row["source"] == "ours"]
    paper = [row for row in rows if row["source"] == "paper table 1"]
    assert len(ours) == 9 and [row["name"] for row in paper] == [
        *("airplane-1", "cat", "bird", "airplane-2", "frog")
    ]
    assert ours[0]["class"] == "cat" and float(ours[0]["ratio"]) == 2
    assert float(paper[2]["lambda1_global"]) == 237.0


def test_markdown_and_latex_have_the_same_lines(folder):
    written = texts(build(folder))
    assert "| FedAvg   | all 9 " in written["md"] and "| airplane-1 (2) |" in written["md"]
    assert r"FedAvg & all 9 & 201.0 (100.0\textendash\allowbreak{}302.0) &" in written["tex"]
    assert (
        r" &  & airplane-1 (2) & 150.5 (101.0\textendash\allowbreak{}200.0) & 9.1 &"
        in written["tex"]
    )


def test_a_damaged_file_is_left_out_and_named(folder):
    write_locals(folder, 0, [{**local(0, "cat", 7.0, 3.0), "class": 3}])
    grid = build(folder)
    assert grid.lines[0][2] == "all 6, 2/3 seeds"
    (note,) = (note for note in grid.notes if "left out" in note)
    run = "cifar10/alpha-0/cnn/fedavg/seed-0"
    said = f"λ₁ of 1 run is left out, as if not measured: {run}: locals.json"
    assert note.startswith(f"{said}: locals[0].class: 3 is not text; delete it")


def test_a_run_that_is_not_measured_has_no_local_models(folder):
    study = make_study(tables=TABLE)
    found = Results(study, folder)
    cells = study.select(algorithm="fedgloss")
    assert all(found.locals(cell) is None for cell in cells)


def test_centralized_methods_have_no_local_models():
    grid = {"dataset": "cifar10", "alphas": ["iid"], "model": "cnn"}
    rows = ["centralized-sgd"]
    study = {"study": "s", "seeds": [0], "grid": [{**grid, "algorithms": rows}]}
    with refused("tables.table1.rows", "centralized-sgd is centralized"):
        check_study({**study, "tables": {"table1": {"kind": "locals"}}}, "s.yaml")


def test_the_released_codes_estimate_stands_beside_ours_where_it_is_computed(folder):
    shown = {"kind": "methods", "columns": [C10], "rows": ["fedavg", "fedgloss"]}
    shown["show"] = ["lambda1", "lambda1_official"]
    both = {"data": ["paper", "official_code"]}
    for file in folder.glob("analysis/toy/cifar10/alpha-0/cnn/fedavg/*/hessian.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "official_code": {"lambda1": 7.5}}))
    study = make_study(hessian=both, tables={"sharp": shown})
    table = tables.build(study, "sharp", folder)
    fedavg, fedgloss = table.rows
    assert fedavg.entries[0].ours.mean == pytest.approx(20 * (1 + 0.1 / 3))
    assert fedavg.entries[1].ours.mean == 7.5 and fedgloss.entries[1].ours.n == 0
    assert "λ₁, official code: of the same models" in " ".join(table.notes)


def test_an_official_estimate_that_is_not_computed_is_refused():
    grid = [{"dataset": "digits", "alphas": ["0"], "model": "smallcnn", "algorithms": ["fedavg"]}]
    shown = {"kind": "methods", "show": ["lambda1_official"]}
    study = {"study": "s", "seeds": [0], "grid": grid, "tables": {"sharp": shown}}
    with refused("tables.sharp.show", "put official_code into hessian.data"):
        check_study(study, "s.yaml")
    check_study({**study, "hessian": {"data": ["paper", "official_code"]}}, "s.yaml")
