"""Figures: the same bytes every time, every kind of gap drawn, labels that do not collide."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes

from fedgloss.errors import InputError
from fedgloss.files import sha256
from fedgloss.report import figures, landscapes, lines, panels, tables
from fedgloss.report.curves import LABEL_GAP, _apart, _evenly
from fedgloss.report.names import METHODS, algorithm
from fedgloss.report.painting import (
    PARTS,
    Pieces,
    cutting,
    divided,
    from_behind,
    middles,
    projected,
)
from fedgloss.report.reading import read_metrics
from fedgloss.report.results import Results
from fedgloss.report.surfaces import (
    Panel,
    Surface,
    _fine,
    _net,
    _solid,
    heights,
    spline,
    threads_of,
)
from fedgloss.study.schema import shown
from fedgloss.study.schema.shown import Condition
from fedgloss.study.study import Cell, Study
from fedgloss.study.views import Line
from toy_results import (
    AROUND,
    C10,
    C100,
    ROWS,
    edit_manifest,
    make_study,
    write_cell,
    write_results,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("results"))


def one(spec: dict) -> Study:
    study = make_study()
    return replace(study, config={**study.config, "figures": {"one": spec}})


@pytest.mark.parametrize("name", [*make_study().figures])
def test_figures_are_byte_stable(reported: Path, tmp_path: Path, name: str) -> None:
    """Drawn again, perhaps in another process, it is the same file."""
    figures.draw(make_study(), name, reported, tmp_path / "again")
    png, pdf = (tmp_path / f"again.{kind}" for kind in ("png", "pdf"))
    for file in (png, pdf):
        first = reported / "figures" / "toy" / f"{name}{file.suffix}"
        assert file.read_bytes() == first.read_bytes()
    assert b"CreationDate" not in pdf.read_bytes()
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [*make_study().figures])
def test_an_empty_results_folder_makes_a_figure_too(tmp_path: Path, name: str) -> None:
    figures.draw(make_study(), name, tmp_path, tmp_path / "out")
    assert (tmp_path / "out.pdf").stat().st_size > 0
    assert figures.caption(make_study(), name, tmp_path)


def test_curves_say_what_is_missing_and_what_diverged(folder: Path) -> None:
    from fedgloss.report.curves import draw_curves

    study = make_study()
    figure = draw_curves(Results(study, folder), study.figures["curves"])
    left, right = ([text.get_text() for text in axes.texts] for axes in figure.axes)
    assert set(left) == {"FedAvg", "SCAFFOLD (n=2, × 1/3)", "FedDyn + SAM", "FedGloSS (n=2/3)"}
    assert right[0] == "FedAvg"
    absent = "No mean: SCAFFOLD (× 1/3, 2 not run), FedDyn + SAM (× 3/3), FedGloSS (n=0/3)"
    assert right[1].replace("\n", " ") == absent


def test_a_band_is_one_sample_standard_deviation(folder: Path) -> None:
    from fedgloss.report.curves import draw_curves

    study = one({"kind": "curves", "columns": [C10], "rows": ["fedavg"]})
    figure = draw_curves(Results(study, folder), study.figures["one"])
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    at_the_end = band[np.isclose(band[:, 0], 10000)][:, 1]
    std = np.std([59.0, 60.0, 62.0], ddof=1)
    assert at_the_end.min() == pytest.approx(181 / 3 - std)
    assert at_the_end.max() == pytest.approx(181 / 3 + std)


def test_a_loss_or_norm_too_large_for_a_float32_leaves_a_run_its_other_numbers(
    folder: Path, tmp_path: Path
) -> None:
    """Written as inf while the model is still finite, shortly before a run diverges."""
    from fedgloss.report.curves import draw_curves

    results = shutil.copytree(folder, tmp_path / "results")
    metrics = results / "runs" / "toy" / C10["dataset"] / "alpha-0/cnn/fedavg/seed-0/metrics.csv"
    *rows, last = metrics.read_text().splitlines()
    t, accuracy, _, *sent = last.split(",")
    metrics.write_text("\n".join([*rows, ",".join([t, accuracy, "inf", *sent])]) + "\n")
    digest = sha256(metrics)
    edit_manifest(metrics.parent, lambda said: said["outputs"].update({"metrics.csv": digest}))

    shown = {"columns": [C10], "rows": ["fedavg"]}
    for metric, end in (("accuracy", 10000), ("loss", 9000)):
        study = one({"kind": "curves", "metric": metric, **shown})
        (axes,) = draw_curves(Results(study, results), study.figures["one"]).axes
        assert axes.lines[0].get_xdata()[-1] == end
        assert np.isfinite(axes.lines[0].get_ydata()).all()
        assert [text.get_text() for text in axes.texts] == ["FedAvg"], "no seed is left out"

    metrics.write_text(metrics.read_text().replace("inf", "nan"))
    with pytest.raises(InputError, match=r"metrics\.csv: loss has an entry that is not finite"):
        read_metrics(metrics)


@pytest.mark.parametrize("rounds", [[10, 11], [5], [1, 2, 3], [*range(120)]])
def test_ticks_are_whole_rounds(rounds, folder: Path, monkeypatch) -> None:
    from fedgloss.report import curves
    from fedgloss.report.results import Results

    short = ([float(t) for t in rounds], [50.0] * len(rounds))
    curve = curves.Curve("FedAvg", {"color": "k", "linestyle": "-"}, [short], [])
    monkeypatch.setattr(curves, "curve_of", lambda *_: curve)
    study = one({"kind": "curves", "columns": [C10], "rows": ["fedavg"]})
    figure = curves.draw_curves(Results(study, folder), study.figures["one"])
    ticks = figure.axes[0].get_xticks()
    assert len(ticks) and all(tick == round(tick) for tick in ticks)


@pytest.mark.parametrize("kind", ["density", "flatness", "lines"])
def test_the_longest_names_fit_below_a_single_panel(kind, seen, monkeypatch) -> None:
    monkeypatch.setattr("fedgloss.report.names.algorithm", lambda *_: "FedGloSS without ADMM")
    more = {"density": {"seed": 0}, "lines": {"between": "seeds"}}.get(kind, {})
    rows = ["fedavg", "feddyn-sam"] if kind == "lines" else ROWS
    study = one({"kind": kind, "columns": [C10], "rows": rows, **more})
    figure = figures.KINDS[kind].draw(Results(study, seen), study.figures["one"])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    left, right = legend.get_window_extent().intervalx
    assert 0 <= left < right <= figure.bbox.width


def test_a_figure_of_one_seed_takes_that_seed(folder: Path) -> None:
    study = one({"kind": "eigenvalues", "columns": [C10], "rows": ROWS, "seed": 42})
    figure, column = study.figures["one"], Condition(**C10)
    assert [c.seed for c in panels.cells_at(study, figure, "fedavg", column)] == [42]
    assert {c.seed for c in study.cells_of(figure)} == {42}


def test_every_kind_of_the_schema_is_made() -> None:
    made = [*tables.KINDS, "locals", "claims", "sweep"]  # whose rows are no methods
    for union, kinds in ((shown.Table, made), (shown.Figure, figures.KINDS)):
        classes = get_args(get_args(union)[0])
        asked = [get_args(one.model_fields["kind"].annotation)[0] for one in classes]
        assert asked == [*kinds]


def test_an_unknown_figure_is_refused_with_the_known_ones(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no figure 'x' \(allowed: curves, sharpness, density, gain, "
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
    assert min(places) >= -1e-9 and max(places) <= 1 + 1e-9
    gaps = [b - a for a, b in pairwise(ends)]
    if all(gap >= LABEL_GAP for gap in gaps):
        assert places == pytest.approx(ends)


def test_curves_keep_the_regular_evaluations_and_the_last() -> None:
    assert _evenly([10, 20, 21, 22, 23], 10) == [0, 1, 4]


def bowl(points: int = 31, top: float = 8.0, **kind) -> Surface:
    axis = np.linspace(-1, 1, points)
    loss = 0.1 + top * (axis[:, None] ** 2 + axis**2) / 2
    return Surface("", "#0072B2", axis, axis, loss, **kind)


def test_surfaces_leave_out_what_is_not_finite() -> None:
    axis = np.linspace(-1, 1, 4)
    loss = np.ones((4, 4))
    loss[0, 0] = np.inf
    assert len(_solid(Surface("", "#000000", axis, axis, loss), 1.0).corners) == 8  # of 3 x 3


def test_a_surface_is_drawn_through_its_points_without_kinks() -> None:
    surface = bowl(17)
    points, cuts = _fine(surface)
    assert cuts == 3 and points.shape == (49, 49, 3)
    np.testing.assert_allclose(points[::3, ::3, 0], surface.x[:, None] + 0 * surface.y)
    np.testing.assert_allclose(points[::3, ::3, 2], np.log1p(surface.loss), rtol=1e-12)
    exact = np.log1p(bowl(49).loss)
    assert np.abs(points[..., 2] - exact).max() < 2e-3 < np.abs(np.diff(exact)).max() / 20
    assert points[..., 2].min() == np.log1p(surface.loss).min()  # never below what was computed
    for coarse in (bowl(3), bowl(101)):
        assert _fine(coarse)[0].shape == (*coarse.loss.shape, 3)


@pytest.mark.parametrize("knots", [4, 5, 17])
def test_the_spline_goes_through_its_knots_and_meets_cubics(knots: int) -> None:
    x, fine = np.linspace(-1, 1, knots), np.linspace(-1, 1, (knots - 1) * 4 + 1)
    matrix = spline(knots, 4)
    np.testing.assert_allclose(matrix[::4], np.eye(knots), atol=1e-12)
    np.testing.assert_allclose(matrix @ (x**3 - 2 * x**2 + 1), fine**3 - 2 * fine**2 + 1, atol=1e-9)


def test_a_nets_meshes_are_wide_and_its_threads_go_through_every_point() -> None:
    pieces = _net(bowl(31, net=True)).corners
    assert len(pieces) == 2 * 16 * 60  # 15 meshes a side, each thread through 31 points and between
    for place in (-1.0, 1.0):
        assert (pieces[..., 0] == place).any() and (pieces[..., 1] == place).any()
    assert len(_net(bowl(9, net=True)).corners) == 2 * 9 * 48  # a coarse grid's lines are threads


# How surfaces hide one another


@pytest.fixture
def axes() -> Iterator[Axes]:
    """3-D axes over the unit square, seen from beyond its corner (1, 0)."""
    figure = plt.figure()
    axes = figure.add_subplot(projection="3d")
    axes.set(xlim=(0, 1), ylim=(0, 1), zlim=(0, 1))
    axes.view_init(elev=23, azim=-58)
    yield axes
    plt.close(figure)


def square(x: float, y: float, height: float, slope: float = 0.0) -> np.ndarray:
    """Over a square of side 0.1, rising along y by `slope`; corners [4, 3]."""
    plan = np.array([[0, 0], [0.1, 0], [0.1, 0.1], [0, 0.1]])
    return np.column_stack([plan + np.array([x, y]), height + slope * plan[:, 1]])


def painted(axes: Axes, *pieces: np.ndarray) -> list[int]:
    """The numbers of pieces, the one that is painted first in front."""
    corners = np.stack(pieces)
    return from_behind(axes, corners, projected(axes, corners), middles(corners)).tolist()


def test_squares_are_painted_from_the_farthest_to_the_nearest_at_any_height(axes) -> None:
    near, middle, far = square(0.9, 0.0, 0.1), square(0.5, 0.5, 0.9), square(0.0, 0.9, 0.5)
    assert painted(axes, near, far, middle) == [1, 2, 0]
    side = np.array([[0.6, 0.5, 0.9], [0.6, 0.6, 0.9], [0.6, 0.6, 0.9], [0.6, 0.5, 0.9]])
    behind, before = square(0.5, 0.5, 0.2), square(0.6, 0.5, 0.2)
    assert painted(axes, before, side, behind) == [2, 1, 0]  # a thread between two squares


def test_over_one_square_the_one_that_is_seen_is_painted_last(axes) -> None:
    """From above that is the upper one; the undersides of walls hide what is above them."""
    low, high = (square(0.5, 0.5, height) for height in (0.2, 0.3))
    assert painted(axes, high, low) == [1, 0]
    low, high = (square(0.5, 0.5, height, slope=-5.0) for height in (0.5, 0.6))
    assert painted(axes, high, low) == [0, 1]


@pytest.mark.parametrize("lines", range(2, 202))
def test_a_net_has_both_edges_and_not_too_many_meshes(lines: int) -> None:
    threads = threads_of(lines)
    assert threads[0] == 0 and threads[-1] == lines - 1 and sorted({*threads}) == threads
    assert min(7, lines - 1) <= len(threads) - 1 <= 16


def test_heights_are_one_scale_for_all_panels_with_round_numbers_apart() -> None:
    low, top, ticks = heights([Panel("", (bowl(),)), Panel("", (bowl(top=40.0),))])
    assert (low, top) == (0.0, pytest.approx(40.1))
    assert ticks == [0, 1, 5, 10, 20]
    high = Surface("", "#000000", *2 * (np.array([0.0, 1.0]),), np.array([[4.0, 5.0], [4.5, 4.0]]))
    assert heights([Panel("", (high,))])[0] == 4.0  # an axis from 0 would show a flat plate


@pytest.mark.parametrize(("low", "top"), [(1.3, 2.9), (0.21, 0.24), (4.0, 5.0), (105.0, 180.0)])
def test_a_short_axis_has_several_heights_too(low, top) -> None:
    short = Surface("", "#000000", *2 * (np.array([0.0, 1.0]),), np.array([[low, top]] * 2))
    _, _, ticks = heights([Panel("", (short,))])
    assert 3 <= len(ticks) <= 6 and low <= min(ticks) and max(ticks) <= top
    assert all(float(f"{tick:g}") == pytest.approx(tick) for tick in ticks)  # as they are written


def test_squares_that_cut_each_other_are_painted_in_smaller_ones() -> None:
    flat, sloping, above = (
        square(0.5, 0.5, 0.3),
        square(0.5, 0.5, 0.2, slope=2.0),
        square(0.5, 0.5, 0.5),
    )
    corners = np.stack([flat, above, sloping, square(0.6, 0.5, 0.3)])
    assert cutting(corners[[0, 2, 3]]).tolist() == [True, True, False]
    assert not cutting(corners[[0, 1, 3]]).any()
    colours, widths = np.eye(4), np.arange(4.0)
    which = np.array([True, False, True, False])
    small, squares = divided(Pieces(corners, colours, colours, widths), which)
    assert len(small.corners) == 2 + 2 * PARTS**2 == len(squares)
    for colour, width, whole in zip(colours, widths, corners, strict=True):
        own = (small.faces == colour).all(axis=1)
        assert (small.widths[own] == width).all() and (squares[own] == middles(whole[None])).all()
        np.testing.assert_allclose(small.corners[own].min(axis=(0, 1)), whole.min(axis=0))
        np.testing.assert_allclose(small.corners[own].max(axis=(0, 1)), whole.max(axis=0))


# What the figures of surfaces and lines show


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with local models' surfaces and with lines, whose losses name them."""
    folder = write_results(tmp_path_factory.mktemp("seen"))
    study = make_study()
    for label in ("fedavg", "feddyn-sam"):
        (cell, other, _) = study.select(dataset="cifar10", algorithm=label)
        at = folder / "analysis" / "toy" / str(cell)
        rows = [f"{x},{y},{1 + x * x + y * y},50" for x in (-1, 0, 1) for y in (-1, 0, 1)]
        for place in (1, 2):
            for on in ("own", "all"):
                file = at / f"landscape-local-{place}-{on}-within-1.csv"
                file.write_text("\n".join(["x,y,loss,accuracy", *rows]) + "\n")
                facts = {"status": "completed", "data": on, "client": 6 + place, "class": "cat"}
                facts |= {"images": 500, "of": 50_000 if on == "all" else 500}
                file.with_suffix(".json").write_text(json.dumps(facts))
        for line in (Line(other), Line(cell, "final"), Line(cell, "final", "round-9000")):
            file = at / f"line-{line.name}.csv"
            file.write_text("t,loss,accuracy\n-0.5,3,40\n0,1,60\n0.5,2,50\n1,1,60\n1.5,3,40\n")
            facts = {"status": "completed", "data": "all", "images": 50_000, "of": 50_000}
            file.with_suffix(".json").write_text(json.dumps(facts))
    return folder


