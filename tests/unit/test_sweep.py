"""A sweep: its points, who wins by its rule, and that no trial sees a test image."""

import json
import os
import shutil
import signal
from itertools import pairwise
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure

import sweeps
from cells import contents, train_cell
from fedgloss.data.dataset import load, prepare
from fedgloss.data.partition.partition import HeldOut, load_partition, make_partition
from fedgloss.engine.checkpoint import Interrupted
from fedgloss.errors import InputError
from fedgloss.files import read_json
from fedgloss.report import figures, sweep_figure, tables
from fedgloss.study.choosing import as_yaml, to_yaml
from fedgloss.study.layout import Layout
from fedgloss.study.remaining import remaining
from fedgloss.study.standings import Standings, Worth
from fedgloss.study.status import States
from fedgloss.study.study import check_study, load_study
from fedgloss.study.sweep import packs
from fedgloss.tensors import load_tensors, save_tensors
from refusal import refused
from studies import digits
from sweeps import prepare_for, sweep, train, values

LR = {"low": 0.01, "high": 1.0, "log": True}


# Its points


def test_lists_are_tried_in_all_combinations_each_a_label_of_the_grid():
    study = sweep(
        {"training": {"lr": [0.1, 1.0]}, "hyperparameters": {"rho_l": [0.01, 0.1]}}, ["fedsam"]
    )
    assert [*study.trials] == [
        "fedsam~lr-0.1~rho_l-0.01",
        "fedsam~lr-0.1~rho_l-0.1",
        "fedsam~lr-1~rho_l-0.01",
        "fedsam~lr-1~rho_l-0.1",
    ]
    assert [*dict.fromkeys(cell.algorithm for cell in study.cells)] == [*study.trials]
    found = study.settings(study.select(algorithm="fedsam~lr-1~rho_l-0.01")[0])
    assert (found.method, found.training["lr"], found.hyperparameters) == (
        "fedsam",
        1,
        {"rho_l": 0.01},
    )


def test_variants_are_searched_like_numbers():
    study = sweep({"variants": {"sigma_scaling": ["paper", "official_code"]}}, ["fedgloss"])
    found = [
        study.settings(cell).variants["sigma_scaling"] for cell in study.cells if cell.seed == 1
    ]
    assert found == ["paper", "official_code"]


def test_trials_of_one_label_and_of_equal_work_are_packed_evenly():
    space = {"training": {"lr": [0.1, 0.2, 0.3, 0.4, 0.5], "epochs": [1, 2]}}
    study = sweep(space, ["fedavg", "fedsam"], study={"algorithms": {"fedsam": {}}})
    found = packs(study.trials.values(), most=3)
    assert sorted(map(len, found)) == [2] * 4 + [3] * 4
    assert sorted(label for pack in found for label in pack) == sorted(study.trials)
    for pack in found:
        assert len({(label.split("~")[0], label.split("~")[2]) for label in pack}) == 1
    assert len(packs(study.trials.values(), most=5)) == 4, "no more packs than it takes"


@pytest.mark.parametrize("seed", [0, 1])
def test_along_a_range_points_lie_evenly_by_the_logarithm_each_value_once(seed):
    study = sweep({"training": {"lr": LR}}, trials=9, seed=seed)
    found = [point["lr"] for point in values(study)]
    assert found != sorted(found), "in an order of its own"
    logs = sorted(map(log, found))
    steps = [b - a for a, b in pairwise(logs)]
    assert (min(found), max(found)) == (0.01, 1)
    assert min(steps) > 0.8 * max(steps)
    assert [*study.trials] == [*sweep({"training": {"lr": LR}}, trials=9, seed=seed).trials]


def test_another_seed_pairs_the_values_of_two_axes_otherwise():
    space = {"training": {"lr": LR}, "hyperparameters": {"rho_l": LR}}
    one, two = ({*sweep(space, ["fedsam"], trials=9, seed=seed).trials} for seed in (0, 1))
    assert one != two and len(one) == len(two) == 9


def test_labels_with_an_axis_in_common_try_the_same_values_of_it_in_the_same_order():
    study = sweep(
        [
            {"labels": ["fedavg"], "training": {"lr": LR}},
            {"labels": ["fedsam"], "training": {"lr": LR}, "hyperparameters": {"rho_l": LR}},
        ],
        ["fedavg", "fedsam"],
        trials=5,
    )
    both = [[point["lr"] for point in values(study, label)] for label in ("fedavg", "fedsam")]
    assert both[0] == both[1]


