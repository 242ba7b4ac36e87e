"""The server of a federation: what it knows, and what it does with the messages that come back.

It knows no client's data and, where the clients are elsewhere, no client's state.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedgloss.algorithms.core import Algorithm, Named, mean
from fedgloss.engine.contract import guarded
from fedgloss.engine.measured import Measured, cosine
from fedgloss.engine.state import ClientState


class Server:
    """The servers of S federations of one method in round t: global models and server states."""

    clients: Mapping[str, ClientState]
    """The clients' state by name, as far as it is here."""

    def __init__(self, algorithm: Algorithm, w: Tensor, measure: Sequence[str] = ()) -> None:
        """w: the initial models, [S, 1, P]. measure: as `record` of `fedgloss.train`."""
        self.algorithm, self.measure, self.clients = guarded(algorithm), tuple(measure), {}
        self.t, self.w, S = 0, w, len(w)
        self.begun = 0  # rounds; one more than t from its aggregation on until all of it is noted
        self.s = Named(**{name: torch.zeros_like(w) for name in algorithm.global_state})
        self.previous = torch.zeros_like(w)  # the last pseudo-gradient, to be measured
        self.diverged_in = torch.full((S,), -1, device=w.device)
        self.measured = [Measured() for _ in range(S)]
        self.locals: tuple[list[list[int]], Tensor] = ([[]] * S, w[:, :0])
        """The participants of the last round, S x K, and their models at its end, [S, K, P]."""

    def message(self, s: Named, h: Named, start: Tensor | None = None) -> Named:
        """The message to the participants, [S, 1, ...] (Algorithm 1, l. 4-5).

        s: the server's state, which a probe may have changed. start: the model they start from,
        where it is not that of the method's own message.
        """
        down = self.algorithm.broadcast(self.w, s, h)
        return down if start is None else down.replace(w=start)

    def aggregate(self, down: Named, up: Named, s: Named, h: Named) -> None:
        """The new global model and state (l. 22-24), from the messages down [S, 1, ...] and up
        [S, K, ...]. Nothing is changed where the method fails."""
        w, s = self.algorithm.aggregate(self.w, down, up, s, h)
        self.begun = self.t + 1
        self.w, self.s = w, s

    def note_round(self, sent_w: Tensor, trained: Tensor, h: Named) -> None:
        """Measure an aggregated round. sent_w: the model that its clients started from, [S, 1, P].

        trained: their models at the end, [S, K, P].
        """
        pseudo_gradient = mean(sent_w - trained, h.p)
        if "consistency" in self.measure:
            self.note("cosine", cosine(self.previous, pseudo_gradient))
        self.previous = pseudo_gradient
        norms = torch.linalg.vector_norm(self.previous, dim=(1, 2))
        self.note("pseudo_gradient_norm", norms)
        # Kept on the device: reading it every round would make a GPU wait.
        broken = ~torch.isfinite(self.w).flatten(1).all(dim=1) & (self.diverged_in < 0)
        self.diverged_in = torch.where(broken, h.t.to(torch.int64), self.diverged_in)

    def note(self, name: str, values: Tensor) -> None:
        """Keep a measurement of this round, [S]; on its device: reading it makes a GPU wait."""
        for measured, value in zip(self.measured, values, strict=True):
            measured.latest[name] = value

    def state(self, s: int) -> dict[str, Tensor]:
        """All of federation s that passes from round to round, by name (with `load_state`)."""
        return {
            "w": self.w[s],
            "previous": self.previous[s],
            "diverged_in": self.diverged_in[s],
            **{f"server.{name}": value[s] for name, value in self.s.items()},
        }

    def load_state(self, states: Sequence[dict[str, Tensor]], t: int) -> None:
        """Go on from what `state` returned for each federation after round t - 1."""

        def stacked(name: str) -> Tensor:
            return torch.stack([state[name] for state in states]).to(self.w.device)

        self.t, self.w, self.previous = t, stacked("w"), stacked("previous")
        self.begun = t
        self.diverged_in = stacked("diverged_in")
        self.s = Named(**{name: stacked(f"server.{name}") for name in self.s})
