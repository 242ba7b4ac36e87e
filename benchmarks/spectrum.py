"""Time and memory of lambda_1, as a multiple of one forward-backward pass over the same data.

    python benchmarks/spectrum.py [--model cnn] [--images 500 1000] [--method lanczos]

Needs torch alone, and is small by default; --images 10000 50000 are the sizes of interest: minutes
on a GPU, hours on a processor. The model has its initial weights times 1.5 and random images of ten
classes: an eigenvalue with a gap, as trained models have. Each size is measured in a process of its
own, since a process has one peak of memory. Prints a Markdown table; on a busy machine its times
mean nothing.
"""

import argparse
import multiprocessing
import resource
import time

import torch
from measure import table

from fedgloss.engine.flat import flatten
from fedgloss.engine.start import prepared
from fedgloss.models import build_model
from fedgloss.sharpness.methods import METHODS
from fedgloss.sharpness.objective import Objective
from fedgloss.sharpness.sampling import fitting

SHAPES = {"smallcnn": (1, 8, 8), "mobilenetv2": (3, 224, 224)}
HEADER = ["images", "batch", "pass", "products", "λ₁", "in passes", "a product in passes", "memory"]


def measured(model: str, images: int, method: str, device: str) -> list[object]:
    """A row of the table."""
    with prepared(device, 1) as where:
        torch.manual_seed(0)
        shape = SHAPES.get(model, (3, 32, 32))
        network = build_model(model, shape, 10).to(where)
        inputs, targets = torch.randn(images, *shape).to(where), torch.arange(images).to(where) % 10
        objective = Objective(network, inputs, targets)
        w = 1.5 * flatten(objective.model)
        objective = fitting(objective, w)
        before = _memory(where)
        seconds = []
        for _ in range(2):  # the first warms up
            begun = time.perf_counter()
            objective.gradient(w).sum().item()
            seconds.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        spectrum, _ = METHODS[method].eigenvalues(objective, w, 1)
        whole, once = time.perf_counter() - begun, seconds[-1]
        return [
            f"{images:,}",
            objective.batch_size,
            f"{once:.2f} s",
            spectrum.products,
            f"{whole:.1f} s",
            f"{whole / once:.0f}",
            f"{whole / once / spectrum.products:.1f}",
            f"{_memory(where) - before:.0f} MiB",
        ]


def _memory(where: torch.device) -> float:
    """The peak so far in MiB: of the GPU, or of the process."""
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--images", type=int, nargs="+", default=[500, 1000])
    parser.add_argument("--method", default="lanczos", choices=[*METHODS])
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    context, rows = multiprocessing.get_context("spawn"), []
    for images in asked.images:
        with context.Pool(1) as pool:
            rows.append(pool.apply(measured, (asked.model, images, asked.method, asked.device)))
    table(f"λ₁ of {asked.model} by {asked.method}, torch {torch.__version__}", HEADER, rows)


if __name__ == "__main__":
    main()
