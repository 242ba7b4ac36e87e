"""What tables and figures show of a Hessian's spectrum beside its largest eigenvalue."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedgloss.report import figures, tables
from fedgloss.report.density import density
from fedgloss.report.formats import to_markdown
from fedgloss.report.results import Results
from fedgloss.study.study import Study
from refusal import refused
from studies import digits
from toy_results import C10, LAMBDA1, PARAMETERS, make_study, write_results

SHOWN = {"kind": "methods", "columns": [C10], "rows": ["fedavg", "feddyn-sam"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_results(tmp_path)


def with_table(*show: str) -> Study:
    study = make_study()
    return replace(study, config=study.config | {"tables": {"one": SHOWN | {"show": [*show]}}})


def cell_of(study: Study, label: str):
    return study.select(dataset="cifar10", algorithm=label)[0]


def edit(folder: Path, change, label: str = "fedavg") -> Path:
    file = folder / "analysis/toy" / str(cell_of(make_study(), label)) / "hessian.json"
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))
    return file


def entries(folder: Path, *show: str) -> list[float | None]:
    """The means of the first row."""
    return [e.ours.mean for e in tables.build(with_table(*show), "one", folder).rows[0].entries]


def test_the_trace_and_the_part_of_it_in_one_direction(folder) -> None:
    lambda1, trace, share = entries(folder, "lambda1", "trace", "lambda1_share")
    assert trace == pytest.approx(4 * lambda1)
    assert share == pytest.approx(25.0)


def test_a_trace_that_is_not_above_0_has_no_parts(folder) -> None:
    for seed in make_study().asked.seeds:
        cell = make_study().select(dataset="cifar10", algorithm="fedavg", seed=seed)[0]
        file = folder / "analysis/toy" / str(cell) / "hessian.json"
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"trace": record["trace"] | {"trace": -1.0}}))
    assert entries(folder, "trace", "lambda1_share") == [-1.0, None]


def test_the_note_says_how_far_off_a_trace_may_be(folder) -> None:
    """The largest standard error of all: 0.1 of 4 x 9."""
    text = to_markdown(tables.build(with_table("trace"), "one", folder))
    assert "estimated from 90 products with random vectors" in text
    assert "the standard error of an estimate is at most 0.28 % of it" in text
    assert "λ₁: largest eigenvalue of the Hessian" in text  # of which the trace is


def test_nothing_is_said_of_errors_where_nothing_is_there(tmp_path) -> None:
    text = to_markdown(tables.build(with_table("trace", "lambda1_share"), "one", tmp_path))
    assert "estimated from some products" in text and "standard error" not in text


def test_a_density_has_a_peak_of_its_height_at_each_eigenvalue(folder) -> None:
    study = make_study()
    found = density(Results(study, folder), cell_of(study, "fedavg"))
    width, largest = 0.2, LAMBDA1["fedavg"]
    peak, error = found.smoothed(np.array([largest]), width)
    assert peak[0] == pytest.approx(1 / (PARAMETERS * width * math.sqrt(2 * math.pi)))
    assert error[0] > 0


def test_the_caption_says_how_it_was_measured_and_what_is_not_there(folder) -> None:
    said = figures.caption(make_study(), "density", folder)
    for words in ("2 random starts", "is 1 % of the range", "(seed 0)"):
        assert words in said
    left_out = said.partition("Left out: ")[2]
    assert "; FedDyn + SAM at CIFAR-100, α = 0 (diverged); and" in left_out
    assert left_out.endswith("FedGloSS at CIFAR-100, α = 0 (not run).")


DAMAGED = {
    "no trace in the trace": lambda h: h["trace"].pop("trace"),
    "a trace that is text": lambda h: h["trace"].update(trace="4"),
    "no error": lambda h: h["trace"].pop("standard_error"),
    "no nodes": lambda h: h["density"].pop("nodes"),
    "one start": lambda h: h["density"].update(nodes=[[1.0]], weights=[[1.0]]),
    "a node too many": lambda h: h["density"]["nodes"][0].append(1.0),
    "a node that is none": lambda h: h["density"]["nodes"][0].__setitem__(0, None),
    "empty starts": lambda h: h["density"].update(nodes=[[], []], weights=[[], []]),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file_is_left_out_and_named(what, folder) -> None:
    edit(folder, DAMAGED[what])
    key = "trace" if "trace" in what or "error" in what else "density"
    cell = cell_of(make_study(), "fedavg")
    assert Results(make_study(), folder).hessian(cell) is None
    caption = figures.caption(make_study(), "density", folder)
    assert f"FedAvg at CIFAR-10, α = 0 (unreadable: hessian.json: {key}" in caption
    table = to_markdown(tables.build(with_table("lambda1"), "one", folder))
    assert f"left out, as if not measured: {cell}: hessian.json: {key}" in table


def test_what_is_shown_must_be_computed() -> None:
    table = {"tables": {"t": {"kind": "methods", "show": ["lambda1_share"]}}}
    figure = {"figures": {"f": {"kind": "density", "seed": 0}}}
    for shown, where, key in ((table, "tables.t", "trace"), (figure, "figures.f", "density")):
        assert digits(hessian={key: {}}, **shown)
        assert digits(hessian={key: {}, "data": ["paper", "official_code"]}, **shown)
        for hessian in ({}, {key: {}, "data": "official_code"}):
            with refused(where, f"`{key}: {{}}` into hessian"):
                digits(hessian=hessian, **shown)
