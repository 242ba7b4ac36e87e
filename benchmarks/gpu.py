"""All that a short time with a GPU should answer, in order of worth; then real cells.

    python benchmarks/gpu.py --out DIR [--minutes 8] [--stages environment,tune,...] [--data DIR]

Needs torch, torchvision, numpy and Triton alone. Every stage writes its figures to DIR/gpu.json
when it is done; a stage that fails is recorded and the next one begins. `--toy` runs everything at
a small size, on a CPU in Triton's interpreter if need be.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

import torch
import torch.nn.functional as F
from anymodel import ResidentLoop, others_models
from divergence import divergence
from torch import Tensor

from cells import cells
from fedgloss.algorithms import build_algorithm, resolve_hyperparameters
from fedgloss.algorithms.core import factors, mean
from fedgloss.engine.assembly import build_gradients
from fedgloss.engine.backends.autograd import AutogradGradients
from fedgloss.engine.backends.fused import FusedGradients
from fedgloss.engine.backends.graph import CudaGraph, Replay
from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.elementwise import Lazy, computed
from fedgloss.engine.federation import Simulation, advance, federation
from fedgloss.engine.flat import flatten
from fedgloss.engine.start import prepared
from fedgloss.models import build_model

HYPERPARAMETERS = {"mu": 0.01, "alpha": 0.1, "beta": 10.0, "rho": 0.15, "rho_l": 0.15}
HYPERPARAMETERS |= {"lambda": 10.0, "T_s": 2000, "rho0": 0.001}
K, B = 5, 64
CANDIDATES = {
    "convolution_forward": [
        (128, 64, 64, 4, 3), (128, 64, 64, 8, 3), (128, 64, 32, 4, 4), (256, 64, 64, 8, 3),
        (256, 64, 32, 8, 3), (64, 64, 64, 4, 3), (128, 64, 64, 4, 4),
    ],
    "convolution_forward, thin": [
        (128, 64, 32, 4, 3), (128, 64, 32, 8, 3), (256, 64, 32, 8, 2), (128, 64, 64, 4, 2),
        (128, 64, 128, 4, 1), (256, 64, 128, 8, 1), (64, 64, 32, 4, 4), (64, 64, 64, 4, 2),
        (64, 64, 128, 4, 1), (128, 64, 32, 4, 4), (128, 64, 32, 4, 2), (128, 64, 128, 8, 1),
    ],
    "convolution_input_gradient": [
        (128, 64, 64, 4, 3), (128, 64, 64, 8, 3), (128, 64, 32, 4, 4), (256, 64, 64, 8, 3),
        (256, 64, 32, 8, 3), (64, 64, 64, 4, 3), (128, 64, 64, 4, 4),
    ],
    "convolution_weight_gradient": [
        (64, 128, 32, 4, 3), (64, 128, 64, 4, 3), (64, 64, 64, 4, 3), (64, 256, 32, 8, 2),
        (64, 256, 32, 8, 3), (64, 128, 64, 8, 3), (64, 256, 64, 8, 3), (64, 64, 128, 4, 2),
        (64, 64, 128, 4, 2, 264), (64, 64, 128, 4, 2, 1056), (64, 64, 128, 4, 3),
        (64, 64, 256, 4, 1), (64, 128, 128, 4, 2), (64, 128, 64, 4, 3, 264),
        (64, 128, 64, 4, 3, 1056), (64, 64, 128, 8, 2),
    ],
    "convolution_weight_gradient, thin": [
        (64, 128, 128, 4, 1), (64, 128, 128, 4, 1, 264), (64, 128, 128, 4, 1, 1056),
        (64, 128, 128, 8, 1), (64, 128, 256, 8, 1), (64, 128, 64, 4, 1), (64, 128, 64, 8, 1),
        (64, 128, 32, 4, 1),
    ],
    "linear_forward": [
        (64, 32, 64, 4, 3), (64, 16, 128, 4, 3), (64, 32, 128, 4, 3), (64, 64, 64, 4, 3),
        (64, 32, 128, 8, 2),
    ],
    "linear_input_gradient": [
        (64, 32, 64, 4, 3), (64, 64, 64, 4, 3), (64, 128, 64, 8, 3), (64, 64, 32, 4, 3),
    ],
    "linear_weight_gradient": [
        (64, 64, 64, 4, 2), (128, 64, 64, 4, 2), (64, 128, 64, 4, 2), (64, 64, 64, 8, 1),
    ],
}  # fmt: skip
"""Tiles to try: BLOCK_M, BLOCK_N, BLOCK_K, warps, stages, and how many programs to split for."""
LAYER = {
    "convolution_forward": "3", "convolution_forward, thin": "0",
    "convolution_input_gradient": "3", "convolution_weight_gradient": "3",
    "convolution_weight_gradient, thin": "0", "linear_forward": "7",
    "linear_input_gradient": "7", "linear_weight_gradient": "7",
}  # fmt: skip
"""The CNN's layer on which each kernel is tuned."""


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


