"""Models that the fused kernels cannot train, on the device at hand: a stage of benchmarks/gpu.py.

ResNet18 in rounds of ten clients with 500 images, by `recorded`, by `autograd` and by a plain loop;
how far recorded gradients are from autograd's; MobileNetV2 at 224 x 224 pixels. Needs torch,
torchvision and numpy alone. Without CUDA nothing is recorded, a gradient is asked for again.
"""

import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from bench import Bench, NotMeasured
from plain import Images, PlainLoop
from torch import Tensor

from fedgloss.algorithms import build_algorithm, resolve_hyperparameters
from fedgloss.engine.assembly import build_gradients
from fedgloss.engine.backends.recorded import RecordedGradients
from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.cohort import Gradients
from fedgloss.engine.federation import Simulation, advance, federation
from fedgloss.engine.flat import flatten
from fedgloss.engine.start import prepared
from fedgloss.models import build_model

HYPERPARAMETERS = {"fedavg": {}, "fedgloss": {"rho": 0.15, "rho_l": 0.15, "beta": 10.0, "T_s": 0}}
LANES = (1, 2, 4, 5, 10)


class AgainLane:
    """A lane where there is no GPU: it records nothing and asks for everything again."""

    def begin(self) -> None:
        pass

    end = begin

    def opened(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def free_memory(self) -> float:
        return 1e12


class ResidentLoop(PlainLoop):
    """The plain loop with its data, images and labels, on the device: no DataLoader.

    One crop and one flip for a mini-batch, as in the rounds that it is compared with.
    """

    def batches(self, k: int) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.data
        own = torch.tensor(self.clients[k], device=images.device)
        order = own[torch.randperm(len(own), device=images.device)]
        for index in order.split(self.batch_size):
            top, left = random.randrange(9), random.randrange(9)
            height, width = images.shape[-2:]
            x = F.pad(images[index], (4,) * 4)[..., top : top + height, left : left + width]
            x = x.flip(-1) if random.random() < 0.5 else x
            yield (x.float() / 255 - 0.5) / 0.25, labels[index]


class Rounds:
    """ResNet18 on random images, in rounds of K clients."""

    def __init__(self, bench: Bench) -> None:
        self.device, self.cuda, self.size = bench.device, bench.cuda, bench.size
        self.K, samples, self.batch, clients = bench.size((10, 500, 64, 20), (2, 2, 2, 2))
        self.lanes = bench.size(LANES, (1, 2))
        torch.manual_seed(0)
        self.model = build_model("resnet18", (3, 32, 32), 10).to(self.device)
        self.images = torch.randint(0, 256, (clients * samples, 3, 32, 32)).to(torch.uint8)
        self.labels = torch.randint(0, 10, (clients * samples,))
        self.clients = [range(k * samples, (k + 1) * samples) for k in range(clients)]

    def gradients(self, backend: str) -> Gradients:
        return _gradients(self.cuda, backend, self.model)

    def simulation(self, method: str, gradients: Gradients) -> Simulation:
        data = ClientData(
            self.images.to(self.device),
            self.labels.to(self.device),
            tuple(torch.tensor(own) for own in self.clients),
        )
        algorithm = build_algorithm(method)
        hyper = resolve_hyperparameters(algorithm, HYPERPARAMETERS[method])
        own = federation(
            algorithm,
            hyper,
            flatten(self.model),
            data,
            lr=0.01,
            weight_decay=4e-4,
            participants=self.K,
            seed=0,
        )
        pipeline = Pipeline((0.5,) * 3, (0.25,) * 3, "batch_aug")
        return Simulation([own], gradients, batching=Batching(self.batch), pipeline=pipeline)

    def ours(self, method: str, backend: str, rounds: int, plain: bool = False) -> dict:
        """plain: the method's arithmetic operation by operation, not a kernel for each line."""
        gradients: Any = self.gradients(backend)
        gradients.lazy = getattr(gradients, "lazy", False) and not plain
        simulation = self.simulation(method, gradients)
        found = _times(self.cuda, lambda: advance([simulation]), 1 + self.size(rounds, 1))
        return {"ms": found[1:], "first_ms": found[0], **_facts(gradients)}

    def plain(self, method: str, resident: bool, rounds: int) -> dict:
        torch.backends.cudnn.deterministic = False  # as PyTorch has it by itself
        if resident:
            data: Any = (self.images.to(self.device), self.labels.to(self.device))
        else:
            data = Images(self.images, self.labels, augmented=True)
        kind = ResidentLoop if resident else PlainLoop
        loop = kind(self.model, data, self.clients, self.batch, sam=method == "fedgloss")
        found = _times(self.cuda, lambda: loop.round(range(self.K)), 1 + self.size(rounds, 1))
        return {"ms": found[1:], "first_ms": found[0]}

    def gradient(self) -> dict:
        """One gradient of each client: how exact, and how fast with so many lanes."""
        W = flatten(self.model).repeat(self.K, 1)
        W += 0.01 * torch.randn_like(W)
        x = torch.randn(self.K, self.batch, 3, 32, 32, device=self.device)
        y = torch.randint(0, 10, (self.K, self.batch), device=self.device)
        return _compared(self.cuda, self.model, W, x, y, self.lanes)


def mobilenet(bench: Bench) -> dict:
    """MobileNetV2 with Landmarks' classes: the gradient of one client's mini-batch."""
    side, batch, classes = bench.size((224, 64, 2028), (32, 2, 10))
    torch.manual_seed(0)
    model = build_model("mobilenetv2", (3, side, side), classes).to(bench.device)
    W = flatten(model)[None]
    x = torch.randn(1, batch, 3, side, side, device=bench.device)
    y = torch.randint(0, classes, (1, batch), device=bench.device)
    return _compared(bench.cuda, model, W, x, y, (1,))


def others_models(bench: Bench, limit: float = 60.0) -> dict:
    """All figures by name; those for which `limit` seconds do not suffice say so."""
    until = time.monotonic() + min(limit, bench.left())
    rounds = Rounds(bench)
    found: dict[str, Any] = {}

    def part(name: str, precision: str, work: Callable[..., dict], *options: Any) -> None:
        def timed() -> dict:
            if time.monotonic() >= until:
                raise NotMeasured("no time left")
            begun = time.monotonic()
            with prepared(bench.device, precision=precision if bench.cuda else "float32"):
                figures = work(*options)
            return figures | {"seconds": round(time.monotonic() - begun, 1)}

        bench.part(found, f"{name}, {precision}", timed)
        gc.collect()  # of this part's graphs nothing is left for the next one
        if bench.cuda:
            torch.cuda.empty_cache()

    def compare(method: str, precision: str) -> None:
        part(f"{method}, recorded", precision, rounds.ours, method, "recorded", 3)
        part(f"{method}, autograd", precision, rounds.ours, method, "autograd", 2)
        part(f"{method}, resident loop", precision, rounds.plain, method, True, 2)

    part("gradient of ResNet18", "tf32", rounds.gradient)
    compare("fedgloss", "tf32")
    compare("fedavg", "tf32")
    part("gradient of MobileNetV2", "tf32", mobilenet, bench)
    if bench.cuda:  # whose kernels alone have lines, and TF32
        name = "fedgloss, recorded, plain arithmetic"
        part(name, "tf32", rounds.ours, "fedgloss", "recorded", 3, True)
        part("gradient of ResNet18", "float32", rounds.gradient)
        compare("fedgloss", "float32")
        compare("fedavg", "float32")
        part("gradient of MobileNetV2", "float32", mobilenet, bench)
    return found


def loaders(bench: Bench) -> dict:
    """ResNet18 in a plain loop with a DataLoader, as others write it."""
    rounds = Rounds(bench)
    found = {}
    for method in HYPERPARAMETERS:
        with prepared(bench.device, precision="tf32" if bench.cuda else "float32"):
            found[method] = rounds.plain(method, False, 2)
        print(method, found[method], flush=True)
    return found


def _gradients(cuda: bool, backend: str, model: torch.nn.Module) -> Gradients:
    if backend == "recorded" and not cuda:
        return RecordedGradients(model, F.cross_entropy, new_lane=AgainLane)
    return build_gradients(backend, model, F.cross_entropy)


def _compared(
    cuda: bool, model: torch.nn.Module, W: Tensor, x: Tensor, y: Tensor, lanes: tuple[int, ...]
) -> dict:
    """Recorded gradients against autograd's: relative errors, bits, and milliseconds a call."""
    counts = [x.shape[1]] * len(x)
    eager: Any = _gradients(cuda, "autograd", model)
    recorded: Any = _gradients(cuda, "recorded", model)
    expected = eager(W, x, y, counts)
    copied = [eager.gradient(*(t[k].clone() for t in (W, x, y))) for k in range(len(W))]
    found: dict[str, Any] = {}
    for most in lanes:
        recorded.most_lanes = most
        first, again = recorded(W, x, y, counts), recorded(W, x, y, counts)
        gap = (first - expected).norm(dim=1) / expected.norm(dim=1)
        ms = min(_times(cuda, lambda: recorded(W, x, y, counts), 5))
        found[f"{most} lanes"] = {
            "relative_error": float(gap.max()),
            "bits_of_autograd": torch.equal(first, expected),
            "bits_of_autograd_on_copies": torch.equal(first, torch.stack(copied)),
            "same_bits_twice": torch.equal(first, again),
            "ms": ms,
        }
    found["autograd_same_bits_twice"] = torch.equal(expected, eager(W, x, y, counts))
    found["autograd_ms"] = min(_times(cuda, lambda: eager(W, x, y, counts), 3))
    return found | _facts(recorded)


def _facts(gradients: Gradients) -> dict:
    """What became of the recordings."""
    if not isinstance(gradients, RecordedGradients):
        return {}
    lanes = gradients.lanes
    return {
        "gave_up": gradients.gave_up,
        "lanes": len(lanes),
        "GB_in_lanes": sum(lane.bytes for lane in lanes) / 1e9 if lanes else 0.0,
    }


def _times(cuda: bool, work: Callable[[], object], calls: int) -> list[float]:
    """Milliseconds of each call, the device's work included."""
    found = []
    for _ in range(calls):
        if cuda:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        found.append(round(1e3 * (time.perf_counter() - begun), 3))
    return found
