"""What is counted and measured of a run besides its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedgloss.algorithms.core import unit


@dataclass
class Measured:
    """What instrumenting a federation counts and measures."""

    bytes_down: int = 0
    """Bytes sent by the server to all participants, over all rounds so far."""
    bytes_up: int = 0
    """Bytes sent by all participants to the server, over all rounds so far."""
    gradients_per_step: float = 0.0
    """Mini-batch gradients per local step in the last round, all exchanges together."""
    latest: dict[str, Tensor] = field(default_factory=dict)
    """Measurements of the last round: `pseudo_gradient_norm`, and where asked `delta_epsilon` (of
    the last evaluated round) and `cosine`."""

    def row(self, w: Tensor, record: Sequence[str]) -> dict[str, float]:
        """The entries of a row of metrics that `record` asks for; w: the model now, [P]."""
        row: dict[str, float] = {}
        if "norms" in record:
            row["w_norm"] = float(torch.linalg.vector_norm(w))
            row["pseudo_gradient_norm"] = float(self.latest["pseudo_gradient_norm"])
        if "delta_epsilon" in record:
            row["delta_epsilon"] = float(self.latest["delta_epsilon"])
        if "communication" in record:
            row["bytes_down"], row["bytes_up"] = self.bytes_down, self.bytes_up
        if "consistency" in record:
            row["cosine"] = float(self.latest["cosine"])
        return row


def perturbation_error(previous: Tensor, exact: Tensor, radius: Tensor) -> Tensor:
    """delta_epsilon of Eq. 6, [S]: by how much the perturbation of length `radius` along the last
    pseudo-gradient is off that along the exact one; each [S, 1, P].

    In float64: the two are nearly parallel where the measurement is of interest.
    """
    gap = unit(previous.double()) - unit(exact.double())
    return (radius.double() * gap.norm(dim=-1, keepdim=True))[:, 0, 0]


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """The cosine of the angle between vectors [S, 1, P], as float64 [S]; 0 where one is zero."""
    return (unit(one.double()) * unit(other.double())).sum(dim=(1, 2))