def test_a_narrow_range_keeps_its_values_apart_and_within_its_ends():
    study = sweep({"training": {"lr": {"low": 0.99, "high": 0.995}}}, trials=6)
    assert sorted(point["lr"] for point in values(study)) == [
        0.99,
        0.991,
        0.992,
        0.993,
        0.994,
        0.995,
    ]


def test_a_range_of_integers_has_integers_and_none_twice():
    study = sweep({"training": {"epochs": {"low": 1, "high": 3, "integer": True}}}, trials=5)
    assert sorted(point["epochs"] for point in values(study)) == [1, 2, 3]


def test_a_budget_below_all_combinations_takes_so_many_of_them_in_their_order():
    search = {"training": {"lr": [0.1, 0.2, 0.3], "epochs": [1, 2]}}
    some, every = ([*sweep(search, trials=count).trials] for count in (4, 6))
    assert len(some) == 4 and len(every) == 6
    assert some == [label for label in every if label in some]


def test_every_label_of_the_grid_is_searched():
    space = [{"labels": ["fedavg"], "training": {"lr": [0.1]}}]
    with refused("search.yaml: grid: 'fedsam' is in no space of sweep.search"):
        sweep(space, ["fedavg", "fedsam"])


def one_lr(**axis):
    """A search along the learning rate."""
    return {"training": {"lr": axis or [0.1]}}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (one_lr(**LR), ["search[0]: lr is a range", "sweep.trials: missing"]),
        (one_lr(low=1.0, high=0.1), ["training.lr", "1 is not below high 0.1"]),
        (one_lr(low=0.0, high=1.0, log=True), ["training.lr", "no logarithm"]),
        (one_lr(low=1.5, high=3, integer=True), ["training.lr", "integers"]),
        ({"training": {"epochs": [1.5]}}, ["search[0]", "training.epochs", "integer"]),
        ({"training": {"lr": [-1.0]}}, ["search[0]", "training.lr", "greater than 0"]),
        ({"training": {"lr": 0.1}}, ["training.lr", "must be a list"]),
        ({"training": {"lr": []}}, ["training.lr", "at least 1 entry"]),
        ({"training": {"rounds": [1, 2]}}, ["training.rounds", "unknown key"]),
        ({}, ["search[0]", "searches nothing"]),
        (one_lr() | {"hyperparameters": {"lr": [0.1]}}, ["lr is given in two sections"]),
        ({"hyperparameters": {"a/b": [0.1]}}, ["a/b", "cannot name a folder"]),
        ({"hyperparameters": {"rho": [0.1]}}, ["fedavg~rho-0.1", "rho"]),
        ({"variants": {"sigma": ["x"]}}, ["fedavg~sigma-x", "sigma"]),
        (one_lr() | {"labels": ["fedsam"]}, ["labels", "'fedsam' is not in the grid"]),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_in_one_line(space, words):
    with refused("search.yaml", *words):
        sweep([{"labels": ["fedavg"], **space}])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"held_out": {"share": 1.0}}, ["held_out.share", "less than 1"]),
        ({"choose": "luck"}, ["sweep.choose", "best-mean"]),
        ({"trials": 0}, ["sweep.trials", "at least 1"]),
        ({"halving": {"keep": "0.3", "seeds": [1]}}, ["halving.keep", "1/3"]),
        ({"halving": {"keep": "1/3"}}, ["halving", "rounds or seeds"]),
        ({"halving": {"keep": "1/3", "seeds": [2]}}, ["halving.seeds", "2 of 2"]),
        ({"halving": {"keep": "1/3", "rounds": [6]}}, ["halving.rounds: 6", "trains for 6"]),
        ({"halving": {"keep": "1/3", "rounds": [4, 2]}}, ["halving", "smallest first"]),
    ],
)
def test_and_so_is_a_budget_or_a_rule_that_cannot_be(more, words):
    with refused("search.yaml", *words):
        sweep(one_lr(), **more)


def test_a_rung_before_which_nothing_is_evaluated_is_refused():
    training = {"rounds": 20, "last": 2, "evaluate_every": 8}
    with refused(
        "halving.rounds: 4", "nothing is evaluated", "multiples of training.evaluate_every, 8"
    ):
        sweep(
            {"training": {"lr": [0.1]}},
            halving={"keep": "1/2", "rounds": [4]},
            study={"training": training},
        )


def test_a_label_is_searched_once():
    space = {"labels": ["fedavg"], "training": {"lr": [0.1]}}
    with refused("search[1].labels", "'fedavg' is searched twice"):
        sweep([space, space])


