"""How the kernels of `fused` are cut into programs: every candidate, measured. Stages of gpu.py.

A kernel is timed with what has to be launched for it alone: the weights' gradients with unpooling,
turning and adding up. (In results/h200.json both gradients of the second layer were timed as one.)
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import time

import torch
from bench import Bench, fused, seconds
from torch import Tensor

from fedgloss.engine.backends.fused import FusedGradients

CANDIDATES = {
    "convolution_forward": [
        (128, 64, 64, 4, 3), (128, 64, 64, 8, 3), (128, 64, 32, 4, 4), (256, 64, 64, 8, 3),
        (256, 64, 32, 8, 3), (256, 64, 64, 4, 3),
        (256, 64, 32, 4, 3), (256, 32, 32, 4, 3), (64, 64, 64, 4, 3), (128, 64, 64, 4, 4),
    ],
    "convolution_forward, thin": [
        (128, 64, 32, 4, 3), (128, 64, 32, 8, 3), (256, 64, 32, 4, 2), (256, 64, 32, 4, 3),
        (256, 64, 64, 4, 2), (256, 32, 32, 4, 2), (256, 64, 32, 8, 2), (128, 64, 64, 4, 2),
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
        (64, 128, 64, 4, 3, 1056), (64, 64, 128, 8, 2), (64, 128, 32, 4, 4), (64, 128, 64, 4, 2),
    ],
    "convolution_weight_gradient, thin": [
        (64, 128, 128, 4, 1), (64, 128, 128, 4, 1, 264), (64, 128, 128, 4, 1, 1056),
        (64, 128, 128, 8, 1), (64, 128, 256, 8, 1), (64, 128, 64, 4, 1), (64, 128, 64, 8, 1),
        (64, 128, 32, 4, 1), (64, 64, 64, 4, 1), (64, 64, 128, 4, 1), (64, 128, 64, 4, 1, 528),
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
            x, code, turned = g._convolve(block, W, x, last, need_input=i > 0)
            x = x.flatten(2) if last else x
            kept = (code, turned)
        else:
            x = g._linear(block, W, x, last=i + 1 == len(g.blocks))
        if block.prefix == LAYER[name]:
            break
    x, d = inputs[-1], torch.randn_like(x.float()).to(g.dtype)
    last = block.is_convolution and not g.blocks[i + 1].is_convolution
    if name.startswith("convolution_forward"):
        return lambda: g._convolve(block, W, x, last, need_input=LAYER[name] == "3")
    if name.startswith("convolution"):
        code, turned = kept
        d, need_input = d.view_as(code), LAYER[name] == "3"
        if "input" in name:
            dense = g._convolution_weights(block, x, d, code, scale, out, last, need_input)
            return lambda: g._convolution_inputs(block, x, dense, turned, False)
        return lambda: g._convolution_weights(block, x, d, code, scale, out, last, need_input)
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


def candidates(bench: Bench) -> dict:
    """Compile every kernel with every candidate tile, many at once: `tune` then finds them."""
    bench.needs_cuda()
    jobs = [
        (bench.options, precision, name, tile)
        for name, tiles in CANDIDATES.items()
        for tile in tiles
        for precision in bench.options.precisions
    ]
    begun = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        failed = [line for line in pool.map(_compile, jobs, chunksize=2) if line]
    print(*failed, sep="\n", flush=True)
    return {"compile_seconds": time.monotonic() - begun, "failed": failed}


def tune(bench: Bench) -> dict:
    """Every kernel with every candidate tile, microseconds; the best ones are used from here on."""
    found: dict = {}
    for precision in bench.options.precisions:
        gradients, *inputs = fused(bench, precision)
        for name, tiles in CANDIDATES.items():
            shipped, times = tuple(gradients.tiles[name].values()), {}
            for tile in bench.size(tiles, tiles[:1]):
                gradients.tiles[name] = as_tile(tile)
                with contextlib.suppress(Exception):
                    times[tile] = 1e6 * seconds(bench, part(gradients, name, *inputs))
            if times:
                best = min(times, key=times.__getitem__)
                gradients.tiles[name] = as_tile(best)
                bench.tiles.setdefault(precision, {})[name] = as_tile(best)
                rows = {str(t): round(v, 1) for t, v in times.items()}
                found[f"{precision} {name}"] = {"as shipped": str(shipped), **rows}
                print(precision, name, best, found[f"{precision} {name}"], flush=True)
    if bench.options.tiles:
        bench.options.tiles.write_text(json.dumps(bench.tiles))
    return found
