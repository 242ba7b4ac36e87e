"""Ours beside the paper's: every published number is found, and the verdict's rule holds."""

import csv
from itertools import product

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedgloss.report import names, published, verdict
from fedgloss.report.published import Published
from fedgloss.report.results import DIVERGED, NOT_REACHED, NOT_RUN
from fedgloss.report.seeds import Summary
from fedgloss.study.schema.shown import ClaimsTable, Condition, LocalsTable
from fedgloss.study.study import check_study, load_study
from studies import ROOT
from toy_results import C10, C100, make_study, summary

LABELS = {
    method.published: label for label, method in names.METHODS.items() if method.client != "none"
}
finite = st.floats(0, 100)
spread = st.floats(0, 5)


def rows(table: str) -> list[dict[str, str]]:
    with open(published.FILE, newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["table"] == table]


@pytest.mark.parametrize("table", ["3", "4", "6", "7"])
def test_every_number_of_the_papers_tables_is_found(table: str) -> None:
    """By our label, from the table named after the paper's."""
    study = make_study()
    metrics = {theirs: ours for ours, theirs in published.METRICS.items()}
    seen = 0
    for row in rows(table):
        if row["metric"] not in metrics or row["algorithm"] == "centralized":
            continue
        alpha = f"{float(row['alpha']):g}" if row["alpha"] else "natural"
        column = Condition(dataset=row["dataset"], alpha=alpha, model=row["model"])
        label = LABELS[row["client_opt"], row["algorithm"]]
        found = published.published(study, column, label, metrics[row["metric"]], f"table{table}")
        assert (found.table, found.status) == (table, row["status"])
        assert found.mean == (float(row["mean"]) if row["mean"] else None)
        assert found.std == (float(row["std"]) if row["std"] else None)
        seen += 1
    assert seen == {"3": 44, "4": 22, "6": 110, "7": 28}[table]


def claimed(study) -> dict[int, list[tuple[str, ...]]]:
    """For each line of published.csv the targets that are to reproduce it."""
    found: dict[int, list[tuple[str, ...]]] = {}
    for name, table in study.tables.items():
        if isinstance(table, ClaimsTable) or table.paper is None:
            continue
        for column, label in product(table.columns, table.rows):
            if not study.select(column, algorithm=label):
                continue
            if isinstance(table, LocalsTable):
                local = published.local_models(study, column, label)
                for line in local.lines if local else ():
                    found.setdefault(line, []).append((name, str(column), label))
                continue
            for metric in table.metrics:
                paper = published.published(study, column, label, metric, table.paper)
                if paper and published.is_of(paper.table, table.paper):
                    target = (name, str(column), label, metric)
                    found.setdefault(paper.line, []).append(target)
    return found


def test_the_papers_study_claims_every_published_number_once() -> None:
    """324 of 324, each by one number of one table that says which of the paper's it is.

    Table 2 tells communication and gradients in one row, and some of its rows are of two methods,
    with SGD and with SAM on the clients: there each has its own.
    """
    with open(published.FILE, newline="", encoding="utf-8") as file:
        printed = {line: row for line, row in enumerate(csv.DictReader(file), 2)}
    found = claimed(load_study(ROOT / "config" / "paper.yaml"))
    assert len(printed) == 324
    assert [(line, printed[line]) for line in printed if line not in found] == []
    for line, targets in found.items():
        assert len({*targets}) == len(targets)
        if printed[line]["table"] == "2":
            of_method = [(label, metric) for _, _, label, metric in targets]
            methods = {label.removesuffix("-sgd").removesuffix("-sam") for label, _ in of_method}
            assert methods == {printed[line]["algorithm"]}
            assert {metric for _, metric in of_method} == {"communication_cost", "gradients"}
        else:
            assert len(targets) == 1, (printed[line], targets)


def test_a_row_claimed_twice_or_never_is_seen() -> None:
    config = yaml.safe_load((ROOT / "config" / "paper.yaml").read_text(encoding="utf-8"))
    config["tables"]["again"] = config["tables"]["table4"]
    del config["tables"]["table5"]
    found = claimed(check_study(config, "paper.yaml"))
    assert len(found) == 323
    assert sum(len(targets) == 2 for targets in found.values() if targets[0][0] != "table2") == 22


