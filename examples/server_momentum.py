"""A method of your own: FedAvgM (Hsu et al. 2019), FedAvg with momentum on the server.

Run:    python examples/server_momentum.py
In a study, name the function below, and let Python find this folder (PYTHONPATH=examples):

    algorithms:
      fedavgm: {method: "server_momentum:fedavgm", hyperparameters: {momentum: 0.9}}

docs/own-method.md explains each part.
"""

from typing import Literal

import fedgloss
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


if __name__ == "__main__":
    from digits import federated_digits, small_network

    clients, test = federated_digits()
    for momentum in (0.0, 0.9):
        result = fedgloss.train(
            small_network(),
            clients,
            fedavgm(),
            rounds=30,
            clients_per_round=5,
            lr=0.03,
            batch_size=8,
            hyperparameters={"momentum": momentum},
            test=test,
        )
        print(f"momentum {momentum}: {result.metrics[-1]['accuracy']:.1f} %")
