"""All that a short time with a GPU should answer, in order of worth; then real cells.

    python benchmarks/gpu.py --out DIR [--minutes 8] [--stages environment,tune,...] [--data DIR]

Needs torch, torchvision, numpy and Triton alone. Every stage writes its figures to DIR/gpu.json
when it is done; a stage that fails is recorded, the next one begins, and the exit code is 1 at the
end; it is 3 where stages are left out for lack of time. One that outlasts the time by a minute
hangs: then the process ends, and says where it was. `--toy` runs everything at a small size,
without a GPU too: kernels then run in Triton's interpreter, and what would be recorded is asked for
again each time. A stage that has nothing to measure there says so.
"""

import time

BEGUN = time.monotonic()  # on a fresh machine importing torch takes long

import argparse
import contextlib
import faulthandler
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

HANGS = 60.0
"""Seconds by which what still runs has outlasted its time when it is taken to hang."""
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

import torch
import torch.nn.functional as F
from anymodel import ResidentLoop, loaders, others_models
from bench import BATCH, CLIENTS, Bench, NotMeasured, cnn, fused, seconds, simulations
from curvature import curvature
from divergence import divergence
from repeats import determinism, repeated_rounds
from tiles import candidates, tune

from cells import cells
from fedgloss.engine.backends import convolution, cudnn
from fedgloss.engine.backends.autograd import AutogradGradients
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
        facts["copy_TB_s"] = 2 * a.nbytes / seconds(bench, lambda: b.copy_(a), 5) / 1e12
        for dtype in (torch.float32, torch.float16):
            x, y = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
            took = seconds(bench, lambda x=x, y=y: x @ y, 4)
            facts[f"matmul_{dtype}_TF_s"] = 2 * 8192**3 / took / 1e12
    return facts


WARM = "fedsmoo clipped at 1=1,fedgloss=1,fedavg=2,feddyn=1"


def warm(bench: Bench) -> dict:
    """Recorded rounds of `--warm`, so that Triton's cache has their kernels; seconds of each."""
    found: dict = {}
    cases = [case.rsplit("=", 1) for case in bench.options.warm.split(",")]
    for precision in bench.options.precisions:
        for method, count in bench.size(cases, cases[:1]):

            def timed(precision: str = precision, methods: dict = {method: int(count)}) -> float:
                begun = time.monotonic()
                recorded = bench.replay(simulations(bench, methods, "fused", precision))
                for _ in range(4):
                    recorded.advance()
                bench.wait()
                return time.monotonic() - begun

            bench.part(found, f"{precision} {method}={count}", timed)
    return found


def accuracy(bench: Bench) -> dict:
    """Relative error of a cohort's gradient against float64, by precision."""
    found: dict = {}
    _, W, x, y, counts = fused(bench, "float32")
    counts[1], counts[-1] = counts[1] - 3, 1
    model, _ = cnn(bench)
    torch.set_num_threads(os.cpu_count() or 1)
    double = AutogradGradients(model.double().cpu(), F.cross_entropy)
    exact = double(W.double().cpu(), x.double().cpu(), y.cpu(), counts.tolist())
    torch.set_num_threads(1)

    def errors(precision: str) -> dict:
        if precision == "bfloat16" and not bench.cuda:
            raise NotMeasured("needs CUDA, Triton's interpreter has no bfloat16")
        gradients, W, x, y, _ = fused(bench, precision)
        g = gradients(W, x, y, counts).double().cpu()
        again = gradients(W, x, y, counts).double().cpu()
        error = (g - exact).norm(dim=1) / exact.norm(dim=1)
        found = {"relative": error.tolist(), "same_bits": bool((g == again).all())}
        begin = 0
        for name, parameter in model.named_parameters():
            here = slice(begin, begin + parameter.numel())
            begin = here.stop
            gap = (g[:, here] - exact[:, here]).norm() / exact[:, here].norm()
            found[name] = float(gap)
        return found

    for precision in ("float32", "tf32x3", "tf32", "float16", "bfloat16"):
        bench.part(found, precision, lambda precision=precision: errors(precision))
    return found


def timed_rounds(bench: Bench, some: list[Simulation], rounds: int, record: bool = True) -> dict:
    """Milliseconds a round: as seen by a user, and the host's part alone."""
    step = bench.replay(some).advance if record else partial(advance, some)
    for _ in range(bench.size(4, 3) if record else 1):
        step()
    bench.wait()
    begun, rounds = time.perf_counter(), bench.size(rounds, 1)
    for _ in range(rounds):
        step()
    host = time.perf_counter() - begun
    bench.wait()
    return {"ms": 1e3 * (time.perf_counter() - begun) / rounds, "host_ms": 1e3 * host / rounds}