def environment(bench: Bench) -> dict:
    facts = {"torch": torch.__version__, "python": sys.version.split()[0], "cores": os.cpu_count()}
    with contextlib.suppress(ImportError):
        import triton

        facts["triton"] = triton.__version__
    if bench.cuda:
        properties = torch.cuda.get_device_properties(0)
        facts |= {"gpu": properties.name, "multiprocessors": properties.multi_processor_count,
                  "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}  # fmt: skip
        a = torch.randn(2**28, device="cuda")
        b = torch.empty_like(a)
        facts["copy_TB_s"] = 2 * a.nbytes / seconds(lambda: b.copy_(a), 5) / 1e12
        for dtype in (torch.float32, torch.float16):
            x, y = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
            facts[f"matmul_{dtype}_TF_s"] = 2 * 8192**3 / seconds(lambda x=x, y=y: x @ y, 4) / 1e12
    return facts


def warm(bench: Bench) -> dict:
    """A few rounds, so that Triton's cache has their kernels."""
    for precision in bench.options.precisions:
        for methods in ({"fedgloss": 1}, {"fedsmoo": 1}, {"fedavg": 2}, {"feddyn": 1}):
            advance(simulations(bench, methods, "fused", precision))
            recorded = Replay(simulations(bench, methods, "fused", precision), CudaGraph)
            for _ in range(3):
                recorded.advance()
    torch.cuda.synchronize()
    return {}


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


def part(gradients: FusedGradients, name: str, W: Tensor, x: Tensor, y: Tensor, counts: Tensor):
    """One layer's share of the work as a function to call."""
    g = gradients
    x = g._as_stored(x)
    out, scale = torch.empty_like(W), torch.ones(len(W), device=W.device)
    inputs = []
    for i, block in enumerate(g.blocks):
        inputs.append(x)
        if block.is_convolution:
            last = not g.blocks[i + 1].is_convolution
            x, code, packed = g._convolve(block, W, x, last)
            x = x.flatten(2) if last else x
            kept = (code, packed)
        else:
            x = g._linear(block, W, x, last=i + 1 == len(g.blocks))
        if block.prefix == LAYER[name]:
            break
    x, d = inputs[-1], torch.randn_like(x.float()).to(g.dtype)
    last = block.is_convolution and not g.blocks[i + 1].is_convolution
    if name.startswith("convolution_forward"):
        return lambda: g._convolve(block, W, x, last)
    if name.startswith("convolution"):
        need = "input" in name
        code = kept[0]
        return lambda: g._convolve_back(
            block,
            x,
            d.view_as(code),
            code,
            kept[1],
            scale,
            out,
            last,
            False,
            need or LAYER[name] == "3",
        )
    if name == "linear_forward":
        return lambda: g._linear(block, W, x, last=False)
    if name == "linear_input_gradient":
        return lambda: g._linear_inputs(block, W, x, d, False)
    return lambda: g._linear_weights(block, x, d, scale, out)


def _compile(job: tuple[argparse.Namespace, str, str, tuple[int, ...]]) -> str | None:
    """Compile one candidate, so that Triton's cache has it."""
    options, precision, name, tile = job
    try:
        bench = Bench(options)
        gradients, *inputs = fused(bench, precision)
        gradients.tiles[name] = as_tile(tile)
        part(gradients, name, *inputs)()
        torch.cuda.synchronize()
    except Exception as error:
        return f"{precision} {name} {tile}: {str(error).splitlines()[:1]}"
    return None


def as_tile(tile: tuple[int, ...]) -> dict[str, int]:
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages", "PROGRAMS")
    return dict(zip(names, tile, strict=False))


def tune(bench: Bench) -> dict:
    """Every kernel with every candidate tile, microseconds; the best ones are used from here on."""
    if not bench.cuda:
        return {}
    precisions = bench.options.precisions
    jobs = [
        (bench.options, precision, name, tile)
        for name, tiles in CANDIDATES.items()
        for tile in tiles
        for precision in precisions
    ]
    begun = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(14) as pool:
        failed = [line for line in pool.map(_compile, jobs, chunksize=2) if line]
    found: dict = {"compile_seconds": time.monotonic() - begun, "failed": failed}
    print("compiled", found["compile_seconds"], *failed, sep="\n", flush=True)
    for precision in precisions:
        gradients, *inputs = fused(bench, precision)
        for name, tiles in CANDIDATES.items():
            times = {}
            for tile in tiles:
                gradients.tiles[name] = as_tile(tile)
                with contextlib.suppress(Exception):
                    times[tile] = 1e6 * seconds(part(gradients, name, *inputs))
            if times:
                best = min(times, key=times.get)
                gradients.tiles[name] = as_tile(best)
                bench.tiles.setdefault(precision, {})[name] = as_tile(best)
                found[f"{precision} {name}"] = {str(t): round(v, 1) for t, v in times.items()}
                print(precision, name, best, found[f"{precision} {name}"], flush=True)
    if bench.options.tiles:
        bench.options.tiles.write_text(json.dumps(bench.tiles))
    return found


def accuracy(bench: Bench) -> dict:
    """Relative error of a cohort's gradient against float64, by precision."""
    found = {}
    _, W, x, y, _ = fused(bench, "float32")
    counts = torch.tensor([B, B, B - 12, B, 1], device=bench.device)
    model, _ = cnn(bench)
    torch.set_num_threads(os.cpu_count() or 1)
    double = AutogradGradients(model.double().cpu(), F.cross_entropy)
    exact = double(W.double().cpu(), x.double().cpu(), y.cpu(), counts.tolist())
    torch.set_num_threads(1)
    for precision in ("float32", "tf32x3", "tf32", "float16", "bfloat16"):
        try:
            gradients, W, x, y, _ = fused(bench, precision)
            g = gradients(W, x, y, counts).double().cpu()
            again = gradients(W, x, y, counts).double().cpu()
            error = (g - exact).norm(dim=1) / exact.norm(dim=1)
            found[precision] = {"relative": error.tolist(), "same_bits": bool((g == again).all())}
            begin = 0
            for name, parameter in model.named_parameters():
                here = slice(begin, begin + parameter.numel())
                begin = here.stop
                gap = (g[:, here] - exact[:, here]).norm() / exact[:, here].norm()
                found[precision][name] = float(gap)
        except Exception as error:
            found[precision] = f"{type(error).__name__}: {error}"
        print(precision, found[precision], flush=True)
    return found


def simulations(
    bench: Bench, methods: dict[str, int], backend: str = "fused", precision: str = "tf32",
    samples: int = 500, clients: int = 100,
) -> list[Simulation]:  # fmt: skip
    """Simulations on random images: for each method so many seeds, stacked."""
    torch.manual_seed(0)
    model, shape = cnn(bench)
    if bench.options.toy:
        samples, clients = 20, 6
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (clients * samples, *shape), generator=generator)
    labels = torch.randint(0, 10, (clients * samples,), generator=generator).to(bench.device)
    indices = torch.arange(clients * samples).split(samples)
    data = ClientData(images.to(torch.uint8).to(bench.device), labels, indices)
    gradients = build_gradients(backend, model, F.cross_entropy, precision)
    if isinstance(gradients, FusedGradients):
        gradients.tiles |= bench.tiles.get(precision, {})
    found = []
    for method, seeds in methods.items():
        algorithm = build_algorithm(method)
        known = {k: v for k, v in HYPERPARAMETERS.items() if k in algorithm.hyperparameters}
        hyper = resolve_hyperparameters(algorithm, known)
        federations = [
            federation(algorithm, hyper, flatten(model), data, lr=0.01, weight_decay=4e-4,
                       participants=K, seed=seed) for seed in range(seeds)
        ]  # fmt: skip
        pipeline = Pipeline((0.5,) * shape[0], (0.25,) * shape[0], "batch_aug")
        found.append(Simulation(federations, gradients, batching=Batching(B), pipeline=pipeline))
    return found


