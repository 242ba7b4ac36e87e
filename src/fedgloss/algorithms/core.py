"""What a federated algorithm is, and the few pieces the methods share.

Shapes. S federations of a method, cells that differ in seed or in numbers, are trained together;
every tensor has them in its first dimension, S = 1 for one alone. A global vector is [S, 1, P], the
cohort of K participants [S, K, P], one number per participant [S, K, 1]. A hyperparameter is a
scalar tensor, or [S, 1, 1] where federations may differ in it. Everything broadcasts, so the
methods read as in the papers, where S goes without saying. Reduce over dim=-2 (clients) or dim=-1
(parameters), with keepdim=True, or with `mean`, `total`, `unit`; a sum over all dimensions is right
for one federation alone and mixes those that are trained together. A method of one's own is tried
for that before round 1 (engine/rehearsal.py).

A method is cut where the network would cut it. The server sends a message (`broadcast`); clients
see that message, their own state and their own data, nothing else (`direction`, `finish`); the
server sees the messages that come back (`aggregate`). What a method communicates is therefore
counted, not claimed: it is the size of its messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a study can be read and checked without the seconds that importing torch takes
    from torch import Tensor

    Gradient = Callable[[Tensor], Tensor]
    """The gradient of every participant's mean loss on its current mini-batch, at any point:
    [S, K, P] -> [S, K, P], without weight decay."""


class Named(Mapping[str, Any]):
    """A small immutable record of named values, read as attributes: `s.sigma`."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    if TYPE_CHECKING:  # entries are attributes; which ones, no type says

        def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} cannot be set: use replace()")

    def replace(self, **changes: Any) -> Named:
        """The same record with some values changed."""
        return Named(**{**self.__dict__, **changes})


def _nothing_to_finish(W: Tensor, down: Named, c: Named, h: Named) -> tuple[Named, Named]:
    return c, Named(w=W)


def _constant(hyper: dict[str, float], t: int) -> dict[str, float]:
    return hyper


@dataclass(frozen=True)
class Probe:
    """An extra exchange before each round: its participants also train from w itself, on
    mini-batches in another order, and answer before the round's own message is made."""

    into: str
    """The entry of the server's state that becomes the pseudo-gradient of this exchange."""
    clients_keep: bool = False
    """Whether the clients keep the state in which the exchange leaves them."""


@dataclass(frozen=True)
class Algorithm:
    """A federated method on flat parameter vectors.

    The engine does the rest: `W <- W - lr * (direction + weight_decay * W)` for every local step
    (the direction clipped, where that is asked for), sampling, masks for unequal clients, gathering
    and scattering of client state, evaluation.

    `h` holds the round's hyperparameters by name and the facts of the round:
    `m` clients in all and `n` participants (both int), `p` [S, K, 1] their weights N_k / sum_S N_j,
    `share` [S, K, 1] m N_k / sum over all clients of N_j, `lr` and `wd` as hyperparameters, `steps`
    [S, K, 1] local steps taken, `t` the round (0 first, a scalar tensor), and `full_gradient`, the
    gradient over all of each participant's data at one point, [S, 1, P] -> [S, K, P].

    Each function is a pure function of its arguments, which it leaves as they are: the engine may
    call it again, for some of the clients, or for other federations in between.
    """

    name: str
    """As tables and messages call it."""
    direction: Callable[[Gradient, Tensor, Named, Named, Named], tuple[Tensor, Named]]
    """(grad, W, down, c, h) -> the step direction [S, K, P], and the clients' state, each
    [S, K, P]: all of `client_state` and `local_state`."""
    aggregate: Callable[[Tensor, Named, Named, Named, Named], tuple[Tensor, Named]]
    """(w, down, up, s, h) -> the new global model and the server's state, each [S, 1, P]."""
    broadcast: Callable[[Tensor, Named, Named], Named] = lambda w, s, h: Named(w=w)
    """(w, s, h) -> the message to the clients, [S, 1, ...]; they start from its `w`."""
    finish: Callable[[Tensor, Named, Named, Named], tuple[Named, Named]] = _nothing_to_finish
    """(W, down, c, h) -> the clients' new state, and their messages to the server, [S, K, ...]."""

    global_state: tuple[str, ...] = ()
    """Server state by name, each [S, 1, P], zero at first."""
    client_state: tuple[str, ...] = ()
    """State each client keeps between rounds, by name, zero at first; [S, K, P] in a cohort."""
    local_state: tuple[str, ...] = ()
    """Client state that lives for one round only, each [S, K, P], zero at its start."""
    hyperparameters: Mapping[str, float | None] = field(default_factory=dict)
    """Names, and the default where the definition of the method has one (None: must be given)."""
    schedule: Callable[[dict[str, float], int], dict[str, float]] = _constant
    """(hyperparameters, t) -> the hyperparameters in force in round t, by the same names."""
    probe: Probe | None = None
    """An extra exchange before each round, if the method has one."""
    radius: str | None = None
    """The hyperparameter that is the length of the server's perturbation along the last
    pseudo-gradient, in which delta_epsilon (Eq. 6) is measured; without one it is measured in 1."""
    pooled: bool = False
    """All samples are handed to one client, and no network is between it and the server."""
    gradients: int = 1
    """Mini-batch gradients per local step, those of a probe included."""
    reciprocals: Mapping[str, str] = field(default_factory=dict)
    """Other names under which hyperparameters may be given, as 1 over the number."""


