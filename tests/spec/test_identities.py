"""Identities between the methods, on problems other than the vectors': every one is exact algebra.

Four clients of unequal size, two to three of them a round, weight decay, two parameter tensors.
"""

import pytest
import torch

from fedgloss.algorithms import build_algorithm
from problem import random_problem

SCHEDULE = [[0, 1], [1, 2, 3], [0, 3], [2, 1], [3, 0, 1]]
FULL = [[0, 1, 2, 3]] * 4
RHO, RHO_L, BETA = 0.07, 0.11, 8.0


def history(method, schedule=SCHEDULE, seed=0, m=4, **options):
    options = {"weight_decay": 0.05, **options}
    return random_problem(seed).train(method, m, schedule, **options).history


def assert_same(ours, theirs):
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_fedgloss_without_server_sam_is_feddyn_with_weighted_mean(seed):
    gloss = history(
        "fedgloss-sgd",
        seed=seed,
        hyperparameters={"rho": 0, "beta": BETA},
        variants={"sigma_scaling": "paper"},
    )
    assert_same(gloss, history("feddyn", seed=seed, hyperparameters={"beta": BETA}))


def test_fedgloss_without_server_sam_is_feddyn_sam_with_weighted_mean():
    gloss = history(
        "fedgloss",
        hyperparameters={"rho": 0, "rho_l": RHO_L, "beta": BETA},
        variants={"sigma_scaling": "paper"},
    )
    dyn = history("feddyn-sam", hyperparameters={"alpha": 1 / BETA, "rho_l": RHO_L})
    assert_same(gloss, dyn)


def test_official_sigma_of_feddyn_is_fedgloss_official_code_without_server_sam():
    gloss = history(
        "fedgloss-sgd",
        hyperparameters={"rho": 0, "beta": BETA},
        variants={"sigma_scaling": "official_code"},
    )
    dyn = history("feddyn", hyperparameters={"beta": BETA}, variants="official_sigma")
    assert_same(gloss, dyn)


@pytest.mark.parametrize("variants", ["recommended", "paper", "official"])
def test_naivefedgloss_without_server_sam_is_fedgloss(variants):
    options = {
        "hyperparameters": {"rho": 0, "rho_l": RHO_L, "beta": BETA},
        "variants": variants,
    }
    assert_same(history("naivefedgloss", **options), history("fedgloss", **options))


@pytest.mark.parametrize(("client", "method"), [("sam", "fedgloss"), ("sgd", "fedgloss-sgd")])
def test_by_default_naivefedgloss_warms_up_as_the_fedgloss_it_is_compared_with(client, method):
    """The released schedule is none at all with client SGD: rho would be 1e-4 of itself."""
    hyper = {"rho": RHO, "beta": BETA, "T_s": 2000, "rho0": 0.001, "eta_s": 1.0}
    hyper |= {"rho_l": RHO_L} if client == "sam" else {}
    naive, other = build_algorithm("naivefedgloss", {"client": client}), build_algorithm(method)
    for t in (0, 1, 1000, 2000, 2001):
        now, then = naive.schedule(hyper, t), other.schedule(hyper, t)
        assert all(now[radius] == then[radius] for radius in ("rho", "rho_l") if radius in hyper)


CIFAR100 = {"rho": 0.01, "rho_l": 0.2, "beta": 100, "T_s": 15000, "rho0": 0.001, "eta_s": 1.0}


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        (
            {"rho_schedule": "official_code"},
            {0: (0.001, 0.001), 7500: (0.2000006, 0.1005), 15000: (0.2000006, 0.2)},
        ),
        (
            {"rho_schedule": "paper_ramp"},
            {0: (0.001, 0.001), 7500: (0.0055, 0.1005), 15000: (0.01, 0.2)},
        ),
        (
            {"rho_schedule": "constant", "rho_l_schedule": "constant"},
            {0: (0.01, 0.2), 7500: (0.01, 0.2)},
        ),
    ],
)
@pytest.mark.parametrize("method", ["fedgloss", "naivefedgloss"])
def test_the_radii_of_the_papers_cifar_100_warm_up_as_the_variants_say(method, variants, expected):
    """NaiveFedGloSS perturbs in round 0 already, so that round's radius counts too."""
    schedule = build_algorithm(method, variants).schedule
    for t, radii in {**expected, 15001: (0.01, 0.2)}.items():
        now = schedule(CIFAR100, t)
        assert (now["rho"], now["rho_l"]) == pytest.approx(radii, rel=1e-12)
    for T_s in (0, 1):  # one round counts as none
        now = schedule({**CIFAR100, "T_s": T_s}, 0)
        assert (now["rho"], now["rho_l"]) == (0.01, 0.2)


def test_fedspeed_of_fl_simulator_is_feddyn_sam():
    speed = history(
        "fedspeed",
        hyperparameters={"rho": RHO, "lambda": BETA},
        variants="fl_simulator",
    )
    dyn = history(
        "feddyn-sam", hyperparameters={"rho_l": RHO, "alpha": 1 / BETA}, variants="original"
    )
    assert_same(speed, dyn)


