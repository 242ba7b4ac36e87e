"""The quadratic problem of the test vectors, as a user of the library would state it.

f_k(w) = 0.5 (w - a_k)^T A_k (w - a_k). Client k holds N_k copies of one sample (A_k, a_k), so the
mean over a batch is f_k and the number of samples is its weight. The parameters are two tensors,
which tells one norm over all parameters from a norm for each tensor.
"""

import json
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

import fedgloss


class Quadratic(nn.Module):
    """Maps samples [N, d*d + d] (A_k and a_k in a row) to their losses [N]."""

    def __init__(self, w0: Tensor, split: int) -> None:
        super().__init__()
        self.first = nn.Parameter(w0[:split].clone())
        self.rest = nn.Parameter(w0[split:].clone())

    def forward(self, x: Tensor) -> Tensor:
        w = torch.cat([self.first, self.rest])
        d = len(w)
        away = w - x[:, d * d :]
        return 0.5 * torch.einsum("ni,nij,nj->n", away, x[:, : d * d].view(-1, d, d), away)


def mean_output(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of `Quadratic`: its outputs are losses already."""
    return outputs.mean()


class Problem:
    """Clients with quadratic losses."""

    def __init__(self, A, a, N, w0, split=2) -> None:
        self.A, self.a, self.w0 = (torch.tensor(v, dtype=torch.float64) for v in (A, a, w0))
        self.N, self.split = [int(n) for n in N], split

    def clients(self, m: int) -> list[tuple[Tensor, Tensor]]:
        """The first m clients' samples."""
        rows = [torch.cat([A.flatten(), a]) for A, a in zip(self.A, self.a, strict=True)]
        pairs = zip(rows[:m], self.N[:m], strict=True)
        return [(row.repeat(n, 1), torch.zeros(n, dtype=torch.float64)) for row, n in pairs]

    def train(self, algorithm, m, schedule, **options) -> fedgloss.Result:
        """Full-gradient local steps with `fedgloss.train`."""
        options = {"lr": 0.1, "local_steps": 2, **options}
        return fedgloss.train(
            Quadratic(self.w0, self.split),
            self.clients(m),
            algorithm,
            schedule=schedule,
            loss=mean_output,
            batch_size=None,
            **options,
        )


def random_problem(seed: int, m: int = 4, d: int = 5) -> Problem:
    """A problem of another size, with unequal clients."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(m, d, d, generator=generator, dtype=torch.float64)
    A = draw @ draw.transpose(1, 2) / d + 0.3 * torch.eye(d, dtype=torch.float64)
    a = torch.randn(m, d, generator=generator, dtype=torch.float64)
    N = torch.randint(1, 6, (m,), generator=generator)
    w0 = torch.randn(d, generator=generator, dtype=torch.float64)
    return Problem(A.tolist(), a.tolist(), N.tolist(), w0.tolist(), split=2)


@cache
def load_vectors() -> dict:
    """The float64 vectors with their problem and scenarios; only to be read."""
    return json.loads(Path(__file__).with_name("vectors.json").read_text(encoding="utf-8"))
