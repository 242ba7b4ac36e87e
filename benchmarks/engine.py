"""The speed of training on this machine, as ratios to a plain loop measured in the same run.

    python benchmarks/engine.py [--device auto] [--threads N] [--repeats 5] [--json FILE] [PART ...]

Parts, all by default: ceiling rounds convolutions methods together checkpoint memory. Tasks that
are compared take turns, and the fastest of their repeats counts: a machine can only be slowed down
by others. A share of the ceiling counts the products of the definition, of which the engine may
need fewer (engine/backends/convolution.py).

Prints Markdown tables, and writes the figures as JSON.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from convolutions import convolutions
from measure import best, table
from plain import Images, Net, PlainLoop, SmallNet

from fedgloss.algorithms import METHODS, build_algorithm, resolve_hyperparameters
from fedgloss.engine.assembly import build_gradients
from fedgloss.engine.checkpoint import Checkpoints
from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.evaluate import evaluate
from fedgloss.engine.federation import Simulation, advance, federation
from fedgloss.engine.flat import flatten
from fedgloss.engine.start import device_name, prepared
from fedgloss.engine.task import Task
from fedgloss.models import build_model

HYPERPARAMETERS = {"mu": 0.01, "alpha": 0.1, "beta": 10.0, "rho": 0.05, "rho_l": 0.15}
HYPERPARAMETERS |= {"lambda": 10.0}
CNN_FLOPS = 80.6e6
"""Of an image forward and backward, without the first convolution's input gradient."""
SHAPES = {"cnn": (3, 32, 32), "smallcnn": (1, 8, 8), "resnet18": (3, 32, 32)}
SHAPES |= {"mobilenetv2": (3, 64, 64)}


def task(
    model: str, methods: list[str], clients: int, samples: int, batch: int, backend: str, device,
    participants: int = 5, classes: int = 10,
) -> list[Simulation]:  # fmt: skip
    """Simulations on random images, one cell for each method given, equal methods in one."""
    shape, generator = SHAPES[model], torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (clients * samples, *shape), generator=generator)
    targets = torch.randint(0, classes, (clients * samples,), generator=generator).to(device)
    indices = torch.arange(clients * samples).split(samples)
    data = ClientData(inputs.to(torch.uint8).to(device), targets, indices)
    net = build_model(model, shape, classes).to(device)
    gradients = build_gradients(backend, net, F.cross_entropy)
    simulations = []
    for method in dict.fromkeys(methods):
        algorithm = build_algorithm(method)
        known = {k: v for k, v in HYPERPARAMETERS.items() if k in algorithm.hyperparameters}
        federations = [
            federation(
                algorithm,
                resolve_hyperparameters(algorithm, known),
                flatten(net),
                data,
                lr=0.01,
                weight_decay=4e-4,
                participants=participants,
                seed=seed,
            )
            for seed in range(methods.count(method))
        ]
        channels = (0.5,) * shape[0]
        augmentation = "none" if model == "smallcnn" else "image_aug"
        pipeline = Pipeline(channels, channels, augmentation)
        simulations.append(
            Simulation(federations, gradients, batching=Batching(batch), pipeline=pipeline)
        )
    return simulations