def test_centralized_numbers_belong_to_no_alpha() -> None:
    column = Condition(**C10 | {"alpha": "iid"})
    found = published.published(make_study(), column, "centralized-sam-previous", "accuracy")
    assert (found.mean, found.std, found.n) == (86.3, None, 1)


def test_a_number_printed_twice_carries_the_other_in_its_note() -> None:
    in_3 = published.published(make_study(), Condition(**C100), "fedgloss", "accuracy", "table3")
    in_7 = published.published(make_study(), Condition(**C100), "fedgloss", "accuracy", "table7")
    assert (in_3.mean, in_3.note) == (50.8, "tables 7 and 8 print 50.6 ± 0.6")
    assert (in_7.mean, in_7.note) == (50.6, "table 3 prints 50.8 ± 0.8")


def test_the_paper_has_nothing_on_a_method_or_alpha_of_ones_own() -> None:
    study = make_study(
        algorithms={"mine": {"method": "pkg.mod:method"}, "slow": {"method": "fedgloss"}}
    )
    assert published.published(study, Condition(**C10), "mine", "accuracy") is None
    for alpha in ("0.3", "iid"):
        column = Condition(**C10 | {"alpha": alpha})
        assert published.published(study, column, "fedgloss", "accuracy") is None
    by_its_method = published.published(study, Condition(**C10), "slow", "accuracy")
    assert by_its_method.mean == 83.9


def ours(
    *values: float, planned: int = 3, diverged: int = 0, unreached: int = 0, against: str = ""
) -> Summary:
    """The seeds of which nothing is said are not run."""
    absent = [DIVERGED] * diverged + [NOT_REACHED] * unreached
    absent += [NOT_RUN] * (planned - len(values) - len(absent))
    return summary(*values, *absent, against=against)


def paper(mean: float | None, std: float | None = None, status: str = "ok") -> Published:
    return Published("3", mean, std, status, 10000, "", 2)


def judge(mine: Summary, theirs: Published, metric: str = "accuracy") -> str:
    return verdict.verdict(mine, theirs, metric, 10000).word


def test_the_rule_on_examples() -> None:
    assert judge(ours(83.5, 83.9, 84.6), paper(83.9, 0.4)) == "agrees"
    assert judge(ours(84.4, 84.5, 84.6), paper(83.9, 0.1)) == "close"
    assert judge(ours(78.0, 84.0, 90.0), paper(80.0, 0.4)) == "uncertain"
    assert judge(ours(85.9, 86.0, 86.1), paper(83.9, 0.4)) == "above"
    assert judge(ours(80.9, 81.0, 81.1), paper(83.9, 0.4)) == "below"
    assert judge(ours(2.1, 2.2, 2.15), paper(2.03, 0.01), "lambda1") == "close"  # 6 % apart
    assert judge(ours(2.5, 2.6, 2.55), paper(2.03, 0.01), "lambda1") == "above"
    assert judge(ours(-1.9, -1.9, -1.9), paper(-2.0, 0.0), "lambda1") == "close"
    for points in ("accuracy_gain", "accuracy_at_half"):
        assert judge(ours(5.9, 5.9, 5.9), paper(5.0, 0.0), points) == "close"
    # What is a point, or 10 %, away is within it.
    assert judge(ours(81.0, 81.0, 81.0), paper(80.0, 0.0)) == "close"
    assert judge(ours(90.0, 90.0, 90.0), paper(100.0, 0.0), "lambda1") == "close"


def test_divergence_is_compared_too() -> None:
    cross = paper(None, status="diverged")
    assert judge(ours(diverged=3), cross) == "diverged in both"
    assert judge(ours(50.0, 51.0, diverged=1), cross) == "diverged in both"
    assert judge(ours(50.0, 51.0, diverged=1), paper(50.0, 0.5)) == "diverged here only"
    assert judge(ours(50.0, 51.0, 52.0), cross) == "diverged in the paper only"
    dash = paper(None, status="not_reached")
    assert judge(ours(unreached=3), dash, "rounds") == "not reached in both"
    assert judge(ours(1.0, unreached=2), paper(200.0), "rounds") == "not reached here"
    assert judge(ours(1.0, 2.0, 3.0), dash, "rounds") == "not reached in the paper"


