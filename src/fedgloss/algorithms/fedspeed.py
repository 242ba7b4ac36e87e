"""FedSpeed: a prox-correction term and a mix of the gradient with its perturbed twin.

Sun et al. 2023. `lambda` multiplies nothing directly: the client's pull is (v - w) / lambda, and
the FL-Simulator code's `lamb` is 1 / lambda.
"""

from typing import Literal

from fedgloss.algorithms.averaging import Average
from fedgloss.algorithms.core import Algorithm, Named, mean, named, total, unit, weights


@named(
    original={"server": "original"},
    weighted={"server": "original", "average": "weighted"},
    fl_simulator={"server": "fl_simulator"},
    original_rho_not_normalised={"server": "original", "perturbation": "not_normalised"},
)
def fedspeed(
    *,
    server: Literal["original", "fl_simulator"] = "original",
    average: Average = "unweighted",
    perturbation: Literal["normalised", "not_normalised"] = "normalised",
) -> Algorithm:
    """`server`: average the amended models w_k - lambda ghat_k of the participants (`original`), or
    add the mean over all m clients of -lambda ghat_k to the participants' mean model
    (`fl_simulator`, the authors' released code, which is FedDyn + SAM with alpha = 1 / lambda).
    `perturbation`: of length rho, or rho times the raw gradient as the paper's text has it.
    """
    amended = server == "original"

    def direction(grad, W, down, c, h):
        g1 = grad(W)
        g2 = grad(W + h.rho * (unit(g1) if perturbation == "normalised" else g1))
        return (1 - h.a) * g1 + h.a * g2 - c.ghat + (W - down.w) / h["lambda"], c

    def finish(W, down, c, h):
        ghat = c.ghat - (W - down.w) / h["lambda"]
        return c.replace(ghat=ghat), Named(w=W - h["lambda"] * ghat if amended else W)

    def aggregate(w, down, up, s, h):
        if amended:
            return mean(up.w, weights(average, h)), s
        # The server keeps -lambda * (mean of ghat_k over all clients) from the models it receives.
        correction = s.correction + total(up.w - down.w) / h.m
        return mean(up.w, weights(average, h)) + correction, s.replace(correction=correction)

    return Algorithm(
        "fedspeed",
        direction,
        aggregate,
        finish=finish,
        global_state=() if amended else ("correction",),
        client_state=("ghat",),
        hyperparameters={"rho": None, "lambda": None, "a": 1.0},
        gradients=2,
    )
