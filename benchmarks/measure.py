"""Timing tasks in turns, and printing tables."""

import time
from collections.abc import Callable, Mapping

import torch


def best(tasks: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """The least seconds of each task; the tasks take turns."""
    seconds = {name: float("inf") for name in tasks}
    for repeat in range(repeats + 1):
        for name, run in tasks.items():
            begun = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:  # the first warms caches and allocator up
                seconds[name] = min(seconds[name], time.perf_counter() - begun)
    return seconds


def table(title: str, header: list[str], rows: list[list[object]]) -> None:
    print(f"\n### {title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)
