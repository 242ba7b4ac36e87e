"""The quickstart compares like with like: rivals, both dual steps, one tuning budget for all."""

import csv
import importlib.util
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch

from fedgloss.data.dataset import load, prepare
from fedgloss.report import figures, tables
from fedgloss.study.study import load_study

ROOT = Path(__file__).resolve().parents[2]
STUDY = load_study(ROOT / "config" / "quickstart.yaml")
LABELS = list(dict.fromkeys(cell.algorithm for cell in STUDY.cells))
TRIALS = list(csv.DictReader((ROOT / "benchmarks/results/quickstart_tuning.csv").open()))


def settings(label):
    return STUDY.settings(STUDY.select(algorithm=label)[0]).to_json()


@pytest.fixture(scope="module")
def search():
    spec = importlib.util.spec_from_file_location("tune", ROOT / "benchmarks/tune_quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_shows_the_papers_main_rival_and_both_dual_steps():
    shown = {(settings(label)["method"], *settings(label)["variants"].values()) for label in LABELS}
    methods = {method for method, *_ in shown}
    assert methods == {"fedavg", "fedsam", "feddyn-sam", "fedsmoo", "fedgloss"}
    assert {variants[0] for method, *variants in shown if method == "feddyn-sam"} == {
        "weighted",
        "official_sigma",
    }
    assert {variants[0] for method, *variants in shown if method == "fedgloss"} == {
        "paper",
        "official_code",
    }


@pytest.mark.parametrize("method", ["feddyn-sam", "fedgloss"])
def test_the_two_rows_of_a_method_differ_in_the_dual_step_and_tuned_numbers_alone(method, search):
    first, second = (settings(f"{method}-{step}") for step in ("printed", "released"))
    dual = {"feddyn-sam": "form", "fedgloss": "sigma_scaling"}[method]
    assert first["variants"].pop(dual) != second["variants"].pop(dual)
    for tuned in (*search.points()[0], "alpha"):
        for group in ("training", "hyperparameters"):
            first[group].pop(tuned, None), second[group].pop(tuned, None)
    assert first.pop("algorithm") != second.pop("algorithm")
    assert first == second


def test_tables_and_figures_show_every_row():
    entries = {**STUDY.tables, **STUDY.figures}
    assert {name for name, entry in entries.items() if [*entry.rows] != LABELS} == {"landscape"}


def test_every_row_had_the_same_number_of_trials_on_seeds_that_are_not_reported():
    assert set(Counter(trial["label"] for trial in TRIALS)) == set(LABELS)
    runs = defaultdict(Counter)
    for trial in TRIALS:
        runs[trial["label"]][trial["alpha"], trial["seed"]] += 1
    assert all(counts == runs["fedavg"] for counts in runs.values())
    assert not {int(trial["seed"]) for trial in TRIALS} & set(STUDY.config["seeds"])


@pytest.mark.parametrize("label", LABELS)
def test_a_rows_settings_are_the_winner_of_its_trials(label, search):
    best = next(iter(search.ranking(TRIALS, label)))
    tried = next(t for t in TRIALS if t["label"] == label and int(t["trial"]) == best)
    expected = {name: float(tried[name]) for name in search.points()[best] if tried[name]}
    assert expected == search.settings_of(STUDY, label, search.points()[best])
    found = settings(label)
    known = {"lr": found["training"]["lr"], **found["hyperparameters"]}
    if "alpha" in known:  # FedDyn's is 1 / beta
        known["beta"] = 1 / known.pop("alpha")
    assert {name: pytest.approx(known[name]) for name in expected} == expected


def test_what_is_held_out_is_a_fifth_of_each_class_and_not_trained_on(search, tmp_path):
    prepare("digits", tmp_path)
    data = load(tmp_path)
    rest, (images, labels) = search.hold_out(data)
    assert torch.bincount(labels).tolist() == [28] * 10
    together = torch.cat([rest.train_images, images]).flatten(1)
    assert len(together) == len(data.train_images)
    assert Counter(map(bytes, together.numpy())) == Counter(
        map(bytes, data.train_images.flatten(1).numpy())
    )


def test_the_geometry_study_has_the_same_settings():
    geometry = load_study(ROOT / "config" / "geometry.yaml")
    same = {cell.algorithm for cell in geometry.cells}.intersection(LABELS)
    assert same == {"fedavg", "fedsam", "fedsmoo", "fedgloss-printed"}
    for label in same:
        assert geometry.asked.algorithms[label] == STUDY.asked.algorithms[label]


def test_the_geometry_study_shows_every_analysis():
    """But the paper's claims, which are about its own data."""
    geometry = load_study(ROOT / "config" / "geometry.yaml")
    shown = {
        entry.kind for s in (geometry, STUDY) for entry in (*s.tables.values(), *s.figures.values())
    }
    kinds = {*tables.KINDS, *figures.KINDS, "locals"}
    assert shown == kinds