def test_tables_of_test_accuracy_and_sweeps_do_not_go_together():
    with refused("tables.t.kind: methods", "no test images", "allowed: sweep"):
        sweep({"training": {"lr": [0.1]}}, study={"tables": {"t": {"kind": "methods"}}})
    with refused("tables.t.kind: sweep", "nothing is searched"):
        digits(tables={"t": {"kind": "sweep"}})


@pytest.mark.parametrize(
    ("searched", "fixed", "key"),
    [
        ({"rho": [0.05, 0.1]}, {"T_s": 9}, "algorithms.fedgloss.hyperparameters.T_s: 9,"),
        ({"T_s": [3, 7, 9]}, {}, "sweep.search[0].hyperparameters.T_s: 7,"),
    ],
)
def test_a_warm_up_that_never_ends_is_one_warning_with_the_key_of_the_file(searched, fixed, key):
    entry = {"fedgloss": {"hyperparameters": fixed}}
    study = sweep({"hyperparameters": searched}, ["fedgloss"], study={"algorithms": entry})
    (line,) = study.warnings()
    assert line.startswith(f"search.yaml: {key} but digits/smallcnn trains for 6 rounds")


# What is held out


def test_every_client_keeps_its_share_out_and_trains_on_the_rest(tmp_path):
    prepare("digits", tmp_path / "data")
    data = load(tmp_path / "data")
    asked = {"scheme": "dirichlet", "clients": 20, "alpha": "0.5", "seed": 0}
    make_partition(data, tmp_path / "whole.json", **asked)
    make_partition(data, tmp_path / "cut.json", held_out=HeldOut(0.25, 3), **asked)
    make_partition(data, tmp_path / "other.json", held_out=HeldOut(0.25, 4), **asked)
    whole, cut, other = (
        load_partition(tmp_path / f"{name}.json", data) for name in ("whole", "cut", "other")
    )
    out = {*cut.held_out.tolist()}
    for before, after in zip(whole.clients, cut.clients, strict=True):
        kept, had = {*after.tolist()}, {*before.tolist()}
        assert kept <= had and had - kept == had & out
        assert len(had - kept) == round(0.25 * len(had))
    assert whole.held_out is None and "held_out" not in whole.manifest
    assert out != {*other.held_out.tolist()}


def test_each_client_draws_by_itself_and_a_recorded_draw_stays_what_it_is():
    kept, out = HeldOut(0.3, 3).split([np.arange(5), np.arange(5, 10), np.arange(10, 20)])
    # 1.5 images is 2; two clients of one size keep other places.
    assert [part.tolist() for part in kept[:2]] == [[0, 2, 3], [5, 8, 9]]
    assert out.tolist() == [1, 4, 6, 7, 11, 14, 17]


def test_a_client_with_one_image_trains_on_it():
    kept, out = HeldOut(0.9).split([np.array([4]), np.array([0, 1, 2])])
    assert kept[0].tolist() == [4] and len(kept[1]) == 1 and len(out) == 2
    with refused("held_out", "no image of any client"):
        HeldOut(0.9).split([np.array([4])])


def test_no_trial_sees_a_test_image(tmp_path):
    """Its numbers are the same, to the bit, where the data's test part is nothing but wrong.

    A label of -1 is refused where it is looked at: an ordinary cell does.
    """
    study = sweep({"training": {"lr": [0.2]}}, study={"seeds": [1]})
    prepare_for(study, tmp_path)
    train(study, tmp_path)
    run = Layout(tmp_path).run(study.name, study.cells[0])
    before = contents(run)

    folder = Layout(tmp_path).data("digits")
    tensors = {
        name: tensor.clone() for name, tensor in load_tensors(folder / "data.safetensors").items()
    }
    tensors["test_labels"] = torch.full_like(tensors["test_labels"], -1)
    tensors["test_images"] = 255 - tensors["test_images"]
    save_tensors(folder / "data.safetensors", tensors)
    manifest = folder / "manifest.json"
    later = (folder / "data.safetensors").stat().st_mtime_ns + 10**9
    os.utime(manifest, ns=(later, later))  # else the file would be hashed, and be found changed

    for file in run.iterdir():
        file.unlink()
    train(study, tmp_path)
    assert contents(run) == before
    assert len(load(folder, verify=True, test=False).test_labels) == 0

    ordinary = digits(training={"rounds": 2, "last": 1}, alphas=["0.5"])
    cut = Layout(tmp_path).partition("digits", "0.5")
    with pytest.raises(InputError, match="test_labels: not all from 0 to 9"):
        make_partition(load(folder), cut, **ordinary.partition("digits", "0.5"))


