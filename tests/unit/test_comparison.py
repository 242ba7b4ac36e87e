"""Two studies, or two variants, against each other: pairs of seeds, intervals, and words."""

import csv
import io
import json
from dataclasses import replace

import pytest
from scipy import stats

from fedgloss.cli import main
from fedgloss.report.comparison import (
    Change,
    Comparison,
    compare,
    remarks,
    to_csv,
    to_markdown,
)
from fedgloss.report.results import Results
from fedgloss.study.study import load_study
from refusal import refused
from studies import ROOT
from toy_results import C10, LAMBDA1, SEEDS, cell, make_study, write_cell, write_results

AGAINST_FEDAVG = Change("algorithm", "fedavg", "feddyn-sam")


@pytest.fixture
def found(tmp_path):
    return Results(make_study(), write_results(tmp_path))


def of_metric(compared, metric="accuracy"):
    return {entry.condition.split("/")[0]: entry for entry in compared if entry.metric == metric}


def test_the_interval_is_the_paired_t_tests(found):
    entry = of_metric(compare(found, found, AGAINST_FEDAVG))["cifar10"]
    ours, theirs = ([side[s] for s in SEEDS] for side in (entry.first, entry.second))
    test = stats.ttest_rel(theirs, ours).confidence_interval()
    mean, half = entry.interval
    assert (mean - half, mean + half) == pytest.approx((test.low, test.high))


def test_only_seeds_that_both_have_are_pairs(found):
    entry = of_metric(compare(found, found, Change("algorithm", "fedavg", "fedgloss")))["cifar10"]
    assert [*entry.first] == [*entry.second] == [0, 200299]
    assert entry.first == {0: 59.0, 200299: 62.0} and entry.second == {0: 83.0, 200299: 84.6}


def test_seeds_that_diverged_are_counted_and_in_no_pair(found):
    compared = of_metric(compare(found, found, Change("algorithm", "fedavg", "scaffold")))
    assert [*compared["cifar10"].first] == [0, 200299]
    assert compared["cifar10"].diverged == (0, 1)
    assert "× 0 first, 1 second diverged" in to_markdown([compared["cifar10"]], "a", "b")


def test_a_condition_that_one_side_has_not_run_is_left_out(found):
    compared = of_metric(compare(found, found, Change("algorithm", "fedavg", "fedgloss")))
    assert [*compared] == ["cifar10"]


def test_small_eigenvalues_are_compared_with_as_many_digits_as_the_smaller_needs(found):
    entry = of_metric(compare(found, found, AGAINST_FEDAVG), "lambda1")["cifar10"]
    sides = {"first": 0.13, "second": 0.0071}
    small = replace(entry, **{side: dict.fromkeys(SEEDS, value) for side, value in sides.items()})
    shown = to_markdown([small], "a", "b")
    assert "| 0.1300 | 0.0071 | -0.1229 ± 0.0000 |" in " ".join(shown.split())


def test_a_study_against_itself_is_equal(found):
    compared = [*compare(found, found)]
    assert len(compared) > 8
    for entry in compared:
        if len(entry.first) > 1:
            assert entry.verdict == "equal" and entry.interval == (0.0, 0.0)


def test_two_results_folders_are_compared_cell_by_cell(tmp_path):
    study = make_study()
    for folder, shift in (("one", 0.0), ("two", 5.0)):
        for seed, final in zip(SEEDS, (59.0, 60.0, 62.0), strict=True):
            write_cell(tmp_path / folder, cell("cifar10", "fedavg", seed), final + shift)
    first, second = (Results(study, tmp_path / folder) for folder in ("one", "two"))
    entry = of_metric(compare(first, second))["cifar10"]
    assert entry.condition == "cifar10/alpha-0/cnn/fedavg"
    assert entry.interval == (5.0, 0.0) and entry.verdict == "higher"


def pairs(*differences, base=50.0, metric="accuracy"):
    """A comparison whose pairs differ by so much."""
    first = dict.fromkeys(range(len(differences)), base)
    second = {seed: base + d for seed, d in enumerate(differences)}
    return Comparison("digits/alpha-0/cnn/fedavg", metric, first, second, (0, 0))