def plain(model: str, sam: bool, samples: int, batch: int) -> Callable[[], None]:
    """A round of the plain loop over 5 clients."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5 * samples, *SHAPES[model]), generator=generator)
    labels = torch.randint(0, 10, (5 * samples,), generator=generator)
    data = Images(images.to(torch.uint8), labels, augmented=model != "smallcnn")
    clients = [range(k * samples, (k + 1) * samples) for k in range(5)]
    net = SmallNet() if model == "smallcnn" else Net()
    loop = PlainLoop(net, data, clients, batch, sam=sam)
    return lambda: loop.round(range(5))


def ceiling(device, repeats: int) -> dict[str, float]:
    """Multiplications and additions a second, in 10^9, of what training is made of."""
    a, b = torch.randn(2048, 2048, device=device), torch.randn(2048, 2048, device=device)
    last = torch.channels_last
    x = torch.randn(64, 64, 14, 14, device=device).contiguous(memory_format=last)
    w = torch.randn(64, 64, 5, 5, device=device).contiguous(memory_format=last)
    d = torch.randn(64, 64, 10, 10, device=device).contiguous(memory_format=last)
    backward = torch.ops.aten.convolution_backward
    rest = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False])
    flops = 2 * 64 * 100 * 64 * 1600
    tasks = {
        "matrix product, 2048": (2 * 2048**3, lambda: a @ b),
        "convolution 64 -> 64, 5 x 5, forward": (flops, lambda: F.conv2d(x, w)),
        "the same, backward": (2 * flops, lambda: backward(d, x, w, None, *rest)),
    }
    seconds = best({name: run for name, (_, run) in tasks.items()}, 4 * repeats)
    rates = {name: tasks[name][0] / seconds[name] / 1e9 for name in tasks}
    table("Ceiling", ["", "GFLOP/s"], [[name, f"{rate:,.0f}"] for name, rate in rates.items()])
    return rates


def rounds(device, repeats: int) -> dict[str, float]:
    """A round of the CIFAR CNN: 5 clients x 500 images, batch 64, one epoch."""
    tasks, cpu = {}, device.type == "cpu"
    for client, method in (("SGD", "fedavg"), ("SAM", "fedgloss")):
        if cpu:
            tasks[f"{client}, plain loop"] = plain("cnn", client == "SAM", 500, 64)
        for backend in ("autograd", "stacked"):
            simulations = task("cnn", [method], 5, 500, 64, backend, device)
            tasks[f"{client}, {backend}"] = lambda s=simulations: advance(s)
    seconds = best(tasks, repeats)
    top = max(ceiling(device, repeats).values()) * 1e9
    rows = []
    for name, value in seconds.items():
        client = name.split(",")[0]
        reference = seconds[f"{client}, plain loop" if cpu else f"{client}, autograd"]
        passes = 2 if client == "SAM" else 1
        share = 2500 * passes * CNN_FLOPS / value / top
        rows.append([name, f"{value:.3f}", f"{value / reference:.2f}", f"{2500 / value:,.0f}",
                     f"{share:.0%}"])  # fmt: skip
    header = ["CIFAR CNN", "seconds a round", "to the reference", "images/s", "of the ceiling"]
    table("A round", header, rows)
    return seconds


def methods(device, repeats: int) -> dict[str, float]:
    """A round of every method, stacked, by the number of its gradients to FedAvg or FedSAM."""
    tasks = {}
    for method in METHODS:
        if not build_algorithm(method).pooled:
            simulations = task("cnn", [method], 5, 500, 64, "stacked", device)
            tasks[method] = lambda s=simulations: advance(s)
    seconds = best(tasks, max(repeats // 2, 2))
    rows = []
    for method, value in seconds.items():
        gradients = build_algorithm(method).gradients
        rows.append([method, f"{value:.3f}", gradients,
                     f"{value / gradients / seconds['fedavg']:.2f}"])  # fmt: skip
    header = ["CIFAR CNN", "seconds a round", "gradients a step", "a gradient to FedAvg's"]
    table("Methods", header, rows)
    return seconds


def together(device, repeats: int) -> dict[str, float]:
    """Digits, 5 clients x 36 images, batch 8: cells alone and together, seconds a round each."""
    twelve = ["fedavg", "fedsam", "feddyn-sam", "fedgloss"] * 3
    runs, cells = {}, {}
    if device.type == "cpu":
        for client, name in (("SGD", "fedavg"), ("SAM", "fedgloss")):
            runs[f"plain loop, {name}"] = plain("smallcnn", client == "SAM", 36, 8)
    for backend in ("autograd", "stacked"):
        for count in (4, 12) if backend == "stacked" else (4,):
            simulations = task("smallcnn", twelve[:count], 50, 36, 8, backend, device)
            if count == 4:
                name = f"{backend}, 4 cells one by one"
                runs[name] = lambda s=simulations: [advance([one]) for one in s]
                cells[name] = 4
            if backend == "stacked":
                name = f"stacked, {count} cells together"
                runs[name] = lambda s=simulations: advance(s)
                cells[name] = count
    seconds = {k: v / cells.get(k, 1) for k, v in best(runs, 4 * repeats).items()}
    reference = seconds["autograd, 4 cells one by one"]
    if device.type == "cpu":  # one cell of four is FedAvg's, three are SAM's
        seconds["plain loop"] = reference = (
            seconds.pop("plain loop, fedavg") + 3 * seconds.pop("plain loop, fedgloss")
        ) / 4
    rows = [[name, f"{1e3 * value:.2f}", f"{reference / value:.1f}x"]
            for name, value in sorted(seconds.items(), key=lambda item: -item[1])]  # fmt: skip
    table("Cells together", ["digits CNN", "ms a round and cell", "faster"], rows)
    return seconds


def checkpoint(device, repeats: int) -> dict[str, float]:
    """Writing and reading FedGloSS's state, CNN, 100 clients, in rounds of it."""
    simulations = task("cnn", ["fedgloss"], 100, 500, 64, "stacked", device)
    advance(simulations)
    [simulation] = simulations
    with tempfile.TemporaryDirectory() as folder:
        store = Checkpoints(Path(folder), {}, say=lambda message: None)
        tasks = {
            "a round": lambda: advance(simulations),
            "write": lambda: store.save(simulation.t, simulation.state(0), {}),
            "read": lambda: simulation.load_state([store.load()[1]], simulation.t),
        }
        seconds = best(tasks, repeats)
        size = max(path.stat().st_size for path in Path(folder).iterdir())
    rows = [[name, f"{value:.3f}", f"{value / seconds['a round']:.2f}"]
            for name, value in seconds.items()]  # fmt: skip
    table(f"Checkpoint, {size / 2**20:.0f} MiB", ["", "seconds", "in rounds"], rows)
    return seconds