def local(**more) -> Study:
    return one({"kind": "landscape", "seed": 0, "columns": [C10], "rows": ["fedavg"], **more})


def test_a_local_model_is_drawn_on_its_own_data_and_on_all_with_a_net_to_compare(seen) -> None:
    for rows, reference in ((["fedavg"], "global model"), (["fedavg", "feddyn-sam"], None)):
        study = local(participants=[1, 2], rows=rows)
        panels = landscapes.panels_of(Results(study, seen), study.figures["one"])
        assert [panel.title for panel in panels] == ["Client 7: class cat", "Client 8: class cat"]
        reference = reference or "FedDyn + SAM, all data"
        for panel in panels:
            assert [s.name for s in panel.surfaces] == ["own data", "all data", reference]
            assert [s.net for s in panel.surfaces] == [False, False, True]
            assert len({s.colour for s in panel.surfaces}) == 3


def test_columns_are_panels_and_what_is_not_there_is_left_out_and_said(seen) -> None:
    study = local(columns=[C10, C100], rows=["fedavg", "feddyn-sam"])
    asked, found = study.figures["one"], Results(study, seen)
    first, second = landscapes.panels_of(found, asked)
    assert (len(first.surfaces), len(second.surfaces)) == (2, 1)  # diverged there
    said = figures.caption(study, "one", seen)
    for words in ("5,000 of the 50,000 training images", "FedDyn + SAM is drawn as a net"):
        assert words in said
    assert "Left out: FedDyn + SAM at CIFAR-100, α = 0 (diverged)." in said


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"between": "seeds"}, ["of seed 0 to that of seed 42", "all 50,000 training images"]),
        ({"between": "models", "seed": 0}, ["to the last of these models (seed 0)"]),
        ({"between": "rounds", "round": -1000}, ["after round 9,000 of 10,000 to", "seed 0"]),
        ({"between": "methods", "seed": 0}, ["of FedAvg to that of each other method", "Left out"]),
    ],
    ids=lambda value: value.get("between") if isinstance(value, dict) else "",
)
def test_lines_go_from_model_to_model(seen, tmp_path, entry, words) -> None:
    study = one({"kind": "lines", "columns": [C10], "rows": ["fedavg", "feddyn-sam"], **entry})
    said = figures.caption(study, "one", seen)
    assert all(word in said for word in words), said
    for again in ("a", "b"):
        figures.draw(study, "one", seen, tmp_path / again)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def write_line(folder: Path, cell: Cell, view: Line) -> None:
    file = folder / "analysis" / "toy" / str(cell) / f"line-{view.name}.csv"
    file.write_text("t,loss,accuracy\n0,1,60\n1,1,60\n")
    facts = {"status": "completed", "data": "all", "images": 50_000, "of": 50_000}
    file.with_suffix(".json").write_text(json.dumps(facts))


