"""What a run really sends and computes, against the paper's Table 2 and cost columns."""

import csv
from pathlib import Path

import pytest

from fedgloss.algorithms import METHODS, build_algorithm, variant_choices
from problem import random_problem

ROOT = Path(__file__).resolve().parents[2]
HYPERPARAMETERS = {
    "mu": 0.1,
    "alpha": 0.1,
    "beta": 10.0,
    "rho": 0.05,
    "rho_l": 0.05,
    "lambda": 10.0,
}
# Our name: (algorithm, client optimiser) as the table prints them.
PRINTED = {
    "fedavg": ("fedavg", "sgd"),
    "fedprox": ("fedprox", "sgd"),
    "feddyn": ("feddyn", "sgd"),
    "scaffold": ("scaffold", "sgd"),
    "fedgloss-sgd": ("fedgloss", "sgd"),
    "fedsam": ("fedsam", "sam"),
    "feddyn-sam": ("feddyn", "sam"),
    "fedspeed": ("fedspeed", "sam"),
    "fedgamma": ("fedgamma", "sam"),
    "fedsmoo": ("fedsmoo", "sam"),
    "fedgloss": ("fedgloss", "sam"),
    "naivefedgloss": ("naivefedgloss", "sam"),
}


def run(method, variants={}):
    algorithm = build_algorithm(method, variants)
    needed = {
        name: value for name, value in HYPERPARAMETERS.items() if name in algorithm.hyperparameters
    }
    schedule = [[0, 1], [1, 2, 3], [0, 3]]
    result = random_problem(0).train(method, 4, schedule, hyperparameters=needed, variants=variants)
    exchanges = sum(map(len, schedule))
    model = result.w.numel() * result.w.element_size()
    return result, result.bytes_down / exchanges / model, result.bytes_up / exchanges / model


def published():
    with open(ROOT / "src/fedgloss/study/constants" / "published.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == "2"]
    return {row["algorithm"]: row for row in rows}


def expected_gradients(printed, optimiser):
    """From the note, e.g. "local gradient evaluations per step: 1 (sgd) or 2 (sam)"."""
    text = published()[printed]["note"].split(": ")[1]
    if text == "2 x fedgloss":
        return 2 * expected_gradients("fedgloss", optimiser)
    if "(sgd)" in text:
        text = text.split(" or ")[0 if optimiser == "sgd" else 1]
    return int(text.split()[0])


@pytest.mark.parametrize("method", PRINTED)
def test_model_sizes_on_the_wire_equal_the_published_cost(method):
    _, down, up = run(method)
    assert (down + up) / 2 == float(published()[PRINTED[method][0]]["mean"])


@pytest.mark.parametrize("method", PRINTED)
def test_gradient_evaluations_equal_the_published_note(method):
    assert run(method)[0].gradients_per_step == expected_gradients(*PRINTED[method])


def each_variant():
    """Every method with every value of each of its variants, the others at their defaults."""
    for method in METHODS:
        yield method, {}
        for name, values in variant_choices(method).items():
            yield from ((method, {name: value}) for value in values)


@pytest.mark.parametrize(("method", "variants"), [*each_variant()])
def test_every_method_costs_the_gradients_it_declares(method, variants):
    counted = run(method, variants)[0].gradients_per_step
    assert counted == build_algorithm(method, variants).gradients


@pytest.mark.parametrize("method", [name for name in METHODS if name not in PRINTED])
def test_what_table_2_does_not_list_sends_a_model_each_way_or_nothing(method):
    _, down, up = run(method)
    assert down == up == (0 if build_algorithm(method).pooled else 1)