@pytest.mark.parametrize(
    "compared, word",
    [
        (pairs(2.0, 2.1, 1.9), "higher"),
        (pairs(-2.0, -2.1, -1.9), "lower"),
        (pairs(0.1, -0.1, 0.0), "equal"),  # ± 0.25 points
        (pairs(5.0, -5.0, 0.0), "unclear"),
        (pairs(3.0), "one pair"),
        (pairs(0.1, -0.1, 0.0, base=1.0, metric="lambda1"), "unclear"),  # ± 25 % of 1
        (pairs(0.1, -0.1, 0.0, metric="lambda1"), "equal"),  # ± 0.5 % of 50
        # 0.945 at most, which is within 10 % of the first side's mean, not of the second's 9.4.
        (pairs(-0.5, 0.1, -0.2, base=9.6, metric="lambda1"), "equal"),
    ],
)
def test_the_word_follows_from_the_interval(compared, word):
    assert compared.verdict == word


def test_the_csv_has_all_digits(found):
    compared = [*compare(found, found, AGAINST_FEDAVG)]
    rows = [*csv.DictReader(io.StringIO(to_csv(compared)))]
    assert len(rows) == len(compared)
    assert float(rows[0]["difference"]) == compared[0].interval[0]
    assert rows[0]["condition"] == "cifar10/alpha-0/cnn/fedavg" and rows[0]["pairs"] == "3"


def test_what_no_side_has_is_refused(found):
    with refused("config/toy.yaml", "algorithm: 'fedsmoo' is not in this study", "fedavg"):
        [*compare(found, found, Change("algorithm", "fedsmoo", "fedavg"))]
    with refused("alpha: '1' is not in this study"):
        [*compare(found, found, Change("alpha", "0", "1"))]
    with refused("has no cell that config/toy.yaml has, too"):
        other = make_study()
        object.__setattr__(other, "cells", ())
        [*compare(found, Results(other, found.folder))]


def measured(folder, study, algorithm, **changes):
    """Change how the eigenvalues of a method's cells say they were measured."""
    for one in study.cells:
        file = folder / "analysis/toy" / str(one) / "hessian.json"
        if one.algorithm == algorithm and file.is_file():
            file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"samples": 2500, "population": 50000}, "images all / 2,500 of 50,000"),
        ({"method": "pyhessian"}, "method lanczos / pyhessian"),
    ],
)
def test_eigenvalues_measured_in_different_ways_have_no_difference(changes, words, tmp_path):
    study, other = make_study(), make_study(hessian={"method": changes.get("method", "lanczos")})
    first = Results(study, write_results(tmp_path / "one"))
    second = Results(other, write_results(tmp_path / "two"))
    measured(second.folder, other, "fedgloss", **changes)
    compared = [*compare(first, second)]
    entry = of_metric(compared, "lambda1")["cifar10"]
    assert (entry.verdict, entry.unlike) == ("measured differently", words)
    line = next(line for line in to_markdown([entry], "a", "b").splitlines() if "lambda1" in line)
    assert f"| measured differently: {words} |" in line and "±" not in line and "+" not in line
    (row,) = csv.DictReader(io.StringIO(to_csv([entry])))
    assert row["difference"] == row["half_interval"] == "" and row["first"]
    assert of_metric(compared)["cifar10"].verdict == "equal", "of accuracy nothing is taken away"


def test_settings_that_differ_are_said_in_one_line(tmp_path):
    study = make_study()
    other = make_study(precision="tf32", algorithms={"fedgloss": {"training": {"lr": 0.25}}})
    sides = [
        Results(one, write_results(tmp_path / name, one))
        for name, one in (("one", study), ("two", other))
    ]
    (line,) = remarks(*sides)
    assert line == (
        "Settings that differ, first / second: precision float32 / tf32;"
        " training.lr 0.01 / 0.25 in 6 of 24 pairs."
    )
    assert [*remarks(sides[0], sides[0])] == ["No setting differs."]


def test_what_the_two_variants_are_about_is_not_said_again(found):
    (line,) = remarks(found, found, AGAINST_FEDAVG)
    assert line.startswith("Settings that differ besides algorithm, first / second: method fedavg")
    assert "algorithm fedavg" not in line and "hyperparameters.rho_l – / " in line
    assert "{}" not in line, "that one side has no hyperparameter follows"