def test_fedspeed_forms_are_equal_at_full_participation():
    options = {"schedule": FULL, "hyperparameters": {"rho": RHO, "lambda": BETA}}
    assert_same(
        history("fedspeed", variants="original", **options),
        history("fedspeed", variants="fl_simulator", **options),
    )


@pytest.mark.parametrize("average", ["weighted", "unweighted"])
def test_fedgamma_without_perturbation_is_scaffold(average):
    gamma = history("fedgamma", hyperparameters={"rho_l": 0}, variants={"average": average})
    assert_same(gamma, history("scaffold", variants={"average": average}))


@pytest.mark.parametrize("previous", ["perturbed", "clean_prev"])
def test_sam_with_the_previous_gradient_without_perturbation_is_sgd(previous):
    sam = history(
        "centralized-sam-previous", hyperparameters={"rho": 0}, variants={"previous": previous}
    )
    assert_same(sam, history("centralized-sgd"))


def test_centralized_sam_without_perturbation_is_sgd():
    assert_same(history("centralized-sam", hyperparameters={"rho": 0}), history("centralized-sgd"))


def test_first_feddyn_round_at_full_participation_is_twice_the_fedprox_step():
    problem = random_problem(0)
    dyn = problem.train(
        "feddyn", 4, FULL[:1], hyperparameters={"beta": BETA}, variants="original"
    ).w
    prox = problem.train(
        "fedprox", 4, FULL[:1], hyperparameters={"mu": 1 / BETA}, variants="unweighted"
    ).w
    assert_same(dyn - problem.w0, 2 * (prox - problem.w0))


def test_official_admm_term_of_round_one_is_the_papers_over_n():
    options = {"hyperparameters": {"rho": RHO, "rho_l": RHO_L, "beta": BETA}}
    problem = random_problem(0)
    sigma = {
        scaling: problem.train(
            "fedgloss", 4, [[1, 2, 3]], variants={"sigma_scaling": scaling}, **options
        ).state["sigma"]
        for scaling in ("paper", "official_code")
    }
    assert_same(sigma["official_code"], sigma["paper"] / 3)


@pytest.mark.parametrize(
    ("method", "hyperparameters", "variants"),
    [
        ("fedgloss", {"rho": RHO, "rho_l": RHO_L, "beta": BETA}, {}),
        ("fedgloss", {"rho": RHO, "rho_l": RHO_L, "beta": BETA}, {"consistency": "none"}),
        ("scaffold", {}, {}),
        ("fedgamma", {"rho_l": RHO_L}, {}),
    ],
)
def test_the_servers_rate_scales_the_step_along_the_pseudo_gradient_alone(
    method, hyperparameters, variants
):
    problem = random_problem(0)
    one, less = (
        problem.train(
            method, 4, [[1, 2, 3]], hyperparameters=hyperparameters | rate, variants=variants
        )
        for rate in ({}, {"eta_s": 0.3})
    )
    N = torch.tensor(problem.N[1:4], dtype=torch.float64)
    pseudo_gradient = problem.w0 - (N[:, None] * one.locals).sum(dim=0) / N.sum()
    assert_same(less.w - one.w, 0.7 * pseudo_gradient)


@pytest.mark.parametrize(
    ("gloss", "plain", "rho_l"), [("fedgloss", "fedsam", RHO_L), ("fedgloss-sgd", "fedavg", None)]
)
def test_fedgloss_without_admm_and_server_sam_is_averaging(gloss, plain, rho_l):
    client = {} if rho_l is None else {"rho_l": rho_l}
    ours = history(
        gloss, hyperparameters={"rho": 0, "beta": BETA, **client}, variants="without_admm"
    )
    assert_same(ours, history(plain, hyperparameters=client))


def test_without_admm_beta_has_no_effect():
    one, other = (
        history(
            "fedgloss",
            hyperparameters={"rho": RHO, "rho_l": RHO_L, "beta": beta},
            variants="without_admm",
        )
        for beta in (BETA, 1e9)
    )
    assert torch.equal(one, other)


