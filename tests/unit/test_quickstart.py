"""The quickstart compares like with like: rivals, both dual steps, one tuning budget for all."""

import copy
import csv
from pathlib import Path

import pytest
import yaml
from scipy import stats

from fedgloss.report import figures, tables
from fedgloss.study.chosen import digest
from fedgloss.study.configuration import read_yaml
from fedgloss.study.standings import rungs
from fedgloss.study.study import load_study

ROOT = Path(__file__).resolve().parents[2]
STUDY = load_study(ROOT / "config" / "quickstart.yaml")
SEARCH = load_study(ROOT / "config" / "quickstart-sweep.yaml")
SEARCHED = ("lr", "rho", "rho_l", "beta", "T_s")
LABELS = list(dict.fromkeys(cell.algorithm for cell in STUDY.cells))
EVIDENCE = ROOT / "benchmarks" / "results" / "quickstart-sweep"
TRIALS = list(csv.DictReader((EVIDENCE / "trials.csv").open()))


def settings(label):
    return STUDY.settings(STUDY.select(algorithm=label)[0]).to_json()


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


def test_every_row_was_searched_with_the_same_budget_on_seeds_that_are_not_reported():
    tried = {label: [t for t in TRIALS if t["algorithm"] == label] for label in LABELS}
    assert sum(map(len, tried.values())) == len(TRIALS)
    first, last = (rung.seeds for rung in rungs(SEARCH))
    kept = SEARCH.asked.sweep.halving.kept(24)
    for trials in tried.values():
        assert sorted(int(t["seeds"]) for t in trials) == sorted(
            [len(last)] * kept + [len(first)] * (24 - kept)
        )
    assert not {*last} & set(STUDY.config["seeds"])


def test_the_trials_in_the_evidence_are_those_of_the_search():
    def point(label, values):
        return label, *((n, float(values[n])) for n in SEARCHED if values.get(n, "") != "")

    asked = [
        point(trial.base, {name: value for (_, name), value in trial.point.items()})
        for trial in SEARCH.trials.values()
    ]
    assert sorted(asked) == sorted(point(t["algorithm"], t) for t in TRIALS)


@pytest.mark.parametrize("label", LABELS)
def test_what_was_chosen_is_the_best_trial_of_those_with_all_seeds(label):
    chosen = read_yaml(EVIDENCE / "chosen.yaml")
    assert chosen["fingerprint"] == digest(SEARCH.config), "of the search as it is"
    (winner,) = (t for t in TRIALS if t["algorithm"] == label and t["state"] == "chosen")
    rivals = [t for t in TRIALS if t["algorithm"] == label and t["seeds"] == winner["seeds"]]
    assert len(rivals) == SEARCH.asked.sweep.halving.kept(24)
    assert winner == max(rivals, key=lambda t: float(t["mean"]))
    assert chosen["evidence"][label]["accuracy"] == pytest.approx(float(winner["mean"]), abs=1e-3)
    entry = chosen["algorithms"][label]
    found = {**entry["training"], **entry["hyperparameters"]}
    if "alpha" in found:  # FedDyn's is 1 / beta
        found["beta"] = 1 / found["alpha"]
    tried = {name: float(winner[name]) for name in SEARCHED if winner[name]}
    assert {name: pytest.approx(found[name]) for name in tried} == tried


def lead(label):
    """How far a row's winner is ahead of the trial behind it: mean and half the 95 % interval."""
    rows = sorted((t for t in TRIALS if t["algorithm"] == label), key=lambda t: int(t["place"]))
    first, second = ([float(v.split(":")[1]) for v in t["by_seed"].split()] for t in rows[:2])
    low, high = stats.ttest_rel(first, second).confidence_interval(0.95)
    return (low + high) / 2, (high - low) / 2


def test_what_is_said_of_the_search_follows_from_its_trials():
    said = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    leads = {label: lead(label) for label in LABELS}
    assert [label for label, (mean, half) in leads.items() if mean > half] == ["fedgloss-printed"]
    assert "by {:.2f} ± {:.2f} points".format(*leads["fedgloss-printed"]) in said
    assert "FedAvg's is ahead by {:.1f} ± {:.1f}.".format(*leads["fedavg"]) in said

    def diverged(label):
        return sum(int(t["diverged"]) for t in TRIALS if t["algorithm"] == label)

    printed = [diverged(f"{name}-printed") for name in ("fedgloss", "feddyn-sam")]
    assert [*printed, diverged("fedsmoo")] == [5, 5, 4]
    assert diverged("fedgloss-released") == diverged("feddyn-sam-released") == 0
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert (
        "Of each row's 144 runs in the search 5 ended with numbers that are not finite for FedGloSS"
        " and 5 for FedDyn + SAM (4 for FedSMOO), with the released step none." in readme
    )


def test_the_study_without_its_numbers_gets_the_same_from_the_file_of_the_search(tmp_path):
    """Its settings are written out so that it can be read; `chosen` would give the same."""
    bare = copy.deepcopy(STUDY.config) | {"chosen": str(EVIDENCE / "chosen.yaml")}
    for entry in bare["algorithms"].values():
        del entry["training"]
        entry.pop("hyperparameters", None)
    (tmp_path / "quickstart.yaml").write_text(yaml.safe_dump(bare))
    taken = load_study(tmp_path / "quickstart.yaml")
    assert [taken.settings(cell) for cell in taken.cells] == [
        STUDY.settings(cell) for cell in STUDY.cells
    ]


@pytest.mark.parametrize("label", LABELS)
def test_a_run_differs_from_its_trials_in_what_was_searched_and_what_is_held_out_alone(label):
    cell = next(c for c in SEARCH.cells if SEARCH.trials[c.algorithm].base == label)
    found, ours = SEARCH.settings(cell).to_json(), settings(label)
    assert found["partition"].pop("held_out") == {"share": 0.2, "seed": 0}
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
