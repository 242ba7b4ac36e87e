"""The quickstart compares like with like: rivals, both dual steps, one tuning budget for all."""

import csv
import statistics
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from fedgloss.report import figures, tables
from fedgloss.study.standings import rungs
from fedgloss.study.study import load_study

ROOT = Path(__file__).resolve().parents[2]
STUDY = load_study(ROOT / "config" / "quickstart.yaml")
SEARCH = load_study(ROOT / "config" / "quickstart-sweep.yaml")
SEARCHED = ("lr", "rho", "rho_l", "beta", "T_s")
LABELS = list(dict.fromkeys(cell.algorithm for cell in STUDY.cells))
TRIALS = list(csv.DictReader((ROOT / "benchmarks/results/quickstart_tuning.csv").open()))


def settings(label):
    return STUDY.settings(STUDY.select(algorithm=label)[0]).to_json()


def points(label):
    """What the search tries for a row: its trials' values by name, in their order."""
    trials = [trial for trial in SEARCH.trials.values() if trial.base == label]
    return [{name: value for (_, name), value in trial.point.items()} for trial in trials]


def best_of(label):
    """The number of a row's trial with the best mean over all runs, of those with most runs."""
    found = defaultdict(list)
    for trial in TRIALS:
        if trial["label"] == label:
            found[int(trial["trial"])].append(float(trial["accuracy"]))
    most = max(map(len, found.values()))
    means = {trial: statistics.fmean(v) for trial, v in found.items() if len(v) == most}
    return max(means, key=means.get)


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
def test_the_two_rows_of_a_method_differ_in_the_dual_step_and_tuned_numbers_alone(method):
    first, second = (settings(f"{method}-{step}") for step in ("printed", "released"))
    dual = {"feddyn-sam": "form", "fedgloss": "sigma_scaling"}[method]
    assert first["variants"].pop(dual) != second["variants"].pop(dual)
    for tuned in (*SEARCHED, "alpha"):
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
def test_a_rows_settings_are_the_winner_of_its_trials(label):
    best = best_of(label)
    tried = next(t for t in TRIALS if t["label"] == label and int(t["trial"]) == best)
    expected = {name: float(tried[name]) for name in SEARCHED if tried[name]}
    found = settings(label)
    known = {"lr": found["training"]["lr"], **found["hyperparameters"]}
    if "alpha" in known:  # FedDyn's is 1 / beta
        known["beta"] = 1 / known.pop("alpha")
    assert {name: pytest.approx(known[name]) for name in expected} == expected


@pytest.mark.parametrize("label", LABELS)
def test_the_search_as_a_study_has_the_points_and_the_budget_of_these_trials(label):
    """And the same settings but for what is searched, and what is held out."""
    tried = {int(t["trial"]): t for t in TRIALS if t["label"] == label}
    there = [{n: float(tried[i][n]) for n in SEARCHED if tried[i][n]} for i in range(24)]
    assert points(label) == there
    runs = Counter(int(t["seed"]) for t in TRIALS if t["label"] == label)
    first, last = (rung.seeds for rung in rungs(SEARCH))
    kept = SEARCH.asked.sweep.halving.kept(24)
    alphas = len({cell.alpha for cell in SEARCH.cells})
    assert runs == {seed: alphas * (24 if seed in first else kept) for seed in last}
    cell = next(c for c in SEARCH.cells if SEARCH.trials[c.algorithm].base == label)
    found = SEARCH.settings(cell).to_json()
    assert found["partition"].pop("held_out") == {"share": 0.2, "seed": 0}
    ours = settings(label)
    for one in (found, ours):
        del one["algorithm"], one["seed"], one["training"]["lr"]
        for name in (*SEARCHED, "alpha"):
            one["hyperparameters"].pop(name, None)
    assert found == ours


def test_the_geometry_study_has_the_same_settings():
    geometry = load_study(ROOT / "config" / "geometry.yaml")
    same = {cell.algorithm for cell in geometry.cells}.intersection(LABELS)
    assert same == {"fedavg", "fedsam", "fedsmoo", "fedgloss-printed"}
    for label in same:
        assert geometry.asked.algorithms[label] == STUDY.asked.algorithms[label]


def test_the_geometry_study_shows_every_analysis():
    """But the paper's claims, which are about its own data, and sweeps, which measure nothing."""
    geometry = load_study(ROOT / "config" / "geometry.yaml")
    shown = {
        entry.kind for s in (geometry, STUDY) for entry in (*s.tables.values(), *s.figures.values())
    }
    kinds = {*tables.KINDS, *figures.KINDS, "locals"} - {"sweep"}
    assert shown == kinds