SAM5 = {"fedgloss": 1, "fedsam": 1, "fedsmoo": 1, "feddyn-sam": 1}


def rounds(bench: Bench) -> dict:
    """A captured round of the CNN alone and with other cells, by precision."""
    found: dict = {}
    precisions = bench.options.precisions
    cases = [({"fedgloss": 1}, p) for p in precisions]
    cases += [({"fedgloss": n}, p) for n in (2, 4) for p in precisions]
    cases += [({"fedavg": 1}, precisions[0])]
    cases += [({method: 3 for method in SAM5}, precisions[-1])]
    cases += [({**SAM5, "fedavg": 1, "fedgloss-sgd": 1}, p) for p in precisions]
    for methods, precision in bench.size(cases, cases[:1]):

        def case(methods: dict = methods, precision: str = precision) -> dict:
            return timed_rounds(bench, simulations(bench, methods, "fused", precision), 40)

        bench.part(found, f"fused {precision} {methods}", case)
    return found


def profile(bench: Bench) -> dict:
    """The kernels of one FedGloSS + SAM round: calls and microseconds."""
    bench.needs_cuda()
    found = {}
    cases = {precision: ("fused", precision) for precision in bench.options.precisions}
    for name, case in {**cases, "graph, tf32": ("graph", "tf32")}.items():
        recorded = bench.replay(simulations(bench, {"fedgloss": 1}, *case))
        for _ in range(4):
            recorded.advance()
        bench.wait()
        activity = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[activity.CUDA, activity.CPU]) as seen:
            recorded.advance()
            bench.wait()
        rows = sorted(
            ((e.key[:60], e.count, e.self_device_time_total) for e in seen.key_averages()
             if e.self_device_time_total and e.device_type == torch.autograd.DeviceType.CUDA),
            key=lambda row: -row[2])  # fmt: skip
        found[name] = {"kernels": sum(r[1] for r in rows), "us": sum(r[2] for r in rows),
                       "rows": rows[:40]}  # fmt: skip
        print(name, found[name]["kernels"], found[name]["us"])
        for row in rows[:32]:
            print(f"{row[2]:9.0f} us {row[1]:5d}  {row[0]}", flush=True)
    return found


def agreement(bench: Bench) -> dict:
    """Recorded rounds against autograd, client after client: relative to the way travelled.

    A failure, if they differ by more than rounding explains: then nothing is worth training.
    """
    found = gaps_to_autograd(bench, {p: ("fused", p) for p in bench.options.precisions})
    if not all(gap < 0.2 for gaps in found.values() for gap in gaps):
        raise ValueError(f"the kernels differ from autograd, by {found}")
    return found


def gaps_to_autograd(bench: Bench, cases: dict[str, tuple[str, str]]) -> dict[str, list[float]]:
    """Of three methods' models after some rounds, for each case: a backend and a precision."""
    methods = {"fedgloss": 1, "fedavg": 1, "fedsmoo clipped at 1": 1}
    count = bench.size(6, 3)
    start = [s.w[0].clone() for s in simulations(bench, methods, "autograd", "float32")]
    exact = simulations(bench, methods, "autograd", "float32")
    with prepared(bench.device, precision="float32"):
        for _ in range(count):
            for simulation in exact:
                advance([simulation])
    found = {}
    for name, case in cases.items():
        some = simulations(bench, methods, *case)
        recorded = bench.replay(some)
        for _ in range(count):
            recorded.advance()
        found[name] = [
            float((a.w[0] - b.w[0]).norm() / (b.w[0] - w).norm())
            for a, b, w in zip(some, exact, start, strict=True)
        ]
    print(found, flush=True)
    return found


