"""The federated round, and the state that passes from one round to the next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedgloss import rng
from fedgloss.algorithms.core import Algorithm, Named, mean, unit
from fedgloss.simulation.clients import Batching, ClientData, Cohort, Pipeline

Gradients = Callable[[Tensor, Tensor, Tensor, Sequence[int]], Tensor]


@dataclass
class Measured:
    """What instrumenting a run counts and measures."""

    bytes_down: int = 0
    """Bytes sent by the server to all participants, over all rounds so far."""
    bytes_up: int = 0
    """Bytes sent by all participants to the server, over all rounds so far."""
    gradients_per_step: float = 0.0
    """Mini-batch gradients per local step in the last round, all exchanges together."""
    latest: dict[str, Tensor] = field(default_factory=dict)
    """Measurements of the last round: `pseudo_gradient_norm`, and `delta_epsilon` where asked."""


class Simulation:
    """A federation in round t: the global model, the server's state, the clients' state.

    Every random draw comes from (seed, purpose, round, client), so this state is all there is: a
    simulation restored from it goes on as if it had never stopped.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        hyperparameters: dict[str, float],
        w: Tensor,
        data: ClientData,
        gradients: Gradients,
        *,
        lr: float,
        weight_decay: float,
        batching: Batching,
        participants: int | Sequence[Sequence[int]],
        seed: int,
        pipeline: Pipeline | None = None,
        sizes: Tensor | None = None,
        measure: Sequence[str] = (),
    ) -> None:
        """w [P]: the initial model. participants: how many to draw each round, or the schedule."""
        self.algorithm, self.hyperparameters, self.gradients = algorithm, hyperparameters, gradients
        self.data = data.pooled() if algorithm.pooled else data
        self.lr, self.weight_decay, self.batching = lr, weight_decay, batching
        self.participants, self.seed, self.pipeline = participants, seed, pipeline
        self.measures_perturbation = "delta_epsilon" in measure
        self.m = len(self.data.indices)
        if sizes is None or algorithm.pooled:
            sizes = torch.tensor([len(index) for index in self.data.indices], dtype=torch.float64)
        self.sizes = sizes.double().cpu()

        self.t = 0
        self.w = w[None].clone()
        self.s = Named(**{name: torch.zeros_like(self.w) for name in algorithm.global_state})
        self.clients = {name: w.new_zeros(self.m, len(w)) for name in algorithm.client_state}
        self.previous = torch.zeros_like(self.w)  # the last pseudo-gradient, for delta_epsilon
        self.diverged_in = torch.full((), -1, device=w.device)
        self.measured = Measured()
        self.locals: tuple[list[int], Tensor] | None = None

    def round(self) -> None:
        """One round: send, train, receive, aggregate (Algorithm 1, l. 3-24)."""
        t, ids = self.t, self.draw_participants(self.t)
        cohort = self._cohort(ids, t, "batches")
        h = self._facts(t, ids, cohort)
        rows = torch.tensor(ids, device=self.w.device)
        c = Named(**{name: state.index_select(0, rows) for name, state in self.clients.items()})
        evaluations = 0

        if self.algorithm.probe or self.measures_perturbation:
            probe = self._cohort(ids, t, "probe")
            c_probe, up, down = self._exchange(probe, c, h, perturb=False)
            exact = mean(down.w - up.w, h.p)
            if self.algorithm.probe:  # NaiveFedGloSS: paper, section 5.1.1, step 1
                self._count(down, up)
                evaluations = probe.evaluations
                c = c_probe if self.algorithm.probe == "dual" else c
            if self.measures_perturbation:
                self._measure_perturbation(exact, h)
            if self.algorithm.probe:
                self.s = self.s.replace(delta=exact)

        c, up, down = self._exchange(cohort, c, h)
        self._count(down, up)
        self.w, self.s = self.algorithm.aggregate(self.w, down, up, self.s, h)
        for name, state in self.clients.items():
            state.index_copy_(0, rows, c[name])

        self.previous = mean(down.w - self.locals[1], h.p)
        self.measured.latest["pseudo_gradient_norm"] = torch.linalg.vector_norm(self.previous)
        evaluations += cohort.evaluations
        self.measured.gradients_per_step = evaluations / max(len(cohort.counts), 1)
        # Kept on the device: reading it every round would make a GPU wait.
        broken = ~torch.isfinite(self.w).all() & (self.diverged_in < 0)
        self.diverged_in = torch.where(broken, t, self.diverged_in)
        self.t += 1

    def draw_participants(self, t: int) -> list[int]:
        """The clients of round t: the schedule's, or drawn uniformly without replacement.

        The draw depends on the seed alone, so all methods of one seed meet the same clients.
        """
        if self.algorithm.pooled:
            return [0]
        if isinstance(self.participants, int):
            return rng.sample(self.seed, "participants", self.participants, self.m, t).tolist()
        return list(self.participants[t])

    def state(self) -> dict[str, Tensor]:
        """Everything that passes from round to round, by name (with `load_state`)."""
        return {
            "w": self.w,
            "previous": self.previous,
            "diverged_in": self.diverged_in,
            **{f"server.{name}": value for name, value in self.s.items()},
            **{f"clients.{name}": value for name, value in self.clients.items()},
        }

    def load_state(self, tensors: dict[str, Tensor], t: int) -> None:
        """Go on from what `state` returned after round t - 1."""
        device = self.w.device
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.t, self.w, self.previous = t, tensors["w"].clone(), tensors["previous"].clone()
        self.diverged_in = tensors["diverged_in"].clone()
        self.s = Named(**{name: tensors[f"server.{name}"].clone() for name in self.s})
        for name, state in self.clients.items():
            state.copy_(tensors[f"clients.{name}"])

    def _cohort(self, ids: list[int], t: int, purpose: str) -> Cohort:
        return Cohort(
            self.data,
            ids,
            self.batching,
            self.gradients,
            self.pipeline,
            self.w.dtype,
            self.seed,
            purpose,
            t,
        )

    def _facts(self, t: int, ids: list[int], cohort: Cohort) -> Named:
        """The round's hyperparameters and facts, as the methods see them (algorithms/core.py)."""
        like = {"dtype": self.w.dtype, "device": self.w.device}
        hyper = self.algorithm.schedule(self.hyperparameters, t)
        sizes = self.sizes[ids][:, None]
        return Named(
            **{name: torch.tensor(float(value), **like) for name, value in hyper.items()},
            lr=torch.tensor(self.lr, **like),
            wd=torch.tensor(self.weight_decay, **like),
            t=torch.tensor(float(t), **like),
            m=self.m,
            n=len(ids),
            p=(sizes / sizes.sum()).to(**like),
            share=(sizes * (self.m / self.sizes.sum())).to(**like),
            steps=torch.tensor(cohort.steps, **like)[:, None],
            full_gradient=cohort.full_gradient,
        )

    def _exchange(
        self, cohort: Cohort, c: Named, h: Named, perturb: bool = True
    ) -> tuple[Named, Named, Named]:
        """One message to the participants, their local training, and their answers.

        Returns the clients' new state, and the messages up and down.
        """
        down = self.algorithm.broadcast(self.w, self.s, h)
        if not perturb:
            down = down.replace(w=self.w)
        W, c = train_locally(self.algorithm, cohort, down, c, h)
        self.locals = (cohort.ids, W)
        c, up = self.algorithm.finish(W, down, c, h)
        return c, up, down

    def _count(self, down: Named, up: Named) -> None:
        """Count what crosses the network; centralized training has none."""
        if not self.algorithm.pooled:
            clients = len(self.locals[0])
            self.measured.bytes_down += clients * sum(_bytes(x) for x in down.values())
            self.measured.bytes_up += sum(_bytes(x) for x in up.values())

    def _measure_perturbation(self, exact: Tensor, h: Named) -> None:
        """delta_epsilon of Eq. 6, with rho = 1 for methods that do not perturb on the server."""
        rho = h.rho if "delta" in self.algorithm.global_state else 1.0
        gap = torch.linalg.vector_norm(unit(self.previous) - unit(exact))
        self.measured.latest["delta_epsilon"] = rho * gap


def train_locally(
    algorithm: Algorithm, cohort: Cohort, down: Named, c: Named, h: Named
) -> tuple[Tensor, Named]:
    """All local steps of a cohort: v <- v - lr * (direction + wd * v), from the model received.

    Returns the clients' models [K, P] and their state. Clients with fewer steps than others stop
    where they are.
    """
    W = down.w.expand(len(cohort.ids), -1).clone()
    c = c.replace(**{name: torch.zeros_like(W) for name in algorithm.local_state})
    for step, counts in enumerate(cohort.counts):
        direction, c_new = algorithm.direction(cohort.gradient(step), W, down, c, h)
        update = h.lr * (direction + h.wd * W)
        if not all(counts):
            active = torch.tensor([count > 0 for count in counts], device=W.device)[:, None]
            update = torch.where(active, update, torch.zeros_like(update))
            c_new = Named(**{name: torch.where(active, c_new[name], c[name]) for name in c_new})
        W, c = W - update, c_new
    return W, c


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
