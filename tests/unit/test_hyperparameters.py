"""Hyperparameters by name: which other names there are, and which numbers are allowed."""

from dataclasses import replace

import pytest

from fedgloss.algorithms import build_algorithm, resolve_hyperparameters
from fedgloss.algorithms.core import Algorithm
from fedgloss.algorithms.declared import check_declared, is_built_in
from refusal import refused


def own(reciprocals={}, **hyperparameters):
    return Algorithm(
        "mine",
        lambda grad, W, down, c, h: (grad(W), c),
        lambda w, down, up, s, h: (w, s),
        hyperparameters=hyperparameters,
        reciprocals=reciprocals,
    )


@pytest.mark.parametrize(
    ("method", "given", "name", "value"),
    [
        ("feddyn", {"beta": 4}, "alpha", 0.25),
        ("fedgloss", {"alpha": 0.5, "rho": 0.1, "rho_l": 0.1}, "beta", 2.0),
        ("fedsmoo", {"alpha": 0.5, "rho": 0.1}, "beta", 2.0),
    ],
)
def test_alpha_and_beta_are_two_names_where_the_method_says_so(method, given, name, value):
    assert resolve_hyperparameters(build_algorithm(method), given)[name] == value


def test_the_beta_of_ones_own_method_is_nobodys_alpha():
    method = own(lam=None, beta=None)
    with refused("mine has no hyperparameter 'alpha'", "allowed: lam, beta"):
        resolve_hyperparameters(method, {"lam": 0.5, "alpha": 0.01})
    with refused("mine has no hyperparameter 'beta'"):
        resolve_hyperparameters(own(alpha=None), {"beta": 2})


def test_ones_own_method_may_have_such_a_name():
    method = own({"tau": "rate"}, tau=None)
    check_declared("mine", method)
    assert resolve_hyperparameters(method, {"rate": 4}) == {"tau": 0.25}
    with refused("both rate and tau for mine; give one of the two (tau is 1 / rate)"):
        resolve_hyperparameters(method, {"rate": 4, "tau": 0.25})
    with refused("hyperparameters.rate: 0 must be greater than 0"):
        resolve_hyperparameters(method, {"rate": 0})
    with refused("method 'mine': reciprocals: 'rho' is not among the hyperparameters", "tau"):
        check_declared("mine", own({"rho": "rate"}, tau=None))
    with refused("method 'mine': reciprocals", "dict"):
        check_declared("mine", own(("tau", "rate"), tau=None))
    with refused("method 'mine': reciprocals: 'rate' is a hyperparameter itself"):
        check_declared("mine", own({"tau": "rate"}, tau=None, rate=None))


def test_a_variable_of_ones_own_method_may_be_without_a_value():
    def made(damped):
        if damped:
            factor = 0.5

        def direction(grad, W, down, c, h):
            return (factor * grad(W) if damped else grad(W)), c

        return replace(own(tau=None), direction=direction)

    assert not is_built_in(made(damped=False))
    assert resolve_hyperparameters(made(damped=False), {"tau": -1}) == {"tau": -1}


def test_the_limits_of_the_packages_methods_are_not_those_of_ones_own():
    values = {"alpha": -1, "beta": 0, "lambda": -0.5, "eps": 0.0, "shift": -3.0}
    assert resolve_hyperparameters(own(**dict.fromkeys(values)), values) == values
    with refused("hyperparameters.eps: nan is not a finite number"):
        resolve_hyperparameters(own(eps=None), {"eps": float("nan")})
    with refused("hyperparameters.beta: 0 must be greater than 0"):
        resolve_hyperparameters(build_algorithm("feddyn"), {"beta": 0})
    with refused("hyperparameters.mu: -1 must be at least 0"):
        resolve_hyperparameters(build_algorithm("fedprox"), {"mu": -1})
