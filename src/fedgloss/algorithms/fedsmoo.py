"""FedSMOO: ADMM on the model and on the perturbation, at twice the communication.

Sun et al. 2023, "Dynamic regularized sharpness aware minimization in federated learning".
"""

from typing import Literal

from fedgloss.algorithms.averaging import Average
from fedgloss.algorithms.core import Algorithm, Named, mean, named, total, unit, weights


@named(
    original={"perturbation": "original"},
    weighted={"average": "weighted"},
    fl_simulator={"perturbation": "fl_simulator"},
)
def fedsmoo(
    *,
    perturbation: Literal["original", "fl_simulator"] = "original",
    average: Average = "unweighted",
) -> Algorithm:
    """`perturbation`: clients send mu_k - shat_k of their last step (`original`) or mu_k alone
    (`fl_simulator`, a simplification its authors state in a comment)."""

    def broadcast(w, s, h):
        return Named(w=w, s=s.s)

    def direction(grad, W, down, c, h):
        shat = h.rho * unit(grad(W) - c.mu - down.s)
        c = c.replace(mu=c.mu + shat - down.s, shat=shat)
        return grad(W + shat) - c.lam + (W - down.w) / h.beta, c

    def finish(W, down, c, h):
        stilde = c.mu - c.shat if perturbation == "original" else c.mu
        return c.replace(lam=c.lam - (W - down.w) / h.beta), Named(w=W, s=stilde)

    def aggregate(w, down, up, s, h):
        dual = s.h - total(up.w - down.w) / (h.beta * h.m)
        perturbed = h.rho * unit(total(up.s) / h.n)
        return mean(up.w, weights(average, h)) - h.beta * dual, s.replace(h=dual, s=perturbed)

    return Algorithm(
        "fedsmoo",
        direction,
        aggregate,
        broadcast,
        finish,
        global_state=("h", "s"),
        client_state=("lam", "mu"),
        local_state=("shat",),
        hyperparameters={"rho": None, "beta": None},
        reciprocals={"beta": "alpha"},
        gradients=2,
    )
