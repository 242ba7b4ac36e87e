"""A target for each table and figure of the paper, in whatever study shows it, whole or in part."""

import shutil
from pathlib import Path

import pytest

from workflow.project import SMOKE, build, planned, rules

pytestmark = pytest.mark.slow

PAPER = "--configfile=config/paper.yaml"
ENTRY = "tables={accuracy: {paper: table3}}"
TABLE = "results/tables/smoke/accuracy.md"


def test_the_papers_study_has_a_target_for_each_table_and_figure_of_the_paper(fresh: Path) -> None:
    listed = {*build(fresh, "--list-rules", PAPER).splitlines()}
    tables = {f"table{n}" for n in range(1, 9)}
    figures = {f"figure{n}" for n in (1, 2, 4, 5, 6, 7, 8, 9)}  # the third is a sketch
    assert tables | figures | {"appendix", "claims", "paper"} <= listed


def test_a_part_of_the_paper_is_all_that_shows_it(fresh: Path) -> None:
    one = rules(planned(fresh, "figure7", PAPER, "--config", "only=cifar10"))
    assert (one["figure"], one["table"]) == (1, 1), "drawn, and in numbers"
    assert one["hessian_seeds"] == 22 and one["train"] == 66


def test_a_study_without_anything_of_the_paper_has_no_such_target(fresh: Path) -> None:
    assert "paper" not in build(fresh, "--list-rules", SMOKE).splitlines()


def test_what_a_part_leaves_out_is_shown_as_missing(finished: Path) -> None:
    shutil.rmtree(finished / "results/runs/smoke/digits/alpha-0/smallcnn/fedgloss")
    only = "only=digits/alpha-0/smallcnn/fedavg"
    asked = ("table3", SMOKE, "--config", ENTRY, only)
    assert rules(planned(finished, *asked)) == {"table": 1}
    build(finished, *asked)
    table = (finished / TABLE).read_text(encoding="utf-8")
    assert "(2 of 4 runs)" in table.splitlines()[0]
    (line,) = (line for line in table.splitlines() if "FedGloSS" in line)
    assert "n=0/2" in line and "n=0" not in table.replace(line, "")


def test_a_part_that_shows_nothing_of_it_makes_it_without_runs(fresh: Path) -> None:
    asked = ("table5", PAPER, "--config", "only=cifar10")
    assert planned(fresh, *asked) == [("table", "paper/table5")]
