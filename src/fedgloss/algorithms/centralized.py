"""Centralized training, the upper bound of the paper's Table 7: all data in one place.

A federation of one client, who has all samples: a "round" is its local training.
"""

from typing import Literal

from fedgloss.algorithms.core import Algorithm, named, sam, unit


def centralized_sgd() -> Algorithm:
    """SGD."""
    return pooled("centralized-sgd", lambda grad, W, down, c, h: (grad(W), c))


def centralized_sam() -> Algorithm:
    """SAM: Foret et al. 2021."""
    return pooled(
        "centralized-sam",
        lambda grad, W, down, c, h: (sam(grad, W, h.rho), c),
        hyperparameters={"rho": None},
        gradients=2,
    )


@named(clean_prev={"previous": "clean_prev"})
def centralized_sam_previous(
    *, previous: Literal["perturbed", "clean_prev"] = "perturbed"
) -> Algorithm:
    """SAM perturbed along the previous step's gradient; the first step is unperturbed.

    `previous`: the perturbed gradient that the previous step used, one gradient a step, as FedGloSS
    does on the server; or the gradient at the unperturbed point (`clean_prev`, two a step).
    """

    def direction(grad, W, down, c, h):
        G = grad(W + h.rho * unit(c.previous))
        return G, c.replace(previous=G if previous == "perturbed" else grad(W))

    return pooled(
        "centralized-sam-previous",
        direction,
        hyperparameters={"rho": None},
        client_state=("previous",),
        gradients=1 if previous == "perturbed" else 2,
    )


def pooled(name, direction, **facts) -> Algorithm:
    """No network: the trained model is the new model."""
    return Algorithm(name, direction, lambda w, down, up, s, h: (up.w, s), pooled=True, **facts)
