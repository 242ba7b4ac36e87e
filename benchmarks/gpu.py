"""All that a short time with a GPU should answer, in order of worth; then real cells.

    python benchmarks/gpu.py --out DIR [--minutes 8] [--stages environment,tune,...] [--data DIR]

Needs torch, torchvision, numpy and Triton alone. Every stage writes its figures to DIR/gpu.json
when it is done; a stage that fails is recorded and the next one begins. `--toy` runs everything at
a small size, on a CPU in Triton's interpreter if need be.
"""

import argparse
import contextlib
import os
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

import torch
import torch.nn.functional as F
from anymodel import ResidentLoop, loaders, others_models
from bench import B, Bench, K, cnn, fused, seconds, simulations
from curvature import curvature
from divergence import divergence
from repeats import determinism
from tiles import candidates, tune

from cells import cells
from fedgloss.engine.backends.autograd import AutogradGradients
from fedgloss.engine.backends.graph import CudaGraph, Replay
from fedgloss.engine.federation import Simulation, advance
from fedgloss.engine.start import prepared


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
        for methods in ({"fedgloss": 1}, {"fedsmoo clipped at 1": 1}, {"fedavg": 2}, {"feddyn": 1}):
            advance(simulations(bench, methods, "fused", precision))
            recorded = Replay(simulations(bench, methods, "fused", precision), CudaGraph)
            for _ in range(3):
                recorded.advance()
    torch.cuda.synchronize()
    return {}


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
             if e.self_device_time_total and e.device_type == torch.autograd.DeviceType.CUDA),
            key=lambda row: -row[2])  # fmt: skip
        found[precision] = {"kernels": sum(r[1] for r in rows), "us": sum(r[2] for r in rows),
                            "rows": rows[:40]}  # fmt: skip
        print(precision, found[precision]["kernels"], found[precision]["us"])
        for row in rows[:32]:
            print(f"{row[2]:9.0f} us {row[1]:5d}  {row[0]}", flush=True)
    return found


def agreement(bench: Bench) -> dict:
    """Recorded rounds against autograd, client after client: relative to the way travelled."""
    methods = {"fedgloss": 1, "fedavg": 1, "fedsmoo clipped at 1": 1}
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
        candidates,
        tune,
        accuracy,
        agreement,
        rounds,
        profile,
        determinism,
        plain,
        other_models,
        loaders,
        curvature,
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
