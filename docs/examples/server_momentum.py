"""FedAvgM (Hsu et al. 2019): FedAvg with momentum on the server. The worked example of docs."""

from typing import Literal

from fedgloss.algorithms.core import Algorithm, mean, named, weights


@named(unweighted={"average": "unweighted"})
def fedavgm(*, average: Literal["weighted", "unweighted"] = "weighted") -> Algorithm:
    """`average`: N_k weights in the mean, or 1/n."""

    def direction(grad, W, down, c, h):
        return grad(W), c

    def aggregate(w, down, up, s, h):
        d = mean(down.w - up.w, weights(average, h))  # the pseudo-gradient
        v = h.momentum * s.v + d
        return w - v, s.replace(v=v)

    return Algorithm(
        "fedavgm",
        direction,
        aggregate,
        global_state=("v",),
        hyperparameters={"momentum": None},
    )
