"""What the stages of benchmarks/gpu.py share: options, findings, a clock, models and cells."""

import argparse
import json
import time
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fedgloss.algorithms import build_algorithm, resolve_hyperparameters
from fedgloss.engine.assembly import build_gradients
from fedgloss.engine.backends.fused import FusedGradients
from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.federation import Simulation, federation
from fedgloss.engine.flat import flatten
from fedgloss.engine.start import prepared
from fedgloss.models import build_model

HYPERPARAMETERS = {"mu": 0.01, "alpha": 0.1, "beta": 10.0, "rho": 0.15, "rho_l": 0.15}
HYPERPARAMETERS |= {"lambda": 10.0, "T_s": 2000, "rho0": 0.001}
K, B = 5, 64


class Bench:
    """The options, and what was found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.begun = options, time.monotonic()
        self.found: dict = {"stages": {}}
        self.tiles: dict = {}
        if options.tiles and options.tiles.exists():
            self.tiles = json.loads(options.tiles.read_text())
        self.arithmetic = prepared(
            options.device, 1, "tf32" if options.device == "cuda" else "float32"
        )
        self.device = self.arithmetic.__enter__()  # for as long as the process lasts
        options.out.mkdir(parents=True, exist_ok=True)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds until the time is up."""
        return 60 * self.options.minutes - (time.monotonic() - self.begun)

    def write(self) -> None:
        path = self.options.out / "gpu.json"
        path.with_suffix(".new").write_text(json.dumps(self.found, indent=1, default=str) + "\n")
        path.with_suffix(".new").replace(path)


def seconds(work: Callable[[], object], calls: int = 10, repeats: int = 4) -> float:
    """The least seconds a call, without the host's part: recorded and replayed on a GPU."""
    if not torch.cuda.is_available():
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            work()
    best = float("inf")
    graph.replay()
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) / 1e3 / calls)
    return best


def cnn(bench: Bench) -> tuple[torch.nn.Module, tuple[int, int, int]]:
    if bench.options.toy:
        return build_model("smallcnn", (1, 8, 8), 10).to(bench.device), (1, 8, 8)
    return build_model("cnn", (3, 32, 32), 10).to(bench.device), (3, 32, 32)


def fused(bench: Bench, precision: str) -> tuple[FusedGradients, Tensor, Tensor, Tensor, Tensor]:
    """A backend with its inputs: parameters, images, labels, counts."""
    torch.manual_seed(0)
    model, shape = cnn(bench)
    gradients = FusedGradients(model, F.cross_entropy, precision)
    gradients.tiles |= bench.tiles.get(precision, {})
    W = flatten(model).repeat(K, 1)
    W += 0.01 * torch.randn_like(W)
    x = torch.randn(K, B, *shape, device=bench.device)
    y = torch.randint(0, 10, (K, B), device=bench.device)
    counts = torch.full((K,), B, device=bench.device)
    return gradients, W, x, y, counts


@cache
def random_images(device: torch.device, shape: tuple[int, ...], clients: int, samples: int):
    """Images and labels of all clients, client after client: one set for all simulations."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (clients * samples, *shape), generator=generator)
    labels = torch.randint(0, 10, (clients * samples,), generator=generator)
    return images.to(torch.uint8).to(device), labels.to(device)


def simulations(
    bench: Bench, methods: dict[str, int], backend: str = "fused", precision: str = "tf32",
    samples: int = 500, clients: int = 100,
) -> list[Simulation]:  # fmt: skip
    """Simulations on random images: for each method, "fedavg clipped at 1" too, so many seeds."""
    torch.manual_seed(0)
    model, shape = cnn(bench)
    if bench.options.toy:
        samples, clients = 20, 6
    images, labels = random_images(bench.device, shape, clients, samples)
    indices = torch.arange(clients * samples).split(samples)
    data = ClientData(images, labels, indices)
    gradients = build_gradients(backend, model, F.cross_entropy, precision)
    if isinstance(gradients, FusedGradients):
        gradients.tiles |= bench.tiles.get(precision, {})
    found = []
    for name, seeds in methods.items():
        method, _, clip = name.partition(" clipped at ")
        algorithm = build_algorithm(method)
        known = {k: v for k, v in HYPERPARAMETERS.items() if k in algorithm.hyperparameters}
        hyper = resolve_hyperparameters(algorithm, known)
        federations = [
            federation(
                algorithm, hyper, flatten(model), data, lr=0.01, weight_decay=4e-4,
                clip=float(clip) if clip else None, participants=K, seed=seed,
            ) for seed in range(seeds)
        ]  # fmt: skip
        pipeline = Pipeline((0.5,) * shape[0], (0.25,) * shape[0], "batch_aug")
        found.append(Simulation(federations, gradients, batching=Batching(B), pipeline=pipeline))
    return found
