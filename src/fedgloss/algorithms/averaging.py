"""FedAvg, FedProx and FedSAM: local training, then an average of the models.

FedAvg: McMahan et al. 2017. FedProx: Li et al. 2020. FedSAM: Caldarola et al. 2022, Qu et al. 2022.
"""

from typing import Literal

from fedgloss.algorithms.core import Algorithm, mean, named, sam, weights

Average = Literal["weighted", "unweighted"]


def averaging(average: Average):
    """w <- sum_k p_k w_k, with p_k = N_k / N (paper, section 3.1) or 1 / n."""

    def aggregate(w, down, up, s, h):
        return mean(up.w, weights(average, h)), s

    return aggregate


@named(weighted={"average": "weighted"}, unweighted={"average": "unweighted"})
def fedavg(*, average: Average = "weighted") -> Algorithm:
    """Plain SGD on the clients."""

    def direction(grad, W, down, c, h):
        return grad(W), c

    return Algorithm("fedavg", direction, averaging(average))


@named(weighted={"average": "weighted"}, unweighted={"average": "unweighted"})
def fedprox(*, average: Average = "weighted") -> Algorithm:
    """A proximal term (mu / 2) ||v - w||^2 holds the clients near the global model."""

    def direction(grad, W, down, c, h):
        return grad(W) + h.mu * (W - down.w), c

    return Algorithm("fedprox", direction, averaging(average), hyperparameters={"mu": None})


@named(weighted={"average": "weighted"}, unweighted={"average": "unweighted"})
def fedsam(*, average: Average = "weighted") -> Algorithm:
    """SAM on the clients."""

    def direction(grad, W, down, c, h):
        return sam(grad, W, h.rho_l), c

    return Algorithm(
        "fedsam", direction, averaging(average), hyperparameters={"rho_l": None}, gradients=2
    )