def test_a_trial_is_tested_on_what_its_clients_hold_out_or_not_at_all(tmp_path):
    study = sweep({"training": {"lr": [0.2]}}, study={"seeds": [1]})
    prepare_for(study, tmp_path)
    plain = digits(training={"rounds": 2, "last": 1}, alphas=["0.5"])
    prepare_for(plain, tmp_path)
    settings = study.settings(study.cells[0]).to_json()
    with refused("held_out: is not as settings.partition has it"):
        train_cell(
            settings,
            Layout(tmp_path).data("digits"),
            Layout(tmp_path).partition("digits", "0.5"),
            tmp_path / "out",
            code="",
        )


# Who wins


def standings_of(study, worth, results):
    """How trials stand whose runs are worth this: a function of the label's values and the seed."""
    standings = Standings(study, results)
    by_label = dict(zip(study.trials, values(study), strict=True))

    def known(cell, rounds):
        found = worth(by_label[cell.algorithm], cell.seed, rounds)
        return found if found is None or isinstance(found, Worth) else Worth(found, False)

    standings.worth = known
    return standings


LRS = {"training": {"lr": [0.1, 0.2, 0.3]}}


def label_chosen(standings):
    best = standings.chosen("fedavg")
    return best and best.trial.label


def test_the_best_mean_over_seeds_wins_and_a_run_that_diverges_counts_as_none_right(tmp_path):
    def worth(point, seed, rounds):
        if point["lr"] == 0.3 and seed == 2:
            return Worth(0.0, True)
        return {0.1: 40.0, 0.2: 45.0, 0.3: 85.0}[point["lr"]]

    standings = standings_of(sweep(LRS), worth, tmp_path)
    assert label_chosen(standings) == "fedavg~lr-0.2"
    means = {s.trial.label: (s.mean, s.diverged) for s in standings.of("fedavg")}
    assert means["fedavg~lr-0.3"] == (42.5, 1)


def test_between_equals_the_smaller_value_wins(tmp_path):
    study = sweep({"training": {"lr": [0.3, 0.1, 0.2]}})
    assert label_chosen(standings_of(study, lambda *asked: 50.0, tmp_path)) == "fedavg~lr-0.1"


def test_nothing_is_chosen_while_a_run_is_missing_and_its_cell_is_named(tmp_path):
    def worth(point, seed, rounds):
        return None if (point["lr"], seed) == (0.2, 2) else 50.0

    standings = standings_of(sweep(LRS), worth, tmp_path)
    assert label_chosen(standings) is None
    with refused("nothing is chosen yet", "fedavg~lr-0.2/seed-2 is missing"):
        to_yaml(standings)


def test_the_interval_is_students_over_the_seeds(tmp_path):
    standings = standings_of(sweep(LRS), lambda point, seed, rounds: 40.0 + 2 * seed, tmp_path)
    low, high = standings.of("fedavg")[0].interval
    assert (low + high) / 2 == 43
    assert (high - low) / 2 == pytest.approx(12.706 * 2**0.5 / 2**0.5, rel=1e-3)


def test_an_optimum_at_an_end_of_what_was_tried_is_flagged(tmp_path):
    study = sweep(LRS)
    for best, ends in ((0.1, ("lr",)), (0.2, ()), (0.3, ("lr",))):
        standings = standings_of(study, lambda p, s, r, best=best: -abs(p["lr"] - best), tmp_path)
        assert standings.chosen("fedavg").trial.ends == ends
    assert [trial.ends for trial in sweep(one_lr()).trials.values()] == [()]


FOUR = {"training": {"lr": [0.1, 0.2, 0.3, 0.4]}}


def test_after_a_rung_the_best_part_rounded_up_goes_on_and_the_others_stay_as_they_were(tmp_path):
    study = sweep(FOUR, halving={"keep": "1/3", "rounds": [2, 4]})
    asked = []

    def worth(point, seed, rounds):
        asked.append((point["lr"], rounds))
        return 100 * point["lr"] + (rounds or 6)

    standings = standings_of(study, worth, tmp_path)
    assert [(s.trial.label, s.rung) for s in standings.of("fedavg")] == [
        ("fedavg~lr-0.4", 2),
        ("fedavg~lr-0.3", 1),
        ("fedavg~lr-0.2", 0),
        ("fedavg~lr-0.1", 0),
    ]
    assert {lr for lr, rounds in asked if rounds == 4} == {0.3, 0.4}
    assert {lr for lr, rounds in asked if rounds is None} == {0.4}
    left = [trial.label for trial in standings.left("fedavg", 1)]
    assert left == ["fedavg~lr-0.3", "fedavg~lr-0.4"]  # as the study has them
    dropped = {cell.algorithm for cell in study.cells if standings.is_dropped(cell)}
    assert dropped == {"fedavg~lr-0.1", "fedavg~lr-0.2", "fedavg~lr-0.3"}


