"""What is counted and measured of a run besides its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


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
    """Measurements of the last round: `pseudo_gradient_norm`, and `delta_epsilon` where asked."""

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
        return row
