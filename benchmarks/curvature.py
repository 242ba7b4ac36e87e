"""lambda_1, products of the Hessian and loss surfaces of the CNN: a stage of benchmarks/gpu.py."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from bench import Bench, cnn
from torch import Tensor
from torch.func import functional_call, grad, jvp

from fedgloss.engine.flat import flatten
from fedgloss.engine.start import prepared
from fedgloss.sharpness.eigenvalues import top_eigenvalues
from fedgloss.sharpness.landscape import filter_normalized_directions, surface
from fedgloss.sharpness.objective import Objective, parameter_views
from fedgloss.sharpness.sampling import fitting


def curvature(bench: Bench) -> dict:
    """Seconds, and as multiples of one forward-backward pass over the same images; in float32."""
    found = {}
    sizes = bench.size((1000, 10_000, 50_000), (20, 50))
    with prepared(bench.device, 1):
        for images in sizes:
            found[f"{images} images"] = here = measured(bench, images)
            print(images, here, flush=True)
    return found


def measured(bench: Bench, images: int) -> dict:
    torch.manual_seed(0)
    model, shape = cnn(bench)
    inputs = torch.randn(images, *shape, device=bench.device)
    targets = torch.arange(images, device=bench.device) % 10
    objective = Objective(model, inputs, targets)
    w = 1.5 * flatten(objective.model)  # an eigenvalue with a gap, as trained models have
    objective = fitting(objective, w)
    v = torch.randn_like(w)
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats()
    once = clocked(bench, lambda: objective.gradient(w))
    product = clocked(bench, lambda: objective.hessian_vector(w, v))
    begun = time.perf_counter()
    spectrum = top_eigenvalues(objective, w, count=1)
    whole = time.perf_counter() - begun
    found = {
        "batch": objective.batch_size, "pass_s": once, "product_in_passes": product / once,
        "lambda1_s": whole, "lambda1_in_passes": whole / once, "products": spectrum.products,
    }  # fmt: skip
    if bench.cuda:
        found["peak_GB"] = torch.cuda.max_memory_allocated() / 1e9
    other = clocked(bench, lambda: forward_over_reverse(objective, w, v))
    found["forward_over_reverse_in_passes"] = other / once
    gap = forward_over_reverse(objective, w, v) - objective.hessian_vector(w, v)
    found["their_gap"] = float(gap.norm() / objective.hessian_vector(w, v).norm())
    points = bench.size(5, 3)
    directions = filter_normalized_directions(model, w, 0)
    begun = time.perf_counter()
    surface(objective, w, directions, points=points)
    found["surface_point_in_passes"] = (time.perf_counter() - begun) / points**2 / once
    return found


def forward_over_reverse(objective: Objective, w: Tensor, v: Tensor) -> Tensor:
    """H v by differentiating the gradient forwards: what `Objective` could do instead."""
    total = torch.zeros_like(w)
    for inputs, targets in zip(
        objective.inputs.split(objective.batch_size),
        objective.targets.split(objective.batch_size),
        strict=True,
    ):

        def loss(w: Tensor, x: Tensor = inputs, y: Tensor = targets) -> Tensor:
            outputs = functional_call(objective.model, parameter_views(objective.model, w), (x,))
            return F.cross_entropy(outputs, y)

        total += jvp(grad(loss), (w,), (v,))[1] * (len(inputs) / len(objective.inputs))
    return total


def clocked(bench: Bench, work: Callable[[], Tensor]) -> float:
    """The lesser of two times, after one call to warm up."""
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        work().sum().item()
        times.append(time.perf_counter() - begun)
    return min(times[1:])