def timed_rounds(some: list[Simulation], rounds: int, record: bool = True) -> tuple[float, float]:
    """Seconds a round: as seen by a user, and the host's part alone."""
    if record:
        recorded = Replay(some, CudaGraph)
        step = recorded.advance
    else:
        step = lambda: advance(some)  # noqa: E731
    for _ in range(4 if record else 1):
        step()
    torch.cuda.synchronize()
    begun, host = time.perf_counter(), 0.0
    for _ in range(rounds):
        step()
    host = time.perf_counter() - begun
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) / rounds, host / rounds


SAM5 = {"fedgloss": 1, "fedsam": 1, "fedsmoo": 1, "feddyn-sam": 1}


def rounds(bench: Bench) -> dict:
    """A captured round of the CNN alone and with other cells, by precision and backend."""
    found = {}
    cases = [({"fedgloss": 1}, "fused", p) for p in bench.options.precisions]
    cases += [({"fedgloss": n}, "fused", p) for n in (2, 4) for p in bench.options.precisions]
    cases += [({"fedavg": 1}, "fused", bench.options.precisions[0])]
    cases += [({method: 3 for method in SAM5}, "fused", bench.options.precisions[-1])]
    cases += [
        ({**SAM5, "fedavg": 1, "fedgloss-sgd": 1}, "fused", p) for p in bench.options.precisions
    ]
    for methods, backend, precision in cases:
        name = f"{backend} {precision} {methods}"
        try:
            wall, host = timed_rounds(simulations(bench, methods, backend, precision), 40)
            found[name] = {"ms": 1e3 * wall, "host_ms": 1e3 * host}
        except Exception as error:
            traceback.print_exc()
            found[name] = f"{type(error).__name__}: {error}"
        print(name, found[name], flush=True)
    return found