def test_with_rungs_of_seeds_the_first_seeds_decide_who_gets_the_others(tmp_path):
    study = sweep(FOUR, halving={"keep": "1/2", "seeds": [1]}, study={"seeds": [1, 2, 3]})
    standings = standings_of(study, lambda point, seed, rounds: 100 * point["lr"], tmp_path)
    seeds = {s.trial.label: [*s.values] for s in standings.of("fedavg")}
    assert seeds["fedavg~lr-0.4"] == seeds["fedavg~lr-0.3"] == [1, 2, 3]
    assert seeds["fedavg~lr-0.2"] == seeds["fedavg~lr-0.1"] == [1]


@pytest.mark.parametrize(
    ("halving", "ends"),
    [
        ({"rounds": [2, 4]}, {"0.4": None, "0.3": 4, "0.2": 2, "0.1": 2}),
        ({"rounds": [2]}, {"0.4": None, "0.3": None, "0.2": 2, "0.1": 2}),
    ],
)
def test_what_a_sweep_still_costs_is_foreseen_whoever_goes_on(halving, ends, tmp_path):
    study = sweep(FOUR, halving={"keep": "1/2", **halving})

    def rounds_of(standings):
        found = standings.foreseen()
        return {cell.algorithm.partition("lr-")[2]: end for cell, end in found.items()}

    begun = standings_of(study, lambda point, seed, rounds: None, tmp_path)
    assert sorted(map(str, rounds_of(begun).values())) == sorted(map(str, ends.values()))
    ended = standings_of(study, lambda point, seed, rounds: 100 * point["lr"], tmp_path)
    assert rounds_of(ended) == ends


def test_the_estimate_counts_a_dropped_trial_up_to_its_rung_and_no_seed_it_does_not_get(tmp_path):
    def jobs(**halving):
        more = {"halving": {"keep": "1/4", **halving}} if halving else {}
        study = sweep(FOUR, study={"seeds": [1, 2, 3]}, **more)
        return [*remaining(study, tmp_path)]

    def seconds(jobs):
        return sum(job.need.seconds for job in jobs)

    every = jobs()
    assert len(every) == 12
    assert len(jobs(seeds=[1])) == 4 + 2
    assert len(jobs(rounds=[2])) == 12
    assert seconds(jobs(rounds=[2])) == pytest.approx(seconds(every) * (1 + 3 * 2 / 6) / 4)


def test_who_goes_on_is_not_said_before_all_runs_of_a_rung_are_there(tmp_path):
    study = sweep(FOUR, halving={"keep": "1/2", "seeds": [1]})

    def worth(point, seed, rounds):
        return None if point["lr"] == 0.1 else 50.0

    standings = standings_of(study, worth, tmp_path)
    with refused("which trials of fedavg go on", "fedavg~lr-0.1/seed-1 is missing"):
        standings.left("fedavg", 1)


def test_nor_before_those_of_every_column_are(tmp_path):
    columns = {"grid": [{**sweeps.BLOCK, "alphas": ["0.5", "0"], "algorithms": ["fedavg"]}]}
    study = sweep(FOUR, halving={"keep": "1/2", "seeds": [1]}, study=columns)
    standings = standings_of(study, lambda point, seed, rounds: 100 * point["lr"], tmp_path)
    of_both = standings.worth
    missing = next(c for c in study.cells if c.algorithm == "fedavg~lr-0.1" and c.alpha == "0")
    standings.worth = lambda cell, rounds: None if cell == missing else of_both(cell, rounds)
    assert [s.trial.label for s in standings.of("fedavg") if s.mean is None] == ["fedavg~lr-0.1"]
    with refused("which trials of fedavg go on", f"{missing} is missing"):
        standings.left("fedavg", 1)


