"""A client by itself answers what it answers in a cohort: a federation can be taken apart."""

from dataclasses import replace

import pytest
import torch

from fedgloss.algorithms import METHODS, build_algorithm
from fedgloss.algorithms.core import Named
from fedgloss.engine.assembly import build_gradients
from fedgloss.engine.client import Call, alone, answer
from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.federation import Simulation, federation
from fedgloss.engine.flat import flatten
from fedgloss.engine.local import train_together
from fedgloss.models import build_model

SIZES = (9, 4, 14, 6)
ROUNDS, PARTICIPANTS = 3, 3
NUMBERS = {"mu": 0.1, "alpha": 0.1, "beta": 10.0, "rho": 0.05, "rho_l": 0.05, "lambda": 10.0}
NUMBERS |= {"T_s": 2, "rho0": 0.01}
WORK = {
    "batching": Batching(4, epochs=2),
    "pipeline": Pipeline((0.5,), (0.25,), "image_aug", padding=1),
}
CASES = [(name, "recommended") for name in METHODS if not build_algorithm(name).pooled]
CASES += [("naivefedgloss", "dual_in_step1"), ("scaffold", "option1")]
CASES += [("feddyn", "acar_adaptive_alpha")]


def simulation(method, variants):
    """Four unequal clients with grey images, who train a small network in float64."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (sum(SIZES), 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(3, (sum(SIZES),), generator=generator)
    algorithm = build_algorithm(method, variants)
    model = build_model("smallcnn", (1, 8, 8), 3).double()
    one = federation(
        algorithm,
        {name: NUMBERS.get(name, value) for name, value in algorithm.hyperparameters.items()},
        flatten(model),
        ClientData(images, labels, torch.arange(len(images)).split(SIZES)),
        lr=0.05,
        weight_decay=0.01,
        clip=2.0,
        participants=PARTICIPANTS,
        seed=7,
    )
    gradients = build_gradients("autograd", model, torch.nn.functional.cross_entropy)
    return Simulation([one], gradients, **WORK)


def by_itself(simulation, exchange, purpose, i):
    """What participant i of an exchange answers, on a machine that has its own samples alone."""
    [one], k, h = simulation.federations, exchange.cohort.ids[0][i], exchange.h
    own = one.data.indices[k]
    data = ClientData(one.data.inputs[own], one.data.targets[own], (torch.arange(len(own)),))
    return answer(
        replace(one, data=alone(data, k, len(SIZES)), sizes=one.sizes[:0]),
        k,
        exchange.down,
        Named(**{name: value[:, i : i + 1] for name, value in exchange.c.items()}),
        Call(simulation.t, purpose, h.n, float(h.p[0, i]), float(h.share[0, i])),
        gradients=simulation.gradients,
        **WORK,
    )


def assert_same(own, cohort, i):
    assert {*own} == {*cohort}
    for name in own:
        torch.testing.assert_close(own[name], cohort[name][:, i : i + 1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("method", "variants"), CASES)
def test_a_client_by_itself_answers_as_in_its_cohort(method, variants):
    whole = simulation(method, variants)
    for _ in range(ROUNDS):
        playing = whole.play(whole.draw())
        exchange = next(playing)
        purposes = ["probe", "batches"] if whole.algorithm.probe else ["batches"]
        for purpose in purposes:
            [(W, c)] = train_together([exchange], whole.gradients)
            state, up = exchange.finish(W, c)
            for i in range(PARTICIPANTS):
                own_state, own_up, gradients = by_itself(whole, exchange, purpose, i)
                assert_same(own_up, up, i)
                assert gradients == exchange.evaluations
                kept = {name: own_state[name] for name in whole.algorithm.client_state}
                assert_same(kept, {name: state[name] for name in kept}, i)
            try:
                exchange = playing.send((W, c))
            except StopIteration:
                assert purpose == "batches"
        whole.t += 1


def test_a_client_meets_the_numbers_of_its_own_federation():
    one = simulation("fedavg", "recommended")
    [first] = one.federations
    second = replace(first, lr=0.5, weight_decay=0.1)
    h = Simulation([first, second], one.gradients, **WORK).draw().h
    assert h.lr.shape == h.wd.shape == (2, 1, 1)
    assert h.lr.flatten().tolist() == [first.lr, second.lr]
    assert h.wd.flatten().tolist() == [first.weight_decay, second.weight_decay]
    alone = one.draw().h
    assert (alone.lr.item(), alone.wd.item()) == (first.lr, first.weight_decay)
