"""SCAFFOLD and FedGamma: control variates c - c_k correct the clients' drift.

SCAFFOLD: Karimireddy et al. 2020. FedGamma: Dai et al. 2023, SCAFFOLD with SAM gradients.
"""

from typing import Literal

from fedgloss.algorithms.averaging import Average
from fedgloss.algorithms.core import Algorithm, Named, mean, named, sam, total, weights


@named(
    weighted={"average": "weighted"},
    original={"average": "unweighted"},
    option1={"average": "unweighted", "control": "option1"},
)
def scaffold(
    *, average: Average = "weighted", control: Literal["option2", "option1"] = "option2"
) -> Algorithm:
    """Client SGD. `control`: how a client renews c_k, from its own displacement (option II) or with
    a full-batch gradient at the model it received (option I)."""
    return controlled("scaffold", lambda grad, W, h: grad(W), average, control=control)


@named(
    weighted={"average": "weighted"},
    original={"average": "unweighted"},
    fedgf_code={"average": "unweighted", "control_scaling": "fedgf_code"},
)
def fedgamma(
    *, average: Average = "weighted", control_scaling: Literal["paper", "fedgf_code"] = "paper"
) -> Algorithm:
    """Client SAM; the perturbation follows the raw local gradient, not the corrected one.

    `control_scaling`: the server adds sum_S (c_k^new - c_k^old) / m (`paper`), or divides that once
    more by n (`fedgf_code`, as FedGF's released code does).
    """
    return controlled(
        "fedgamma",
        lambda grad, W, h: sam(grad, W, h.rho_l),
        average,
        divided=control_scaling == "fedgf_code",
        hyperparameters={"rho_l": None},
        gradients=2,
    )


def controlled(
    name, gradient, average, control="option2", divided=False, hyperparameters={}, gradients=1
) -> Algorithm:
    """SCAFFOLD's client and server around a local gradient."""

    def broadcast(w, s, h):
        return Named(w=w, c=s.c)

    def direction(grad, W, down, c, h):
        return gradient(grad, W, h) + down.c - c.c_k, c

    def finish(W, down, c, h):
        if control == "option1":
            c_k = h.full_gradient(down.w)
        else:  # with the number K of steps really taken, unequal clients included
            c_k = c.c_k - down.c + (down.w - W) / (h.steps * h.lr)
        return c.replace(c_k=c_k), Named(w=W, c=c_k - c.c_k)

    def aggregate(w, down, up, s, h):
        scale = h.m * h.n if divided else h.m
        return (
            w + h.eta_s * mean(up.w - w, weights(average, h)),
            s.replace(c=s.c + total(up.c) / scale),
        )

    return Algorithm(
        name,
        direction,
        aggregate,
        broadcast,
        finish,
        global_state=("c",),
        client_state=("c_k",),
        hyperparameters={"eta_s": 1.0, **hyperparameters},
        gradients=gradients,
    )
