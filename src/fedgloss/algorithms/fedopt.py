"""FedOpt: a server optimiser steps along the pseudo-gradient. Reddi et al. 2021.

With SGD at eta_s = 1 and no momentum it is FedAvg; FedGloSS starts from this view (paper, Eq. 3).
"""

from typing import Literal

from fedgloss.algorithms.averaging import Average
from fedgloss.algorithms.core import Algorithm, mean, named, sam, weights


@named(sgd={"server": "sgd"}, adam={"server": "adam"}, adagrad={"server": "adagrad"})
def fedopt(
    *,
    server: Literal["sgd", "adam", "adagrad"] = "sgd",
    form: Literal["official_code", "reddi"] = "official_code",
    client: Literal["sgd", "sam"] = "sgd",
    average: Average = "weighted",
) -> Algorithm:
    """`form`: the server's Adam and Adagrad as in torch.optim, which FedGloSS's released code calls
    (Adam with bias correction; Adagrad without momentum), or as Reddi et al. print them (no bias
    correction; momentum beta1 in Adagrad too). `eps` is the tau of that paper.
    """
    use_sam = client == "sam"

    def direction(grad, W, down, c, h):
        return (sam(grad, W, h.rho_l) if use_sam else grad(W)), c

    def aggregate(w, down, up, s, h):
        d = mean(down.w - up.w, weights(average, h))
        if server == "sgd":
            m = h.momentum * s.m + d
            return w - h.eta_s * m, s.replace(m=m)
        if server == "adagrad":
            m = d if form == "official_code" else h.beta1 * s.m + (1 - h.beta1) * d
            v = s.v + d * d
            return w - h.eta_s * m / (v.sqrt() + h.eps), s.replace(m=m, v=v)
        m = h.beta1 * s.m + (1 - h.beta1) * d
        v = h.beta2 * s.v + (1 - h.beta2) * d * d
        if form == "reddi":
            return w - h.eta_s * m / (v.sqrt() + h.eps), s.replace(m=m, v=v)
        unbiased_m, unbiased_v = m / (1 - h.beta1 ** (h.t + 1)), v / (1 - h.beta2 ** (h.t + 1))
        step = unbiased_m / (unbiased_v.sqrt() + h.eps)
        return w - h.eta_s * step, s.replace(m=m, v=v)

    optimiser = {
        "sgd": {"momentum": 0.0},
        "adam": {"beta1": 0.9, "beta2": 0.99, "eps": 0.1},
        "adagrad": {"eps": 0.01} | ({"beta1": 0.0} if form == "reddi" else {}),
    }
    return Algorithm(
        "fedopt",
        direction,
        aggregate,
        global_state=("m",) if server == "sgd" else ("m", "v"),
        hyperparameters={"eta_s": 1.0, **optimiser[server], **({"rho_l": None} if use_sam else {})},
        gradients=2 if use_sam else 1,
    )