# With real runs


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A search over a method whose best value is known, run to its end, and its results."""
    study = sweep(
        {"hyperparameters": {"x": [0.1, 0.2, 0.3, 0.4, 0.5]}},
        ["best-at-0.3"],
        study={
            "algorithms": {"best-at-0.3": {"method": "peaked:peaked", "training": {"lr": 0.03}}},
            "training": {"rounds": 12, "clients_per_round": 20, "last": 2, "evaluate_every": 6},
        },
    )
    results = tmp_path_factory.mktemp("results")
    prepare_for(study, results)
    train(study, results)
    return study, results


def test_a_search_finds_the_optimum_that_is_known(found):
    study, results = found
    standings = Standings(study, results)
    best = standings.chosen("best-at-0.3")
    assert best.trial.label == "best-at-0.3~x-0.3"
    order = [one.trial.point["hyperparameters", "x"] for one in standings.of("best-at-0.3")]
    assert {*order[1:3]} == {0.2, 0.4} and {*order[3:]} == {0.1, 0.5}


def test_its_table_and_figure_show_every_trial_and_what_was_chosen(found, tmp_path):
    study, results = found
    table = tables.build(study, "trials", results)
    assert len(table.lines) == 5 and table.lines[0][1] == "0.3" and table.lines[0][-1] == "chosen"
    assert [record["state"] for record in table.records] == ["chosen", "", "", "", ""]
    notes = " ".join(table.notes)
    assert "20 % of every client's training images" in notes and "No trial reads a test" in notes
    figures.draw(study, "response", results, tmp_path / "response")
    assert (tmp_path / "response.png").read_bytes().startswith(b"\x89PNG")


def test_parallel_coordinates_of_a_part_have_the_ends_of_all_that_is_tried(tmp_path):
    axes = {"training": {"lr": [0.1, 0.2, 0.3, 0.4], "epochs": [1, 2], "batch_size": [8, 16]}}
    study = sweep(axes, study={"seeds": [1]})
    known = [s for s in standings_of(study, lambda *asked: 50.0, tmp_path).of("fedavg")]
    trials = [one.trial for one in known]
    some = [one for one in known if one.trial.point["training", "lr"] in (0.2, 0.3)]
    panel = Figure().subplots()
    sweep_figure._parallel(panel, some, trials, ["#000000"] * len(some))
    assert {"0.1", "0.4"} < {text.get_text() for text in panel.texts}
    assert {round(line.get_ydata()[0], 3) for line in panel.lines[: len(some)]} == {0.333, 0.667}


def test_a_search_that_has_not_begun_is_a_table_and_a_figure_too(tmp_path):
    study = sweep(LRS)
    assert [line[-1] for line in tables.build(study, "trials", tmp_path).lines] == [
        "not all run"
    ] * 3
    figures.draw(study, "response", tmp_path, tmp_path / "response")


@pytest.mark.parametrize("harm", ["", "{", '{"status": 3}'])
def test_a_damaged_run_is_left_out_and_named_and_nothing_is_decided_without_it(
    harm, found, tmp_path
):
    study, results = found
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    cell = study.cells[3]
    (Layout(tmp_path).run(study.name, cell) / "manifest.json").write_text(harm)
    table = tables.build(study, "trials", tmp_path)
    assert sum(line[-1] == "not all run" for line in table.lines) == 1
    assert (
        f"1 run is outdated and left out, as if not run: {cell}, manifest.json" in table.notes[-1]
    )
    figures.draw(study, "response", tmp_path, tmp_path / "response")
    assert States(study, tmp_path).of(cell) == "outdated"
    with refused(f"{cell} is missing first: its run does not count, manifest.json"):
        to_yaml(Standings(study, tmp_path))


def test_a_damaged_record_of_a_pause_is_named_where_it_would_decide(tmp_path):
    study = sweep(FOUR, halving={"keep": "1/2", "rounds": [4]}, study={"seeds": [1]})
    prepare_for(study, tmp_path)
    files = [Layout(tmp_path).paused(study.name, cell, 4) for cell in study.cells]
    for cell, file in zip(study.cells, files, strict=True):
        train(study, tmp_path, [cell], until=4, paused=[file])
    assert len(Standings(study, tmp_path).left("fedavg", 1)) == 2
    files[2].write_text("{")
    with refused(f"{study.cells[2]} is missing first: its run does not count"):
        Standings(study, tmp_path).left("fedavg", 1)


# Paused and resumed


def test_a_trial_that_pauses_on_rungs_ends_as_one_that_never_did(tmp_path):
    study = sweep({"training": {"lr": [0.2]}}, study={"seeds": [1]})
    cell = study.cells[0]
    straight, paused = tmp_path / "straight", tmp_path / "paused"
    for results in (straight, paused):
        prepare_for(study, results)
    train(study, straight)
    for rounds in (2, 4):
        file = Layout(paused).paused(study.name, cell, rounds)
        train(study, paused, until=rounds, paused=[file])
        assert not Layout(paused).run(study.name, cell).exists()
        assert States(study, paused).rounds(cell) == rounds, "it goes on from here"
    train(study, paused)
    runs = [contents(Layout(results).run(study.name, cell)) for results in (straight, paused)]
    assert runs[0] == runs[1]


def test_killed_on_the_way_to_a_rung_it_is_worth_the_same_there(tmp_path):
    study = sweep({"training": {"lr": [0.2]}}, study={"seeds": [1]})
    cell = study.cells[0]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for results in (straight, killed):
        prepare_for(study, results)
    files = [Layout(results).paused(study.name, cell, 4) for results in (straight, killed)]
    train(study, straight, until=4, paused=files[:1])

    def kill(label, rounds, images):
        return lambda t, row: os.kill(os.getpid(), signal.SIGTERM) if t == 2 else None

    with pytest.raises(Interrupted):
        train(study, killed, until=4, paused=files[1:], watch=kill)
    assert not files[1].exists()
    train(study, killed, until=4, paused=files[1:])
    assert files[0].read_bytes() == files[1].read_bytes()
    record = read_json(files[0])
    assert record["status"] == "completed" and record["accuracy"] > 0


def test_a_run_that_never_paused_is_worth_on_a_rung_what_one_is_that_did(tmp_path):
    """As one that was imported."""
    study = sweep(FOUR, halving={"keep": "1/2", "rounds": [4]}, study={"seeds": [1]})
    prepare_for(study, tmp_path)
    cell, file = study.cells[1], Layout(tmp_path).paused(study.name, study.cells[1], 4)
    train(study, tmp_path, [cell], until=4, paused=[file])
    paused = Standings(study, tmp_path).worth(cell, 4)
    train(study, tmp_path, [cell])
    file.unlink()
    assert Standings(study, tmp_path).worth(cell, 4) == paused


def test_one_that_never_paused_and_diverged_before_a_rung_is_worth_nothing_there(tmp_path):
    """Its rows before that do not count for it."""
    study = sweep(
        {"training": {"lr": [4.0, 0.1]}},
        halving={"keep": "1/2", "rounds": [4]},
        study={"seeds": [1], "training": {"rounds": 6, "last": 4, "evaluate_every": 1}},
    )
    prepare_for(study, tmp_path)
    cell, file = study.cells[0], Layout(tmp_path).paused(study.name, study.cells[0], 4)
    train(study, tmp_path, [cell], until=4, paused=[file])
    train(study, tmp_path, [cell])
    manifest = read_json(Layout(tmp_path).run(study.name, cell) / "manifest.json")
    assert manifest["diverged_in"] <= 4
    assert len((Layout(tmp_path).metrics(study.name, cell)).read_text().splitlines()) > 1
    assert Standings(study, tmp_path).worth(cell, 4) == Worth(0.0, True)
    file.unlink()
    for rung in (4, manifest["diverged_in"]):  # on a rung, or just there
        assert Standings(study, tmp_path).worth(cell, rung) == Worth(0.0, True)


# What was chosen


@pytest.fixture
def chosen(found, tmp_path, monkeypatch):
    """The file of the search above, in the working folder."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "chosen.yaml"
    file.write_text(to_yaml(Standings(*found)), encoding="utf-8")
    return file