def profile(bench: Bench) -> dict:
    """The kernels of one FedGloSS + SAM round: calls and microseconds."""
    found = {}
    for precision in bench.options.precisions:
        some = simulations(bench, {"fedgloss": 1}, "fused", precision)
        recorded = Replay(some, CudaGraph)
        for _ in range(4):
            recorded.advance()
        torch.cuda.synchronize()
        activity = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[activity.CUDA, activity.CPU]) as seen:
            recorded.advance()
            torch.cuda.synchronize()
        rows = sorted(
            ((e.key[:60], e.count, e.self_device_time_total) for e in seen.key_averages()
             if e.self_device_time_total), key=lambda row: -row[2])  # fmt: skip
        found[precision] = {"kernels": sum(r[1] for r in rows), "us": sum(r[2] for r in rows),
                            "rows": rows[:40]}  # fmt: skip
        print(precision, found[precision]["kernels"], found[precision]["us"])
        for row in rows[:32]:
            print(f"{row[2]:9.0f} us {row[1]:5d}  {row[0]}", flush=True)
    return found


ALIKE = (
    {"fedavg": 1}, {"fedsam": 1}, {"fedgloss": 1}, {"fedsmoo": 1}, {"fedgloss": 1, "fedsmoo": 1},
)  # fmt: skip
"""What is trained again and again: methods alone, and two side by side."""


def determinism(bench: Bench) -> dict:
    """The same bits again? Of each part of a round, and of the models after each of 8 rounds.

    A part that differs only side by side with others depends on timing; gradients say in which
    layers. Where all parts agree and rounds do not, the graph or the state is to blame.
    """
    found = {}
    for precision in bench.options.precisions:
        for name, again in parts_of_a_round(bench, precision).items():
            found[f"{precision}, {name}"] = again()
            print(precision, name, found[f"{precision}, {name}"], flush=True)
        for methods in ALIKE:
            runs = [models(bench, methods, precision) for _ in range(3)]
            runs.append(models(bench, methods, precision, interrupted=4))
            gaps = [first_gap(runs[0], run) for run in runs[1:]]
            found[f"{precision}, {methods}"] = {
                "first round that differs, run again twice": gaps[:2],
                "first round that differs, interrupted after 4": gaps[2],
            }
            print(precision, methods, gaps, flush=True)
    return found


def parts_of_a_round(bench: Bench, precision: str) -> dict[str, Callable[[], dict]]:
    """What `repeated` says of gradients, and of the arithmetic of SAM and of averaging."""
    gradients, W, x, y, counts = fused(bench, precision)
    g, w = gradients(W, x, y, counts)[None], W[None]
    share = torch.full((1, K, 1), 1 / K, device=W.device)

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
        name: lambda part=part, name=name: repeated(part, layers if name == "gradients" else {})
        for name, part in parts.items()
    }


def repeated(
    part: Callable[[], Tensor], layers: dict[str, slice], calls: int = 8, replays: int = 10
) -> dict:
    """How often a part's result differs from the first: alone, and recorded four times abreast."""
    first = part()
    alone = [part() for _ in range(calls)]
    abreast: list[Tensor] = []

    def branch() -> None:
        abreast.extend(part() for _ in range(calls))

    graph = CudaGraph()
    graph.record([branch] * 4)
    wrong, where = 0, set()
    for _ in range(replays):
        graph.replay()
        for result in abreast:
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
    bench: Bench, methods: dict[str, int], precision: str, interrupted: int = 0
) -> list[list[bytes]]:
    """The bytes of all models after each of 8 recorded rounds, in two parts if `interrupted`."""
    found: list[list[bytes]] = []
    kept: list = []
    for rounds in (interrupted, 8 - interrupted) if interrupted else (8,):
        some = simulations(bench, methods, "fused", precision)
        for simulation, state in zip(some, kept, strict=False):
            simulation.load_state([state], interrupted)
        recorded = Replay(some, CudaGraph)
        for _ in range(rounds):
            recorded.advance()
            found.append([s.w.cpu().numpy().tobytes() for s in some])
        kept = [{n: v.clone().cpu() for n, v in s.state(0).items()} for s in some]
    return found


