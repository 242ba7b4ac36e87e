"""The correlation of flatness and accuracy: coefficients, intervals, and what is counted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fedgloss.report import values
from fedgloss.report.correlation import Points, correlation, pearson, spearman
from fedgloss.report.flatness import caption, draw_flatness, points_of, said
from fedgloss.report.results import Results
from refusal import refused
from studies import digits
from toy_results import C10, ROWS, make_study, write_results


def points(methods: int, seeds: int, noise: float, seed: int = 0, conditions: int = 1) -> Points:
    """Methods whose flatness and accuracy go down together, with seeds around each."""
    draw = np.random.default_rng(seed)
    n = methods * seeds * conditions
    method, condition = np.arange(n) % methods, np.arange(n) // (methods * seeds)
    flatness = method + noise * draw.standard_normal(n)
    accuracy = -method + noise * draw.standard_normal(n) + 10.0 * condition
    return Points(method.astype(str), condition, flatness + 5.0 * condition, accuracy)


@pytest.mark.parametrize("ties", [False, True])
def test_the_coefficients_are_scipys(ties: bool) -> None:
    draw = np.random.default_rng(1)
    x, y = draw.standard_normal((2, 30))
    x, y = (np.round(x), np.round(y)) if ties else (x, y)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_what_does_not_vary_has_no_coefficient() -> None:
    assert np.isnan(pearson(np.ones(4), np.arange(4.0)))
    assert np.isnan(spearman(np.zeros(0), np.zeros(0)))
    flat = replace(points(6, 3, 0.1), accuracy=np.full(18, 50.0))
    assert said(flat, within=False) == ["Spearman –, n = 18", "Pearson –"]


def test_within_conditions_their_means_count_for_nothing() -> None:
    """Over all, the condition with larger accuracy has the sharper minima; within it is reverse."""
    both = points(6, 3, 0.1, conditions=2)
    assert correlation(both, pearson).value > 0.3
    assert correlation(both, pearson, within=True).value < -0.95
    lines = said(both, within=True)
    assert len(lines) == 2 and all("within conditions −" in line for line in lines)


def test_the_interval_is_that_of_methods_not_of_seeds() -> None:
    """Ten times the seeds say nothing new about the methods."""
    few, many = (correlation(points(6, seeds, 1.5), pearson).interval for seeds in (3, 30))
    assert few and many
    assert many[1] - many[0] > 0.4 * (few[1] - few[0])  # with independent points: 0.3


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Methods drawn from a normal distribution of correlation 0.6; seeds are copies of them."""
    held = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        x, y = draw.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 15).T
        labels = np.arange(15).astype(str)
        low, high = correlation(
            Points(labels.repeat(2), np.zeros(30, int), x.repeat(2), y.repeat(2)), pearson
        ).interval or (0, 0)
        held += low <= 0.6 <= high
    assert held >= 34


def test_the_interval_is_one_of_95_percent():
    """Of a mean over 400 methods, whose interval the normal distribution gives."""
    x = np.linspace(-1, 1, 400)
    many = Points(np.arange(400), np.zeros(400, int), x, x)
    half = stats.norm.ppf(0.975) * x.std() / 20
    found = correlation(many, lambda x, y: float(x.mean())).interval
    assert found == pytest.approx((-half, half), rel=0.1)  # of 90 % it is 16 % narrower


def test_few_methods_have_no_interval() -> None:
    assert correlation(points(3, 10, 0.1), spearman).interval is None
    assert correlation(points(4, 10, 0.1), spearman).interval
    assert "[" not in said(points(3, 10, 0.1), within=False)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("results"))


def test_a_point_is_a_run_that_has_both_numbers(folder: Path) -> None:
    study = make_study()
    asked, found = study.figures["flatness"], Results(study, folder)
    all_points = points_of(found, asked)
    # Of C10 3 + 2 (one diverged) + 3 + 2 (one not run), of C100 FedAvg's 3.
    assert len(all_points.labels) == 10 + 3
    at = np.flatnonzero((all_points.labels == "fedgloss") & (all_points.conditions == 0))
    assert all_points.accuracy[at].tolist() == [83.0, 84.6]
    assert np.exp(all_points.flatness[at]).tolist() == pytest.approx([2.0, 2.0 * 1.1])


def test_it_has_a_panel_for_each_condition_and_one_of_all(folder: Path) -> None:
    study = make_study()
    figure = draw_flatness(Results(study, folder), study.figures["flatness"])
    assert [axes.get_title() for axes in figure.axes] == [
        *("CIFAR-10, α = 0", "CIFAR-100, α = 0", "All conditions")
    ]
    text = caption(Results(study, folder), study.figures["flatness"])
    for part in ("bootstrap over methods", "2,000", "diverged", "largest eigenvalue"):
        assert part in text
    spec = {"kind": "flatness", "columns": [C10], "rows": ROWS}
    one = make_study(figures={"flatness": spec})
    assert len(draw_flatness(Results(one, folder), one.figures["flatness"]).axes) == 1


def test_recorded_sharpness_is_a_measure_too(folder: Path, monkeypatch) -> None:
    spec = {"kind": "flatness", "columns": [C10], "rows": ROWS, "measure": "sharpness_gradient"}
    study = make_study(figures={"flatness": spec})
    asked = study.figures["flatness"]
    assert asked.sources == ("metrics",)
    found = Results(study, folder)
    assert len(points_of(found, asked).labels) == 0  # these runs did not record it
    [cell] = study.select(algorithm="fedavg", seed=0, dataset="cifar10")
    columns = found.metrics(cell)
    monkeypatch.setattr(
        Results,
        "metrics",
        lambda self, cell: {**columns, "sharpness_gradient": [*map(float, range(1, 11))]},
    )
    # The last 1,000 of 10,000 rounds: the last of ten evaluations.
    assert values.last_mean(found, cell, "sharpness_gradient") == 10.0
    with refused("figures.f.measure", "sharpness_gradient", "put sharpness"):
        digits(
            labels=["fedavg"], figures={"f": {"kind": "flatness", "measure": "sharpness_gradient"}}
        )


def test_runs_of_before_are_no_failure(folder: Path) -> None:
    """A manifest without accuracy by class, and one that is not what it must be."""
    study = make_study()
    found = Results(study, folder)
    [cell] = study.select(algorithm="fedavg", seed=0, dataset="cifar10")
    assert values.accuracy_by_class(found, cell) == [57.0, 61.0, None]
    manifest = found.manifest(cell)
    old = {k: v for k, v in manifest.items() if k != "accuracy_by_class"}
    for given, says in ((old, None), ({**manifest, "accuracy_by_class": ["x"]}, "accuracy_by")):
        changed = replace(found)
        vars(changed)["manifest"] = lambda cell, given=given: given
        if says is None:
            assert values.accuracy_by_class(changed, cell) is None
        else:
            with refused(says, "manifest.json"):
                values.accuracy_by_class(changed, cell)
