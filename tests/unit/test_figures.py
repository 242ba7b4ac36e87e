"""Figures: the same bytes every time, every kind of gap drawn, labels that do not collide."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgloss.errors import InputError
from fedgloss.report import figures, panels, tables
from fedgloss.report.curves import LABEL_GAP, _apart, _evenly
from fedgloss.report.names import METHODS, algorithm
from fedgloss.report.surfaces import Surface, _quads
from fedgloss.study.schema import shown
from fedgloss.study.schema.shown import Condition
from fedgloss.study.study import Cell, Study
from test_report_results import C10, ROWS, make_study, write_results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("results"))


def one(spec: dict) -> Study:
    study = make_study()
    return replace(study, config={**study.config, "figures": {"one": spec}})


@pytest.mark.parametrize("name", ["curves", "sharpness", "landscape"])
def test_figures_are_byte_stable(folder: Path, tmp_path: Path, name: str) -> None:
    for again in ("a", "b"):
        figures.draw(make_study(), name, folder, tmp_path / again)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    assert b"CreationDate" not in (tmp_path / "a.pdf").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["curves", "sharpness", "landscape"])
def test_an_empty_results_folder_makes_a_figure_too(tmp_path: Path, name: str) -> None:
    figures.draw(make_study(), name, tmp_path, tmp_path / "out")
    assert (tmp_path / "out.pdf").stat().st_size > 0
    assert figures.caption(make_study(), name, tmp_path)


def test_curves_say_what_is_missing_and_what_diverged(folder: Path) -> None:
    from fedgloss.report.curves import draw_curves
    from fedgloss.report.results import Results

    study = make_study()
    figure = draw_curves(Results(study, folder), study.figures["curves"])
    left, right = ([text.get_text() for text in axes.texts] for axes in figure.axes)
    assert set(left) == {"FedAvg", "SCAFFOLD (n=2, × 1/3)", "FedDyn + SAM", "FedGloSS (n=2/3)"}
    assert right[0] == "FedAvg"
    absent = "No mean: SCAFFOLD (× 1/3, 2 not run), FedDyn + SAM (× 3/3), FedGloSS (n=0/3)"
    assert right[1].replace("\n", " ") == absent


def test_a_band_is_one_sample_standard_deviation(folder: Path) -> None:
    from fedgloss.report.curves import draw_curves
    from fedgloss.report.results import Results

    study = one({"kind": "curves", "columns": [C10], "rows": ["fedavg"]})
    figure = draw_curves(Results(study, folder), study.figures["one"])
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    at_the_end = band[np.isclose(band[:, 0], 10000)][:, 1]
    std = np.std([59.0, 60.0, 62.0], ddof=1)
    assert at_the_end.min() == pytest.approx(181 / 3 - std)
    assert at_the_end.max() == pytest.approx(181 / 3 + std)


@pytest.mark.parametrize("rounds", [[10, 11], [5], [1, 2, 3], [*range(120)]])
def test_ticks_are_whole_rounds(rounds, folder: Path, monkeypatch) -> None:
    from fedgloss.report import curves
    from fedgloss.report.results import Results

    short = ([float(t) for t in rounds], [50.0] * len(rounds))
    curve = curves.Curve("FedAvg", {"color": "k", "linestyle": "-"}, [short], [])
    monkeypatch.setattr(curves, "_curve", lambda *_: curve)
    study = one({"kind": "curves", "columns": [C10], "rows": ["fedavg"]})
    figure = curves.draw_curves(Results(study, folder), study.figures["one"])
    ticks = figure.axes[0].get_xticks()
    assert len(ticks) and all(tick == round(tick) for tick in ticks)


def test_a_figure_of_one_seed_takes_that_seed(folder: Path) -> None:
    study = one({"kind": "eigenvalues", "columns": [C10], "rows": ROWS, "seed": 42})
    figure, column = study.figures["one"], Condition(**C10)
    assert [c.seed for c in panels.cells_at(study, figure, "fedavg", column)] == [42]
    assert {c.seed for c in study.cells_of(figure)} == {42}


def test_every_kind_of_the_schema_is_made() -> None:
    made = [*tables.KINDS, "claims"]  # whose rows are no methods
    for union, kinds in ((shown.Table, made), (shown.Figure, figures.KINDS)):
        classes = get_args(get_args(union)[0])
        asked = [get_args(one.model_fields["kind"].annotation)[0] for one in classes]
        assert asked == [*kinds]


def test_an_unknown_figure_is_refused_with_the_known_ones(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no figure 'x' \(allowed: curves, sharpness, landscape\)"
    ):
        figures.draw(make_study(), "x", folder, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_variant_is_named_after_its_method_and_the_first_has_its_colour() -> None:
    """FedGloSS's row of its own keeps FedGloSS's colour; without it the first variant has it."""
    labels = ("fedgloss-printed", "fedgloss-released", "mine-printed")
    study = make_study()
    assert [algorithm(study, label) for label in labels] == [
        "FedGloSS (printed)",
        "FedGloSS (released)",
        "mine-printed",
    ]
    own = {label: {"method": "fedgloss"} for label in labels}
    study = replace(make_study(algorithms=own), cells=tuple(Cell(*C10.values(), x, 0) for x in own))
    drawn = [panels.colour(study, label) for label in labels]
    assert drawn[0] == panels.COLOURS["fedgloss"] and len(set(drawn)) == 3
    both = replace(study, cells=(*study.cells, Cell(*C10.values(), "fedgloss", 0)))
    assert panels.COLOURS["fedgloss"] not in [panels.colour(both, label) for label in labels]


def test_every_method_has_its_colour_and_ones_own_keep_theirs() -> None:
    assert panels.COLOURS.keys() == METHODS.keys()
    study = make_study()
    own = (*study.cells, Cell(*C10.values(), "mine", 0), Cell(*C10.values(), "yours", 0))
    study = replace(study, cells=own)
    assert panels.colour(study, "mine") != panels.colour(study, "yours")
    assert panels.colour(study, "mine") == panels.colour(study, "mine")


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).map(sorted))
def test_labels_are_apart_in_order_and_stay_where_there_is_room(ends: list[float]) -> None:
    places = _apart(ends)
    assert all(b - a >= LABEL_GAP - 1e-9 for a, b in pairwise(places))
    assert max(places) <= 1 + 1e-9
    gaps = [b - a for a, b in pairwise(ends)]
    if all(gap >= LABEL_GAP for gap in gaps):
        assert places == pytest.approx(ends)


def test_curves_keep_the_regular_evaluations_and_the_last() -> None:
    assert _evenly([10, 20, 21, 22, 23], [1, 2, 3, 4, 5], 10) == ([10, 20, 23], [1, 2, 5])


def test_surfaces_leave_out_what_is_not_finite() -> None:
    axis = np.linspace(-1, 1, 4)
    loss = np.ones((4, 4))
    assert len(_quads(Surface("", "#000000", axis, axis, loss))) == 9
    loss[0, 0] = np.inf
    assert len(_quads(Surface("", "#000000", axis, axis, loss))) == 8