def agreement(bench: Bench) -> dict:
    """Recorded rounds against autograd, client after client: relative to the way travelled."""
    methods = {"fedgloss": 1, "fedavg": 1}
    start = [s.w[0].clone() for s in simulations(bench, methods, "autograd", "float32")]
    exact = simulations(bench, methods, "autograd", "float32")
    with prepared(bench.device, precision="float32"):
        for _ in range(6):
            for simulation in exact:
                advance([simulation])
    found = {}
    for precision in bench.options.precisions:
        some = simulations(bench, methods, "fused", precision)
        recorded = Replay(some, CudaGraph)
        for _ in range(6):
            recorded.advance()
        found[precision] = [
            float((a.w[0] - b.w[0]).norm() / (b.w[0] - w).norm())
            for a, b, w in zip(some, exact, start, strict=True)
        ]
    worst = max(gap for gaps in found.values() for gap in gaps)
    print(found, "AGREES" if worst < 0.2 else "DIFFERS", flush=True)
    return found


def plain(bench: Bench) -> dict:
    """A plain loop on the same card, ms a round: with a DataLoader, and with resident images."""
    from plain import Images, Net, PlainLoop

    found = {}
    images = torch.randint(0, 256, (100 * 500, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (100 * 500,))
    clients = [range(500 * k, 500 * (k + 1)) for k in range(100)]
    resident = images.to(bench.device), labels.to(bench.device)
    for sam in (False, True):
        for kind, data in ((PlainLoop, Images(images, labels, True)), (ResidentLoop, resident)):
            loop = kind(Net().to(bench.device), data, clients, B, sam=sam)
            loop.round(range(K))
            begun = time.perf_counter()
            loop.round(range(K))
            if bench.cuda:
                torch.cuda.synchronize()
            name = f"{kind.__name__}, {'SAM' if sam else 'SGD'}"
            found[name] = 1e3 * (time.perf_counter() - begun)
            print(name, found[name], flush=True)
    return found


def other_models(bench: Bench) -> dict:
    """Models that the fused kernels cannot train: ResNet18, MobileNetV2."""
    return others_models(bench, limit=min(60.0, bench.left() - 5))


def others(bench: Bench) -> dict:
    """The other backends and a plain loop on the same card, seconds a round of FedGloSS + SAM."""
    from fedgloss.engine.backends import convolution

    found = {}
    for way in ("patches", "cudnn"):
        if way == "cudnn":
            convolution.Convolution._way = lambda self, x: convolution.OneByOne(self.padding)
        for backend in ("graph", "stacked"):
            name = f"{backend}, {way}"
            try:
                some = simulations(bench, {"fedgloss": 1}, backend)
                wall, host = timed_rounds(some, 5, record=backend == "graph")
                found[name] = {"ms": 1e3 * wall, "host_ms": 1e3 * host}
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
            print(name, found[name], flush=True)
    for name in ("autograd",):
        wall, host = timed_rounds(simulations(bench, {"fedgloss": 1}, "autograd"), 2, record=False)
        found[name] = {"ms": 1e3 * wall, "host_ms": 1e3 * host}
        print(name, found[name], flush=True)
    return found


STAGES = {
    f.__name__: f
    for f in (
        environment,
        warm,
        tune,
        accuracy,
        agreement,
        rounds,
        profile,
        determinism,
        plain,
        other_models,
        others,
        divergence,
        cells,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--precisions", default="tf32,float16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiles", type=Path, help="file of tuned tiles, written by `tune`")
    parser.add_argument("--data", type=Path, help="prepared data, partitions, and cells.json")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    options.precisions = options.precisions.split(",")
    bench = Bench(options)
    for name in options.stages.split(","):
        if bench.left() < 5:
            print(f"{name}: the time is up", flush=True)
            break
        begun = time.monotonic()
        print(f"== {name}", flush=True)
        try:
            bench.found[name] = STAGES[name](bench)
        except Exception as error:
            traceback.print_exc()
            bench.found[name] = f"{type(error).__name__}: {error}"
        bench.found["stages"][name] = round(time.monotonic() - begun, 1)
        print(f"== {name}: {bench.found['stages'][name]} s", flush=True)
        bench.write()


if __name__ == "__main__":
    main()
