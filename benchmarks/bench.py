"""What the stages of benchmarks/gpu.py share: options, findings, a clock, models and cells."""

import argparse
import importlib.util
import json
import os
import time
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedgloss.algorithms import build_algorithm, resolve_hyperparameters
from fedgloss.engine.assembly import build_gradients
from fedgloss.engine.backends.fused import FusedGradients
from fedgloss.engine.backends.graph import CudaGraph, Graph, Replay
from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.federation import Simulation, federation
from fedgloss.engine.flat import flatten
from fedgloss.engine.start import prepared
from fedgloss.models import build_model

HYPERPARAMETERS = {"mu": 0.01, "alpha": 0.1, "beta": 10.0, "rho": 0.15, "rho_l": 0.15}
HYPERPARAMETERS |= {"lambda": 10.0, "T_s": 2000, "rho0": 0.001}
CLIENTS, BATCH = 5, 64
NO_GRAPHS = "nothing: without CUDA, what would be recorded was asked for again each time"

Size = TypeVar("Size")


class NotMeasured(Exception):
    """Why something cannot be measured here: a result, not a failure."""


class Again:
    """A graph where there is no GPU: it records nothing, a replay asks its branches again."""

    def record(self, branches: Sequence[Callable[[], None]]) -> None:
        self.branches = branches

    def replay(self) -> None:
        for branch in self.branches:
            branch()


class Bench:
    """The options, and what was found so far.

    On a CPU the kernels run in Triton's interpreter, which must be chosen before Triton is loaded.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        options.out = options.out.resolve()  # stages that train cells work in a folder of theirs
        self.options = options
        self.found: dict[str, Any] = {"stages": {}, "failed": [], "left_out": []}
        self.tiles: dict = {}
        if options.tiles and options.tiles.exists():
            self.tiles = json.loads(options.tiles.read_text())
        self.arithmetic = prepared(
            options.device, 1, "tf32" if options.device == "cuda" else "float32"
        )
        self.device = self.arithmetic.__enter__()  # for as long as the process lasts
        if not self.cuda:
            os.environ["TRITON_INTERPRET"] = "1"
            self.found["recorded"] = NO_GRAPHS
        options.out.mkdir(parents=True, exist_ok=True)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def needs_cuda(self) -> None:
        """NotMeasured where there is none."""
        if not self.cuda:
            raise NotMeasured("needs CUDA")

    def size(self, full: Size, toy: Size) -> Size:
        """How much of something; `--toy` is to be over in seconds, on a CPU too."""
        return toy if self.options.toy else full

    def graph(self) -> Graph:
        """What records device work."""
        return CudaGraph() if self.cuda else Again()

    def replay(self, some: Sequence[Simulation]) -> Replay:
        """Recorded rounds of these simulations."""
        return Replay(some, self.graph)

    def wait(self) -> None:
        """Until the device has done what it was asked."""
        if self.cuda:
            torch.cuda.synchronize()

    def attempt(self, name: str, work: Callable[[], object]) -> object:
        """What `work` returns; where it fails, or cannot be measured here, the reason in a line."""
        try:
            return work()
        except NotMeasured as reason:
            return f"not measured: {reason}"
        except Exception as error:
            traceback.print_exc()
            self.found["failed"].append(name)
            return f"{type(error).__name__}: {error}"

    def part(self, found: dict[str, Any], name: str, work: Callable[[], object]) -> None:
        """An `attempt` that is one entry of what a stage finds."""
        found[name] = self.attempt(name, work)
        print(name, found[name], flush=True)

    def left(self) -> float:
        """Seconds until the time is up."""
        return 60 * self.options.minutes - (time.monotonic() - self.options.begun)

    def write(self) -> None:
        path = self.options.out / "gpu.json"
        path.with_suffix(".new").write_text(json.dumps(self.found, indent=1, default=str) + "\n")
        path.with_suffix(".new").replace(path)


def seconds(bench: Bench, work: Callable[[], object], calls: int = 10, repeats: int = 4) -> float:
    """The least seconds a call, without the host's part: recorded and replayed on a GPU."""
    if not bench.cuda:
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


def needs_triton() -> None:
    """NotMeasured where it is not installed."""
    if importlib.util.find_spec("triton") is None:
        raise NotMeasured("needs Triton")


def cnn(bench: Bench) -> tuple[torch.nn.Module, tuple[int, int, int]]:
    """The paper's model and its images' shape; a toy has as many kinds of layers."""
    if not bench.options.toy:
        return build_model("cnn", (3, 32, 32), 10).to(bench.device), (3, 32, 32)
    layers: list[nn.Module] = []
    for before, after in ((1, 4), (4, 8)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 10)]
    return nn.Sequential(*layers).to(bench.device), (1, 4, 4)


def fused(bench: Bench, precision: str) -> tuple[FusedGradients, Tensor, Tensor, Tensor, Tensor]:
    """A backend with its inputs: parameters, images, labels, counts."""
    needs_triton()
    torch.manual_seed(0)
    model, shape = cnn(bench)
    gradients = FusedGradients(model, F.cross_entropy, precision)
    gradients.tiles |= bench.tiles.get(precision, {})
    K, B = bench.size((CLIENTS, BATCH), (2, 8))
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
    bench: Bench, methods: dict[str, int], backend: str = "fused", precision: str = "tf32"
) -> list[Simulation]:
    """Simulations on random images: for each method, "fedavg clipped at 1" too, so many seeds."""
    if backend == "fused":
        needs_triton()
    torch.manual_seed(0)
    model, shape = cnn(bench)
    samples, clients, each = bench.size((500, 100, CLIENTS), (4, 3, 2))
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
                clip=float(clip) if clip else None, participants=each, seed=seed,
            ) for seed in range(seeds)
        ]  # fmt: skip
        pipeline = Pipeline((0.5,) * shape[0], (0.25,) * shape[0], "batch_aug")
        found.append(
            Simulation(federations, gradients, batching=Batching(BATCH), pipeline=pipeline)
        )
    return found