def including(own=None, label="best-at-0.3"):
    entry = {"method": "peaked:peaked"} if own is None else own
    return check_study(
        {
            "study": "s",
            "seeds": [0],
            "training": {"rounds": 6, "last": 2},
            "chosen": "chosen.yaml",
            "algorithms": {label: entry},
            "grid": [{**sweeps.BLOCK, "algorithms": [label]}],
        },
        "s.yaml",
    )


def test_a_study_takes_what_was_chosen(chosen):
    study = including()
    found = study.settings(study.cells[0])
    assert found.hyperparameters == {"x": 0.3} and found.training["lr"] == 0.03
    assert "held_out" not in found.partition, "the study itself holds nothing out"


@pytest.mark.parametrize("entry", [{}, {"best-at-0.3": {"name": "Mine"}}])
def test_a_method_of_ones_own_comes_with_its_settings(chosen, entry):
    study = check_study({**including().config, "algorithms": entry}, "s.yaml")
    found = study.settings(study.cells[0])
    assert (found.method, found.hyperparameters) == ("peaked:peaked", {"x": 0.3})


def test_seeds_that_chose_the_settings_are_warned_of(chosen):
    study = including()
    assert [*study.warnings()] == []
    again = check_study({**study.config, "seeds": [0, 2, 1]}, "s.yaml")
    (line,) = again.warnings()
    assert line.startswith("s.yaml: seeds: with 1, 2 the settings in chosen.yaml were chosen")