def test_what_admm_adds_in_round_one_is_the_clients_pull_and_the_servers_dual_step():
    """beta -> infinity leaves of the clients' part nothing; on the server beta sigma stays."""
    problem = random_problem(0)
    options = {"hyperparameters": {"rho": RHO, "rho_l": RHO_L, "beta": 1e14}}
    ours = problem.train("fedgloss", 4, [[1, 2, 3]], **options)
    without = problem.train("fedgloss", 4, [[1, 2, 3]], variants="without_admm", **options)
    assert_same(without.locals, ours.locals)
    assert torch.allclose(without.w, ours.w + 1e14 * ours.state["sigma"], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(without.w, ours.w)


def test_without_admm_the_clients_are_stateless():
    options = {"hyperparameters": {"rho": RHO, "rho_l": RHO_L, "beta": BETA}}
    state = (
        random_problem(0).train("fedgloss", 4, SCHEDULE, variants="without_admm", **options).state
    )
    assert state.keys() == {"delta"}


@pytest.mark.parametrize(
    ("sam", "sgd"),
    [
        (("fedsam", {"rho_l": 0}), ("fedavg", {})),
        (("feddyn-sam", {"rho_l": 0, "alpha": 0.1}), ("feddyn", {"alpha": 0.1})),
        (
            ("fedgloss", {"rho": RHO, "rho_l": 0, "beta": BETA}),
            ("fedgloss-sgd", {"rho": RHO, "beta": BETA}),
        ),
        (("fedprox", {"mu": 0}), ("fedavg", {})),
    ],
)
def test_methods_at_zero_reduce_to_their_plain_twins(sam, sgd):
    assert_same(history(sam[0], hyperparameters=sam[1]), history(sgd[0], hyperparameters=sgd[1]))


def test_fedopt_with_sgd_at_one_is_fedavg():
    assert_same(history("fedopt"), history("fedavg"))


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adagrad"])
def test_fedopt_steps_as_torch_optim_does(optimiser):
    """The released code hands the pseudo-gradient to torch.optim; its constants, too."""
    problem = random_problem(1)
    w = problem.w0.clone().requires_grad_()
    server = {
        "sgd": lambda: torch.optim.SGD([w], lr=0.3, momentum=0.9),
        "adam": lambda: torch.optim.Adam([w], lr=0.3, betas=(0.9, 0.99), eps=1e-1),
        "adagrad": lambda: torch.optim.Adagrad([w], lr=0.3, eps=1e-2),
    }[optimiser]()
    hyperparameters = {"eta_s": 0.3} | ({"momentum": 0.9} if optimiser == "sgd" else {})
    ours = problem.train(
        "fedopt", 4, SCHEDULE, hyperparameters=hyperparameters, variants={"server": optimiser}
    ).history
    for t, ids in enumerate(SCHEDULE):
        problem.w0 = w.detach().clone()
        averaged = problem.train("fedavg", 4, [ids]).w
        w.grad = w.detach() - averaged
        server.step()
        assert_same(ours[t], w.detach())


@pytest.mark.parametrize("server", ["adam", "adagrad"])
def test_fedopt_of_reddi_steps_as_they_print_it(server):
    """Their algorithm 2: no bias correction, tau beside the root; momentum in Adagrad, too."""
    problem = random_problem(1)
    numbers = {"eta_s": 0.3, "beta1": 0.8, "eps": 0.05}
    numbers |= {"beta2": 0.95} if server == "adam" else {}
    variants = {"server": server, "form": "reddi"}
    ours = problem.train("fedopt", 4, SCHEDULE, hyperparameters=numbers, variants=variants).history
    w, m, v = problem.w0, torch.zeros_like(problem.w0), torch.zeros_like(problem.w0)
    for t, ids in enumerate(SCHEDULE):
        problem.w0 = w
        delta = problem.train("fedavg", 4, [ids]).w - w
        m = 0.8 * m + 0.2 * delta
        v = 0.95 * v + 0.05 * delta**2 if server == "adam" else v + delta**2
        w = w + 0.3 * m / (v.sqrt() + 0.05)
        assert_same(ours[t], w)


def test_one_client_with_all_data_is_centralized_training():
    problem = random_problem(2)
    schedule = [[0]] * 3
    fed = problem.train("fedavg", 1, schedule).history
    assert_same(fed, problem.train("centralized-sgd", 1, schedule).history)


def test_the_perturbation_has_one_norm_over_all_tensors():
    """Splitting the parameters otherwise changes nothing: no norm is taken tensor by tensor."""
    options = {"hyperparameters": {"rho": RHO, "rho_l": RHO_L, "beta": BETA}}
    problem, other = random_problem(0), random_problem(0)
    other.split = 4
    assert_same(
        problem.train("fedgloss", 4, SCHEDULE, **options).history,
        other.train("fedgloss", 4, SCHEDULE, **options).history,
    )


def test_averages_are_weighted_by_the_number_of_samples_unless_asked_otherwise():
    problem = random_problem(0)
    result = problem.train("fedavg", 4, [[0, 1, 2]])
    N = torch.tensor([problem.N[k] for k in (0, 1, 2)], dtype=torch.float64)
    assert len(set(N.tolist())) > 1
    assert_same(result.w, (N[:, None] / N.sum() * result.locals).sum(0))
    plain = problem.train("fedavg", 4, [[0, 1, 2]], variants="unweighted")
    assert_same(plain.w, plain.locals.mean(0))


def test_sizes_replace_the_number_of_samples_in_the_weights():
    problem = random_problem(0)
    result = problem.train("fedavg", 4, [[0, 1]], sizes=[1.5, 0.5, 1, 1])
    assert_same(result.w, 0.75 * result.locals[0] + 0.25 * result.locals[1])


def test_absent_clients_keep_their_state():
    problem = random_problem(0)
    options = {"hyperparameters": {"rho": RHO, "rho_l": RHO_L, "beta": BETA}}
    before = problem.train("fedgloss", 4, [[0, 1], [1, 2]], **options).state["sigma_k"]
    after = problem.train("fedgloss", 4, [[0, 1], [1, 2], [2, 1]], **options).state["sigma_k"]
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert not after[3].any()
