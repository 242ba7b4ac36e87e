"""Accuracy gained over FedAvg against communication: what the lines and dots are."""

import shutil
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from fedgloss.report.gain import draw_gain
from fedgloss.report.results import Results
from refusal import refused
from studies import digits
from toy_results import C10, ROWS, cell, make_study, write_results


@pytest.fixture(scope="module")
def figure(tmp_path_factory: pytest.TempPathFactory) -> Figure:
    folder = write_results(tmp_path_factory.mktemp("results"))
    study = make_study(figures={"gain": {"kind": "gain", "columns": [C10], "rows": ROWS}})
    return draw_gain(Results(study, folder), study.figures["gain"])


def points(figure: Figure) -> dict[tuple[float, float], float]:
    """The dots, and half the length of their bars."""
    found = {}
    for bar in figure.axes[0].containers:
        dot, _, (line,) = bar
        [(x, low), (_, high)] = line.get_segments()[0]
        found[x, float(dot.get_ydata()[0])] = (high - low) / 2
    return found


def test_a_dot_is_the_reported_gain_at_all_bytes_in_units_of_fedavgs(figure: Figure) -> None:
    """FedAvg ends at 60.33 %, SCAFFOLD, at twice its bytes, at 25.5, FedDyn + SAM at 80.5."""
    dots = sorted(points(figure))
    fedavg = (59 + 60 + 62) / 3
    expected = [(1, 0), (1, 80.5 - fedavg), (1, 83.8 - fedavg), (2, 25.5 - fedavg)]
    assert dots == [pytest.approx(dot) for dot in expected]
    assert points(figure)[dots[0]] == pytest.approx((7 / 3) ** 0.5)


def test_a_line_is_accuracy_minus_fedavgs_end_over_the_bytes_so_far(figure: Figure) -> None:
    lines = [line.get_xydata() for line in figure.axes[0].lines if len(line.get_xdata()) == 10]
    fedavg = (59 + 60 + 62) / 3
    assert lines[0][:, 0] == pytest.approx([i / 10 for i in range(1, 11)])
    assert lines[0][:, 1] == pytest.approx([fedavg * i / 10 - fedavg for i in range(1, 11)])


def test_what_is_far_below_fedavg_is_seen_if_it_is_an_end(figure: Figure) -> None:
    assert figure.axes[0].get_ylim()[0] < 25 - 60.4  # SCAFFOLD's worst seed


def test_a_run_that_diverged_before_its_first_evaluation_has_no_line(tmp_path: Path) -> None:
    """Its metrics have no bytes: nothing was recorded yet."""
    folder = write_results(tmp_path)
    study = make_study(figures={"gain": {"kind": "gain", "columns": [C10], "rows": ROWS}})
    found = Results(study, folder)
    assert "bytes_down" not in found.metrics(cell("cifar10", "scaffold", 42))
    lines = draw_gain(found, study.figures["gain"]).axes[0].lines
    assert not [line for line in lines if line.get_marker() == "x"]


def test_it_needs_fedavg_and_the_bytes() -> None:
    figures = {"figures": {"gain": {"kind": "gain"}}}
    assert digits(labels=["fedavg", "fedsam"], **figures)
    with refused("figures.gain", "kind gain counts against fedavg", "digits/0/smallcnn"):
        digits(labels=["fedsam"], **figures)
    with refused("figures.gain.kind", "gain needs what", "put communication", "training.record"):
        digits(labels=["fedavg"], training={"record": []}, **figures)


def test_a_panel_against_a_part_of_fedavg_says_so(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    study = make_study(figures={"gain": {"kind": "gain", "columns": [C10], "rows": ROWS}})
    for seed, said in ((42, "Against FedAvg n=2/3"), (0, "Against FedAvg n=1/3")):
        shutil.rmtree(folder / "runs" / "toy" / str(cell("cifar10", "fedavg", seed)))
        drawn = draw_gain(Results(study, folder), study.figures["gain"])
        assert said in [text.get_text() for text in drawn.axes[0].texts]
    shutil.rmtree(folder / "runs")
    drawn = draw_gain(Results(study, folder), study.figures["gain"])
    assert drawn.axes[0].texts[0].get_text() == "Nothing to compare with: FedAvg not run"