def test_a_study_that_takes_it_trains_as_the_trial_did_whatever_gave_its_settings(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    searched = load_study(Path(__file__).parents[2] / "config" / "sweep.yaml")
    standings = Standings(searched, tmp_path)
    standings.worth = lambda cell, rounds: Worth(50.0, False)
    Path("chosen.yaml").write_text(to_yaml(standings), encoding="utf-8")
    study = check_study(
        {
            "study": "s",
            "seeds": [0],
            "training": {"rounds": 40, "last": 10, "evaluate_every": 5},
            "chosen": "chosen.yaml",
            "grid": searched.config["grid"],
        },
        "s.yaml",
    )
    for base in standings.bases:
        trial = standings.chosen(base).trial
        theirs = searched.settings(searched.select(algorithm=trial.label)[0])
        ours = study.settings(study.select(algorithm=base)[0])
        assert ours.variants == theirs.variants
        assert ours.hyperparameters == theirs.hyperparameters
        assert ours.training == theirs.training
    own = {"fedgloss": {"hyperparameters": {"beta": 5}}}
    with refused("fedgloss: hyperparameters.beta is 10.0 there, and 5.0 in algorithms.fedgloss"):
        check_study({**study.config, "algorithms": own}, "s.yaml")


def test_the_file_says_why(chosen, found):
    content = yaml.safe_load(chosen.read_text())
    evidence = content["evidence"]["best-at-0.3"]
    assert (evidence["trials"], evidence["seeds"], evidence["rounds"]) == (5, [1, 2], 12)
    assert evidence["interval"][0] < evidence["accuracy"] < evidence["interval"][1]
    assert content["held_out"] == {"share": 0.2, "seed": 0} and len(content["fingerprint"]) == 64


def test_a_power_of_ten_is_a_number_in_the_file():
    for value in (1e-5, 2.5e-7, 1e22, 0.1, 3, "no", "a-b", "x y", None, [1e-9], {"on": 0.5}):
        assert yaml.safe_load(as_yaml(value)) == value


def test_a_file_that_is_missing_or_was_edited_is_refused(chosen):
    text = chosen.read_text()
    chosen.write_text(text.replace('{"x": 0.3}', '{"x": 0.4}'))
    with refused("s.yaml: chosen: chosen.yaml: was edited"):
        including()
    chosen.write_text(text.replace("rule:", "rules:"))
    with refused("s.yaml: chosen: chosen.yaml", "rules"):
        including()
    chosen.unlink()
    with refused("s.yaml: chosen: chosen.yaml: cannot be read"):
        including()


def test_a_file_about_another_method_or_none_of_the_grid_is_refused(chosen):
    with refused("chosen.yaml: best-at-0.3 is peaked:peaked there, and fedavg here"):
        including({"method": "fedavg"})
    with refused("chosen.yaml: is about best-at-0.3, none of which is in the grid"):
        including({"method": "fedavg"}, label="other")


def test_what_a_study_gives_otherwise_itself_is_refused(chosen):
    with refused("best-at-0.3: hyperparameters.x is 0.3 there, and 0.5 in algorithms.best-at-0.3"):
        including({"method": "peaked:peaked", "hyperparameters": {"x": 0.5}})


def test_a_study_may_give_what_was_chosen_by_its_other_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    searched = sweep({"hyperparameters": {"beta": [8.0]}}, labels=["feddyn"])
    standings = Standings(searched, tmp_path)
    standings.worth = lambda cell, rounds: Worth(50.0, False)
    Path("chosen.yaml").write_text(to_yaml(standings), encoding="utf-8")

    def alpha(**own):
        study = including({"hyperparameters": own}, "feddyn")
        return study.settings(study.cells[0]).hyperparameters["alpha"]

    assert alpha() == alpha(alpha=0.125) == alpha(beta=8) == 0.125
    with refused("both alpha and beta for feddyn; give one of the two"):
        alpha(beta=4)


# By command


def test_commands_refuse_what_there_is_not(tmp_path, refuse):
    study = tmp_path / "search.yaml"
    study.write_text(json.dumps(sweep(LRS).config))
    refuse("choose", study, words=["nothing is chosen yet"])
    refuse("promote", study, "fedavg", 1, words=["rung 1"])
    refuse("promote", study, "fedagv", 1, words=["fedagv", "fedavg"])
    study.write_text(json.dumps(digits().config))
    refuse("choose", study, words=["sweep: missing"])
    refuse("train", "job.json", "--until", 3, words=["--paused", "one file for each job"])
    refuse(
        "partition", "--data", "d", "--out", "o", "--scheme", "iid", "--held-out", 1, words=["1"]
    )