def plain(bench: Bench) -> dict:
    """A plain loop on the same card, ms a round: with a DataLoader, and with resident images."""
    from plain import Images, Net, PlainLoop

    found: dict = {}
    count, samples = bench.size((100, 500), (CLIENTS, 4))
    images = torch.randint(0, 256, (count * samples, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (count * samples,))
    clients = [range(samples * k, samples * (k + 1)) for k in range(count)]
    resident = images.to(bench.device), labels.to(bench.device)
    for sam in (False, True):
        for kind, data in ((PlainLoop, Images(images, labels, True)), (ResidentLoop, resident)):

            def timed(kind=kind, data=data, sam=sam) -> float:
                loop = kind(Net().to(bench.device), data, clients, BATCH, sam=sam)
                loop.round(range(CLIENTS))
                bench.wait()
                begun = time.perf_counter()
                loop.round(range(CLIENTS))
                bench.wait()
                return 1e3 * (time.perf_counter() - begun)

            bench.part(found, f"{kind.__name__}, {'SAM' if sam else 'SGD'}", timed)
    return found


def other_models(bench: Bench) -> dict:
    """Models that the fused kernels cannot train: ResNet18, MobileNetV2."""
    return others_models(bench, limit=min(60.0, bench.left() - 5))


def others(bench: Bench) -> dict:
    """The other backends, ms a round of FedGloSS + SAM; `graph` by each way to convolve on CUDA."""
    found: dict = {}
    as_it_is = contextlib.nullcontext

    def of(backend: str, precision: str, rounds: int, changed: Callable) -> dict:
        if backend == "recorded":
            bench.needs_cuda()
        precision = precision if bench.cuda else "float32"
        with changed(), prepared(bench.device, precision=precision):
            some = simulations(bench, {"fedgloss": 1}, backend, precision)
            return timed_rounds(bench, some, rounds, record=backend == "graph")

    for name, *case in (
        ("graph, cudnn, a stream a client, tf32", "graph", "tf32", 20, as_it_is),
        ("graph, cudnn, one stream, tf32", "graph", "tf32", 5, one_stream),
        ("graph, patches, tf32", "graph", "tf32", 5, patches),
        ("recorded, tf32", "recorded", "tf32", 5, as_it_is),
        ("stacked, tf32", "stacked", "tf32", 5, as_it_is),
        ("autograd, tf32", "autograd", "tf32", 2, as_it_is),
        ("graph, cudnn, a stream a client, float32", "graph", "float32", 5, as_it_is),
        ("recorded, float32", "recorded", "float32", 5, as_it_is),
    ):
        bench.part(found, name, partial(of, *case))
    # A missing wait between streams would show in numbers, or in their differing from run to run.
    graph = {"graph, gap to autograd": ("graph", "tf32")}
    bench.part(found, "agreement", partial(gaps_to_autograd, bench, graph))
    bench.part(found, "repeats", lambda: repeated_rounds(bench, "graph", "tf32", {"fedgloss": 1}))
    return found


def one_stream() -> contextlib.AbstractContextManager:
    """Clients' convolutions one after another."""
    return mock.patch.object(cudnn, "abreast", lambda works, device: [w() for w in works])


def patches() -> contextlib.AbstractContextManager:
    """Every convolution as a product of matrices."""
    way = lambda self, x: convolution.Patches(self.kernel, self.padding)  # noqa: E731
    return mock.patch.object(convolution.Convolution, "_way", way)


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--precisions", default="tf32,float16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--warm", default=WARM, help="METHOD=CELLS,...: what `warm` compiles for")
    parser.add_argument("--tiles", type=Path, help="file of tuned tiles, written by `tune`")
    parser.add_argument("--data", type=Path, help="prepared data, partitions, and plan.json")
    parser.add_argument("--toy", action="store_true")
    parser.set_defaults(begun=BEGUN)
    options = parser.parse_args()
    stages, options.precisions = options.stages.split(","), options.precisions.split(",")
    if unknown := [name for name in stages if name not in STAGES]:
        parser.error(f"--stages: {unknown[0]!r} is unknown; allowed: {', '.join(STAGES)}")
    if options.device == "cpu" and not options.toy:
        parser.error("--device: without CUDA every stage runs at a small size alone; add --toy")
    bench = Bench(options)
    faulthandler.dump_traceback_later(max(bench.left(), 0) + HANGS, exit=True)
    for name in stages:
        if bench.left() < 5:
            print(f"{name}: the time is up", flush=True)
            bench.found["left_out"].append(name)
            bench.write()
            continue
        begun = time.monotonic()
        print(f"== {name}", flush=True)
        bench.found[name] = bench.attempt(name, lambda name=name: STAGES[name](bench))
        if isinstance(bench.found[name], str):
            print(bench.found[name], flush=True)
        bench.found["stages"][name] = round(time.monotonic() - begun, 1)
        print(f"== {name}: {bench.found['stages'][name]} s", flush=True)
        bench.write()
    faulthandler.cancel_dump_traceback_later()
    return 1 if bench.found["failed"] else 3 if bench.found["left_out"] else 0


if __name__ == "__main__":
    sys.exit(main())
