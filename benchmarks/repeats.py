"""Are the same bits computed again? A stage of benchmarks/gpu.py."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from bench import Bench, fused, simulations
from torch import Tensor

from fedgloss.algorithms.core import factors, mean
from fedgloss.engine.elementwise import Lazy, computed

ALIKE = (
    {"fedavg": 1}, {"fedsam": 1}, {"fedgloss": 1}, {"fedsmoo": 1}, {"fedgloss": 1, "fedsmoo": 1},
)  # fmt: skip
"""What is trained again and again: methods alone, and two side by side."""


def determinism(bench: Bench) -> dict:
    """The same bits again? Of each part of a round, and of the models after each round.

    A part that differs only side by side with others depends on timing; gradients say in which
    layers. Where all parts agree and rounds do not, the graph or the state is to blame.
    """
    found = {}
    for precision in bench.options.precisions:
        for name, again in parts_of_a_round(bench, precision).items():
            found[f"{precision}, {name}"] = again()
            print(precision, name, found[f"{precision}, {name}"], flush=True)
        for methods in bench.size(ALIKE, ALIKE[:1]):
            found[f"{precision}, {methods}"] = repeated_rounds(bench, "fused", precision, methods)
    return found


def repeated_rounds(bench: Bench, backend: str, precision: str, methods: dict[str, int]) -> dict:
    """The first round after which models differ, run again and interrupted; None: they never do."""
    count, more = bench.size((8, 2), (3, 1))
    runs = [models(bench, backend, precision, methods, [count]) for _ in range(1 + more)]
    runs.append(models(bench, backend, precision, methods, [count // 2, count - count // 2]))
    gaps = [first_gap(runs[0], run) for run in runs[1:]]
    print(backend, precision, methods, gaps, flush=True)
    return {
        "first round that differs, run again": gaps[:-1],
        f"first round that differs, interrupted after {count // 2}": gaps[-1],
    }


def parts_of_a_round(bench: Bench, precision: str) -> dict[str, Callable[[], dict]]:
    """What `repeated` says of gradients, and of the arithmetic of SAM and of averaging."""
    gradients, W, x, y, counts = fused(bench, precision)
    g, w = gradients(W, x, y, counts)[None], W[None]
    share = torch.full((1, len(W), 1), 1 / len(W), device=W.device)

    def step() -> Tensor:
        direction = Lazy.of(g) + 4e-4 * Lazy.of(w)
        return computed(Lazy.of(w) - 0.01 * direction)

    parts = {
        "gradients": lambda: gradients(W, x, y, counts),
        "lengths": lambda: torch.cat(factors(g)),
        "a step": step,
        "means": lambda: mean(g, share),
    }
    ends = [*gradients.offsets.values(), gradients.P][1:]
    layers = {
        name: slice(begin, end)
        for (name, begin), end in zip(gradients.offsets.items(), ends, strict=True)
    }
    return {
        name: partial(repeated, bench, part, layers if name == "gradients" else {})
        for name, part in parts.items()
    }


def repeated(bench: Bench, part: Callable[[], Tensor], layers: dict[str, slice]) -> dict:
    """How often a part's result differs from the first: alone, and recorded with others abreast."""
    calls, branches, replays = bench.size((8, 4, 10), (2, 2, 2))
    first = part()
    alone = [part() for _ in range(calls)]
    abreast: dict[tuple[int, int], Tensor] = {}

    def branch(number: int) -> None:
        for call in range(calls):
            abreast[number, call] = part()

    graph = bench.graph()
    graph.record([partial(branch, number) for number in range(branches)])
    wrong, where = 0, set()
    for _ in range(replays):
        graph.replay()
        for result in abreast.values():
            if not torch.equal(result, first):
                wrong += 1
                where |= {
                    name
                    for name, here in layers.items()
                    if not torch.equal(result[:, here], first[:, here])
                }
    return {
        "differ alone": f"{sum(not torch.equal(r, first) for r in alone)} of {calls}",
        "differ abreast": f"{wrong} of {len(abreast) * replays}",
        "in layers": sorted(where),
    }


def first_gap(a: list[list[bytes]], b: list[list[bytes]]) -> int | None:
    """The first round (1 first) in which two runs differ."""
    return next((t for t, (x, y) in enumerate(zip(a, b, strict=True), 1) if x != y), None)


def models(
    bench: Bench, backend: str, precision: str, methods: dict[str, int], rounds: Sequence[int]
) -> list[list[bytes]]:
    """The bytes of all models after each recorded round, interrupted after each of `rounds`."""
    found: list[list[bytes]] = []
    kept: list = []
    for count in rounds:
        some = simulations(bench, methods, backend, precision)
        for simulation, state in zip(some, kept, strict=False):
            simulation.load_state([state], len(found))
        recorded = bench.replay(some)
        for _ in range(count):
            recorded.advance()
            found.append([s.w.cpu().numpy().tobytes() for s in some])
        kept = [{n: v.clone().cpu() for n, v in s.state(0).items()} for s in some]
    return found
