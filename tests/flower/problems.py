"""The problems that are trained through Flower and in the library: what of them is Flower's."""

import torch

from fedgloss.flower import Deployment
from local_grid import numbers_of, on_images
from problem import Problem, Quadratic, load_vectors, mean_output

ROUNDS = 5
TOLERANCE = {"vectors": 1e-10, "cnn": 1e-5}
"""In float64 and in float32."""


def problem(name: str, method: str) -> tuple[Deployment, list, dict, dict]:
    """A deployment, its clients, and of `fedgloss.train` the further options: `work`, `course`.

    vectors: the quadratic clients of the float64 vectors, five rounds of some of them. cnn: a small
    one in float32, on unequal clients, three of four a round.
    """
    if name == "cnn":
        deployment, clients, work = on_images(method)
        test = clients[1]
        course = {"rounds": ROUNDS, "clients_per_round": 3, "test": test, "evaluate_every": 2}
        return deployment, clients, work, course
    given = load_vectors()["problem"]
    quadratic = Problem(given["A"], given["a"], given["N"], given["w0"])
    m = len(given["N"])
    work = {"lr": given["lr"], "local_steps": given["local_steps"], "batch_size": None}
    work |= {"weight_decay": 0.05, "hyperparameters": numbers_of(method), "loss": mean_output}
    model = Quadratic(quadratic.w0, quadratic.split)
    schedule = [[0, 1], [1, 2], [0, 1, 2], [2], [2, 0]]
    deployment = Deployment(model=model, clients=m, algorithm=method, **work)
    # What FedSpeed's clients send is not their models, of which `norms` would be.
    record = ["communication"] if method == "fedspeed" else ["communication", "norms"]
    return deployment, quadratic.clients(m), work, {"schedule": schedule, "record": record}


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
