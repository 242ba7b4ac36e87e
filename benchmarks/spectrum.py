"""Time and memory of lambda_1, as multiples of one forward-backward pass over the same images.

    python benchmarks/spectrum.py RUN/average.safetensors results/data/cifar10 --images 10000 50000

The first is a trained model, the second the folder of the data that it was trained on, as a build
leaves them. Small by default: with the paper's CNN on one core, 10,000 images take some ten minutes
and 50,000 most of an hour. Each size is measured in a process of its own; what it is at goes to
standard error. Prints a Markdown table. On a busy machine its times mean nothing, and its multiples
little.

A pass is the gradient of the mean loss, in the same batches, without keeping anything for a second
derivative; its time is the least of those before and after lambda_1. Memory is what a pass, or
lambda_1, takes at most beside what is there when it begins.
"""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

import torch
from measure import table

from fedgloss.data.dataset import load
from fedgloss.engine.flat import parameter_shapes
from fedgloss.engine.start import initial_model, prepared
from fedgloss.errors import InputError
from fedgloss.jobs.measured import chosen, training_objective
from fedgloss.sharpness.methods import METHODS
from fedgloss.sharpness.sampling import fitting
from fedgloss.tensors import load_tensors

HEADER = ["images", "batch", "a pass", "products", "λ₁", "its time", "in passes", "a product"]
HEADER += ["memory of a pass", "of λ₁", "in passes"]


def measured(asked: argparse.Namespace, images: int) -> list[object]:
    """A row of the table."""
    with prepared(asked.device, asked.threads) as where:
        dataset = load(asked.data)
        network = initial_model(asked.model, dataset, 0).to(where)
        tensors = load_tensors(asked.weights)
        shapes = parameter_shapes(network)
        if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
            raise InputError(f"{asked.weights}: is no model {asked.model!r} for {asked.data}")
        w = torch.cat([tensors[name].reshape(-1) for name in shapes]).to(where)
        everyone = torch.arange(len(dataset.train_labels))
        index = chosen(dataset, everyone, images, 0, where)
        objective = fitting(training_objective(dataset, network, index, where), w)
        label = f"{len(index):,} images"

        def one_pass() -> float:
            begun = time.perf_counter()
            objective.gradient(w).sum().item()
            return time.perf_counter() - begun

        def watch(products: int, found: str) -> None:
            spent = time.perf_counter() - begun
            tell(f"{label}: product {products} after {spent:.0f} s {found}")

        tell(f"{label}: in batches of {objective.batch_size}")
        one_pass()  # warms up
        memory = Memory(where)
        passes = [one_pass() for _ in range(2)]
        of_pass = memory.peak()
        tell(f"{label}: a pass takes {min(passes):.2f} s and {of_pass:.0f} MiB")
        memory = Memory(where)
        begun = time.perf_counter()
        spectrum, _ = METHODS[asked.method].eigenvalues(objective, w, 1, watch=watch)
        whole, of_spectrum = time.perf_counter() - begun, memory.peak()
        passes += [one_pass() for _ in range(2)]
        once, converged = min(passes), "" if spectrum.converged[0] else ", not converged"
        return [
            f"{len(index):,}",
            objective.batch_size,
            f"{once:.2f} s",
            f"{spectrum.products}{converged}",
            f"{spectrum.eigenvalues[0]:.5g}",
            f"{whole:.1f} s",
            f"{whole / once:.0f}",
            f"{whole / once / spectrum.products:.1f} passes",
            f"{of_pass:.0f} MiB",
            f"{of_spectrum:.0f} MiB",
            f"{of_spectrum / max(of_pass, 1):.1f}",
        ]


class Memory:
    """The most that this process, or its GPU, takes from now on beside what it has, in MiB."""

    def __init__(self, where: torch.device) -> None:
        self.where = where
        if where.type == "cuda":
            torch.cuda.reset_peak_memory_stats(where)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
        self.before = self._now("VmRSS", "memory_allocated")

    def peak(self) -> float:
        return self._now("VmHWM", "max_memory_allocated") - self.before

    def _now(self, of_process: str, of_gpu: str) -> float:
        if self.where.type == "cuda":
            return getattr(torch.cuda, of_gpu)(self.where) / 2**20
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(of_process))


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", type=Path, help="a trained model, e.g. RUN/average.safetensors")
    parser.add_argument("data", type=Path, help="the folder of its data, e.g. results/data/cifar10")
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--images", type=int, nargs="+", default=[500, 1000])
    parser.add_argument("--method", default="lanczos", choices=[*METHODS])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    context, rows = multiprocessing.get_context("spawn"), []
    for images in asked.images:  # a process has one peak of memory
        with context.Pool(1) as pool:
            rows.append(pool.apply(measured, (asked, images)))
    title = f"λ₁ of {asked.weights} ({asked.model}) by {asked.method}"
    table(f"{title}, torch {torch.__version__}, {asked.threads} threads", HEADER, rows)


if __name__ == "__main__":
    main()