def test_no_verdict_without_runs_or_for_other_rounds() -> None:
    assert judge(ours(), paper(83.9, 0.4)) == "not run"
    short = verdict.verdict(ours(83.9, 83.9, 83.9), paper(83.9, 0.4), "accuracy", 200)
    assert short.word == "200 of 10,000 rounds" and short.sign == "·"
    longer = verdict.verdict(ours(83.9, 83.9, 83.9), paper(83.9, 0.4), "accuracy", 20000)
    assert longer.word == "20,000 rounds, not 10,000"


def test_no_verdict_while_seeds_are_missing() -> None:
    assert judge(ours(83.9, 84.0), paper(83.9, 0.4)) == "incomplete 2/3"
    assert judge(ours(83.9), paper(None, status="diverged")) == "incomplete 1/3"
    assert judge(ours(83.9, diverged=1), paper(83.9, 0.4)) == "diverged here only"


def test_nor_while_seeds_of_what_ours_is_counted_against_are() -> None:
    mine = ours(60.0, 61.0, 62.0, against="FedAvg n=1/3")
    assert judge(mine, paper(61.0, 1.0), "rounds") == "incomplete, FedAvg n=1/3"


def test_where_all_runs_are_there_the_verdict_says_what_is_not() -> None:
    assert judge(summary("not computed", "not computed"), paper(2.0), "lambda1") == "not computed"
    assert judge(summary("not computed", "not run"), paper(2.0), "lambda1") == "not run"


def test_one_run_is_judged_by_the_other_sides_spread() -> None:
    """As Student's t test with a pooled variance, to which a single run adds nothing."""
    half = verdict.half_interval(ours(80.0, planned=1), paper(83.9, 0.4))
    test = stats.ttest_ind_from_stats(80.0, 0.0, 1, 83.9, 0.4, 3, equal_var=True)
    assert half == pytest.approx(3.9 / abs(test.statistic) * stats.t.ppf(0.975, 2))
    mine = ours(80.0, 81.0, 82.5)
    half = verdict.half_interval(mine, paper(83.9))
    test = stats.ttest_ind_from_stats(mine.mean, mine.std, 3, 83.9, 0.0, 1, equal_var=True)
    assert half == pytest.approx((83.9 - mine.mean) / abs(test.statistic) * stats.t.ppf(0.975, 2))


def test_two_runs_without_spread_have_no_interval() -> None:
    assert verdict.half_interval(ours(80.0, planned=1), paper(83.9)) == 0


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=5), finite, st.none() | spread)
def test_mirrored_numbers_get_mirrored_verdicts(
    values: list[float], mean: float, std: float | None
) -> None:
    swap = {"above": "below", "below": "above"}
    count = len(values)
    word = judge(ours(*values, planned=count), paper(mean, std))
    mirrored = judge(ours(*(100 - v for v in values), planned=count), paper(100 - mean, std))
    # At the edge of a rule, the rounding of 100 - v may decide.
    difference = abs(sum(values) / len(values) - mean)
    edges = (verdict.NEAR_POINTS, verdict.half_interval(ours(*values, planned=5), paper(mean, std)))
    if all(abs(difference - edge) > 1e-9 for edge in edges):
        assert mirrored == swap.get(word, word)


@settings(deadline=None)
@given(st.lists(finite, min_size=2, max_size=6), finite, spread)
def test_agreement_is_never_far_and_never_significant(
    values: list[float], mean: float, std: float
) -> None:
    """With the t test of an independent library as the judge of significance."""
    mine = ours(*values, planned=len(values))
    word, difference = judge(mine, paper(mean, std)), mine.mean - mean
    test = stats.ttest_ind_from_stats(mine.mean, mine.std, mine.n, mean, std, 3, equal_var=False)
    if word in ("agrees", "close"):
        assert abs(difference) <= verdict.NEAR_POINTS
    if word in ("agrees", "uncertain") and mine.std + std > 1e-6:
        assert test.pvalue >= 0.0499
    if word in ("close", "above", "below") and mine.std + std > 1e-6:
        assert test.pvalue <= 0.0501
    if word in ("above", "below"):
        assert (difference > 0) == (word == "above")