def ticks(found: Results) -> list[list[str]]:
    """What stands below the ends of each panel's lines."""
    drawn = lines.draw(found, found.study.figures["one"])
    down = drawn.axes[len(drawn.axes) // 2 :]
    return [[tick.get_text() for tick in axes.get_xticklabels()] for axes in down]


def test_of_lines_between_methods_those_are_named_that_are_not_drawn(tmp_path) -> None:
    """Of seed 42, SCAFFOLD diverged and FedGloSS is not run; FedAvg is where all start."""
    spec = {"kind": "lines", "between": "methods", "columns": [C10], "rows": ROWS, "seed": 42}
    study, folder = one(spec), write_results(tmp_path)
    (start, *_), (other, *_) = (
        study.select(dataset="cifar10", algorithm=label, seed=42)
        for label in ("fedavg", "feddyn-sam")
    )
    write_line(folder, start, Line(other))
    said = figures.caption(study, "one", folder)
    assert said.endswith("Left out: SCAFFOLD at α = 0 (diverged) and FedGloSS at α = 0 (not run).")
    shutil.rmtree(folder / "runs" / "toy" / str(start))
    said = figures.caption(study, "one", folder)
    assert "FedDyn + SAM at α = 0 (FedAvg not run)" in said


def test_what_is_left_out_on_two_data_sets_has_both_reasons(tmp_path) -> None:
    spec = {"kind": "landscape", "seed": 0, "columns": [C10, C100], "rows": ["scaffold"]}
    said = figures.caption(one(spec), "one", write_results(tmp_path))
    assert "SCAFFOLD at CIFAR-100, α = 0 (diverged)" in said and "CIFAR-10, " not in said
    file = f"analysis/toy/cifar10/alpha-0/cnn/scaffold/seed-0/landscape-{AROUND.name}.csv"
    (tmp_path / file).unlink()
    said = figures.caption(one(spec), "one", tmp_path)
    assert said.endswith(
        "Left out: SCAFFOLD at CIFAR-10, α = 0 (not computed);"
        " and SCAFFOLD at CIFAR-100, α = 0 (diverged)."
    )


def test_lines_between_methods_name_the_one_that_each_panel_starts_from(tmp_path) -> None:
    """CIFAR-100 without FedAvg: there they start from SCAFFOLD."""
    spec = {"kind": "lines", "between": "methods", "columns": [C10, C100], "seed": 42}
    study = one(spec | {"rows": ["fedavg", "feddyn-sam", "scaffold"]})
    folder = write_results(tmp_path)
    kept = [c for c in study.cells if (c.dataset, c.algorithm) != ("cifar100", "fedavg")]
    study = replace(study, cells=tuple(kept))
    for cell in study.cells:
        if not (folder / "runs" / "toy" / str(cell)).exists() and cell.seed == 42:
            write_cell(folder, cell, 50.0)
    run = folder / "runs/toy/cifar100/alpha-0/cnn/feddyn-sam/seed-42"
    shutil.rmtree(run)
    shutil.rmtree(folder / "analysis/toy/cifar100/alpha-0/cnn/feddyn-sam/seed-42")
    again = next(c for c in kept if str(c) in str(run))
    write_cell(folder, again, 50.0)
    for cell, view in study.views(study.figures["one"]):
        write_line(folder, cell, view)
    assert ticks(Results(study, folder)) == [["FedAvg", "the other"], ["FedDyn + SAM", "the other"]]
    said = figures.caption(study, "one", folder)
    assert "of FedAvg or FedDyn + SAM to that of each other method" in said


def test_lines_between_rounds_of_runs_that_differ_in_length_count_from_their_ends(
    tmp_path,
) -> None:
    spec = {"kind": "lines", "between": "rounds", "round": -1000, "seed": 0, "columns": [C10]}
    longer = {"feddyn-sam": {"training": {"rounds": 20_000}}}
    study = make_study(
        algorithms=longer, figures={"one": spec | {"rows": ["fedavg", "feddyn-sam"]}}
    )
    folder = write_results(tmp_path, study)
    for cell, view in study.views(study.figures["one"]):
        write_line(folder, cell, view)
    assert ticks(Results(study, folder)) == [["round T − 1,000", "round T"]]
    said = figures.caption(study, "one", folder)
    assert "after round 9,000 of 10,000 or 19,000 of 20,000 to the last" in said