def factors(x: Tensor) -> tuple[Tensor, Tensor]:
    """a and b with ||x|| = a b, each [..., 1], for the L2 norm over all parameters of [..., P].

    ||x|| itself may be beyond the type's range, and the squares in it are far sooner: those of
    float32 vanish below 1e-23, where the gradients of a fitted model are. x / a is within it,
    and b is at least 1/2, for the zero vector too: so x / a / b is x / ||x||, or 0.
    """
    import torch  # here, for what reads studies needs this file without torch

    if x.dtype == torch.float32:  # whose norm float64 holds, in the one pass it takes anyway
        length = x.norm(dim=-1, keepdim=True, dtype=torch.float64)
        a = length.clamp(2.0**-149, 2.0**125).to(x.dtype)
        return a, (length / a).to(x.dtype).clamp_min(0.5)
    a = x.abs().amax(dim=-1, keepdim=True).clamp_min(2.0**-1074)
    return a, (x / a).norm(dim=-1, keepdim=True).clamp_min(0.5)


def unit(x: Tensor) -> Tensor:
    """x / ||x||, one L2 norm over all parameters; the zero vector stays zero.

    The last point is what leaves FedGloSS unperturbed in round 0, where no pseudo-gradient exists.
    """
    a, b = factors(x)
    return x / a / b


def sam(grad: Gradient, W: Tensor, rho: Tensor) -> Tensor:
    """The sharpness-aware gradient g(W + rho g(W) / ||g(W)||), paper Eq. 5; both on one batch."""
    g = grad(W)
    a, b = factors(g)
    return grad(W + g / a * (rho / b))


def mean(X: Tensor, p: Tensor) -> Tensor:
    """sum_k p_k x_k: [S, K, P], [S, K, 1] -> [S, 1, P]."""
    return (p * X).sum(dim=-2, keepdim=True)


def total(X: Tensor) -> Tensor:
    """sum_k x_k: [S, K, P] -> [S, 1, P]."""
    return X.sum(dim=-2, keepdim=True)


def weights(average: str, h: Named) -> Tensor:
    """Averaging weights [S, K, 1]: N_k over the round's samples, or 1/n."""
    return h.p if average == "weighted" else h.p.new_full(h.p.shape, 1 / h.n)


def named(**combinations: Mapping[str, str]) -> Callable[[Callable], Callable]:
    """Give combinations of a method's variants a name, as the literature and its code name them.

    `paper` and `official` are presets every method answers to; where a method does not list one,
    paper and code agree and its defaults stand.
    """

    def decorate(method: Callable) -> Callable:
        vars(method)["named"] = combinations
        return method

    return decorate