def memory_of(model: str, clients: int, samples: int, participants: int, classes: int, device: str):
    """Two rounds of FedGloSS and an evaluation; peak memory, and where the clients' state lives."""
    arithmetic = prepared(device, os.cpu_count() or 1)
    device = arithmetic.__enter__()
    [simulation] = task(
        model, ["fedgloss"], clients, samples, samples, "autograd", device, participants, classes
    )
    begun = time.perf_counter()
    for _ in range(2):
        advance([simulation])
    seconds = (time.perf_counter() - begun) / 2
    data = simulation.federations[0].data
    net = build_model(model, SHAPES[model], classes).to(device)
    learned = Task(net, F.cross_entropy, simulation.source.pipeline)
    evaluate(learned, simulation.w[0, 0], data.inputs[:64], data.targets[:64])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    state = sum(state.values.nbytes for state in simulation.clients.values()) / 2**30
    return {"place": simulation.place, "state_GiB": state, "peak_GiB": peak, "round_s": seconds}


def _child(arguments: tuple, results: multiprocessing.Queue) -> None:
    results.put(memory_of(*arguments))


def memory(device, repeats: int) -> dict[str, dict]:
    """FedGloSS at the paper's numbers of clients, a few images each, in fresh processes."""
    cases = {
        "cnn, 5 of 100": ("cnn", 100, 64, 5, 10),
        "resnet18, 10 of 100": ("resnet18", 100, 16, 10, 10),
        "mobilenetv2, 50 of 1,262": ("mobilenetv2", 1262, 4, 50, 2028),
    }
    spawn, found = multiprocessing.get_context("spawn"), {}
    for name, arguments in cases.items():
        results = spawn.Queue()
        process = spawn.Process(target=_child, args=((*arguments, device.type), results))
        process.start()
        found[name] = results.get()
        process.join()
    rows = [
        [name, f"{f['state_GiB']:.1f}", f["place"], f"{f['peak_GiB']:.1f}", f"{f['round_s']:.1f}"]
        for name, f in found.items()
    ]
    header = ["model, clients", "clients' state GiB", "lives on", "peak GiB", "seconds a round"]
    table("Memory", header, rows)
    return found


PARTS = (ceiling, rounds, convolutions, methods, together, checkpoint, memory)
PARTS = {part.__name__: part for part in PARTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/engine.json"))
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {sorted(unknown)[0]!r}; allowed: {', '.join(PARTS)}")
    arithmetic = prepared(options.device, options.threads)
    device = arithmetic.__enter__()
    machine = {
        "device": device_name(device),
        "processor": platform.processor() or platform.machine(),
        "threads": options.threads,
        "torch": torch.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    figures = {name: PARTS[name](device, options.repeats) for name in options.parts or PARTS}
    options.json.write_text(json.dumps({"machine": machine, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
