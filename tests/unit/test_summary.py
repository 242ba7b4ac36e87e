"""The summary of verdicts: which numbers it counts."""

from dataclasses import replace
from pathlib import Path

from fedgloss.report import summary
from fedgloss.report.model import Entry
from fedgloss.report.published import Published
from fedgloss.report.seeds import Summary
from fedgloss.report.tables import build
from fedgloss.report.verdict import ABOVE, CLOSE
from fedgloss.study.study import Study
from toy_results import C10, SEEDS, make_study, write_results


def study(rows: list[str], tables: list[str]) -> Study:
    """Labels of FedDyn, in so many tables of the same numbers."""
    clipped = {"like": "feddyn", "training": {"clip": 10}}
    shown = {"kind": "methods", "columns": [C10], "rows": rows, "show": ["accuracy"]}
    found = make_study(
        algorithms={"feddyn-clipped": clipped, "feddyn-gentle": clipped | {"training": {"lr": 1}}},
        tables={name: shown for name in tables},
    )
    cells = [replace(found.select(seed=s)[0], algorithm=label) for label in rows for s in SEEDS]
    return replace(found, cells=tuple(cells))


def counted(rows: list[str], tables: list[str], folder: Path) -> list[tuple[str, str]]:
    """The tables and rows that count; that a number is not run yet is a verdict, too."""
    asked = study(rows, tables)
    found = summary.pairs(asked, [build(asked, name, folder) for name in tables])
    return [(pair.table.split()[0], pair.row) for pair in found]


def test_a_number_counts_for_the_label_of_the_methods_own_name_alone(tmp_path: Path) -> None:
    rows = ["feddyn-clipped", "feddyn", "feddyn-gentle"]
    assert counted(rows, ["table3"], tmp_path) == [("table3", "FedDyn")]


def test_without_such_a_label_it_counts_for_the_first(tmp_path: Path) -> None:
    rows = ["feddyn-gentle", "feddyn-clipped"]
    assert counted(rows, ["table3"], tmp_path) == [("table3", "FedDyn (gentle)")]


def test_a_number_that_two_tables_show_counts_in_the_first(tmp_path: Path) -> None:
    assert counted(["feddyn"], ["first", "second"], tmp_path) == [("first", "FedDyn")]


def test_what_follows_from_a_method_alone_does_not_count(tmp_path: Path) -> None:
    asked = make_study(tables={"table2": {"kind": "costs", "paper": "table2", "columns": [C10]}})
    table = build(asked, "table2", write_results(tmp_path))
    assert any(entry.paper and entry.verdict for row in table.rows for entry in row.entries)
    assert summary.pairs(asked, [table]) == []


def test_what_differs_most_comes_first_by_what_is_near_the_papers_number() -> None:
    def pair(metric: str, ours: float, paper: float) -> summary.Pair:
        printed = Published("table", paper, None, "ok", None, "", 1)
        verdict = CLOSE if abs(ours - paper) < 1 else ABOVE
        return summary.Pair("", "", "", metric, Entry(Summary({0: ours}), printed, verdict))

    found = [pair("accuracy", 80.5, 80.0), pair("accuracy", 90.0, 80.0), pair("rounds", 8e3, 3e3)]
    assert [pair.distance for pair in found] == [0.5, 10, 5000 / 300]
    assert [(ours, paper) for *_, ours, paper, _ in summary.farthest(found)] == [
        ("8,000", "3,000"),
        ("90.0", "80.0"),
    ]