def test_eigenvalues_that_the_study_no_longer_asks_for_are_said_to_be_left_out(tmp_path):
    study = make_study(hessian={"images": 500})
    results = Results(study, write_results(tmp_path))
    for label in {one.algorithm for one in study.cells}:
        measured(tmp_path, study, label, images="auto")
    assert not any(e.first for e in compare(results, results) if e.metric == "lambda1")
    lines = [*remarks(results, results)]
    assert len(lines) == 3
    assert lines[1].startswith("Of the first: λ₁ of 13 runs is left out, as if not measured:")
    assert lines[1].endswith("`images` is auto there, 500 in the study.")


PAPER = load_study(ROOT / "config/paper.yaml")
VARIANTS = {
    "printed against released sigma": Change("algorithm", "fedgloss", "fedgloss-paper"),
    "clean against overlapping images": Change("dataset", "cifar10", "cifar10-official-overlap"),
}


@pytest.mark.parametrize("what", VARIANTS)
def test_variants_of_the_papers_study_are_compared(what, tmp_path, monkeypatch):
    change = VARIANTS[what]
    cells = [c for c in PAPER.cells if getattr(c, change.field) == change.second]
    for one in cells:
        twin = replace(one, **{change.field: change.first})
        for run, final in ((twin, 80.0), (one, 81.0 + one.seed % 3 / 10)):
            monkeypatch.setitem(LAMBDA1, run.algorithm, 20.0)
            write_cell(tmp_path, run, final, PAPER, "paper")
    results = Results(PAPER, tmp_path)
    compared = [*compare(results, results, change)]
    assert len(compared) == 2 * len(cells) // 3, "accuracy and lambda_1 of each condition"
    assert {e.verdict for e in compared if e.metric == "accuracy"} == {"higher"}
    line = next(remarks(results, results, change))
    known = {
        "algorithm": "variants.sigma_scaling official_code / paper",
        "dataset": "data.images clean",
    }
    assert known[change.field] in line


STUDY = f"""\
study: toy
seeds: [{", ".join(map(str, SEEDS))}]
grid:
  - {{dataset: {C10["dataset"]}, alphas: ["0"], model: cnn, algorithms: [fedavg, fedsam]}}
"""


def test_the_command_prints_a_table(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(STUDY)
    study = load_study("toy.yaml")
    for run in study.cells:
        monkeypatch.setitem(LAMBDA1, run.algorithm, 20.0)
        final = 60.0 + (run.algorithm == "fedsam") * (3 + run.seed % 3 / 10)
        write_cell(tmp_path / "results", run, final, study)
    asked = ["compare", "toy.yaml", "--of", "algorithm", "fedavg", "fedsam", "--csv", "out.csv"]
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert "fedavg |   fedsam |" in shown.splitlines()[0]
    assert "| cifar10/alpha-0/cnn/fedavg | accuracy |" in shown and "higher" in shown
    assert shown.splitlines()[-1].startswith("- Settings that differ besides algorithm, first /")
    assert (tmp_path / "out.csv").read_text().startswith("condition,metric,first,second,")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "with what?"),
        (["--of", "seed", "0", "42"], "'seed' is no field of a cell"),
        (["--of", "algorithm", "fedavg", "fedsam"], "no seed has been run on both sides yet"),
        (["--of", "algorithm", "fedavg", "fedavg"], "'fedavg' is given twice"),
        (["toy.yaml"], "with itself"),
        (["--other-results", "elsewhere"], "elsewhere: there is no such results folder"),
        (["--of", "algorithm", "fedavg", "fedsam", "--csv", "results"], "results is a folder"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, words, tmp_path, refuse):
    (tmp_path / "toy.yaml").write_text(STUDY)
    (tmp_path / "results").mkdir()
    refuse("compare", "toy.yaml", *arguments, words=(words,))


def test_where_all_runs_of_a_side_are_outdated_the_command_says_so(tmp_path, refuse, monkeypatch):
    (tmp_path / "toy.yaml").write_text(STUDY)
    study = load_study(tmp_path / "toy.yaml")
    for run in study.cells:
        monkeypatch.setitem(LAMBDA1, run.algorithm, 20.0)
        write_cell(tmp_path / "results", run, 60.0, study)
    (one, *_) = study.select(algorithm="fedsam")
    for run in study.select(algorithm="fedsam"):
        metrics = Results(study, tmp_path / "results").run(run) / "metrics.csv"
        metrics.write_text(metrics.read_text() + "\n")
    refuse(
        *("compare", "toy.yaml", "--of", "algorithm", "fedavg", "fedsam"),
        words=[f"Of the second: 3 runs are outdated and left out, as if not run: {one} first"],
    )
