"""A long run needs no more memory than a short one."""

import os
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import pytest

from fedgloss.data.datasets import load, prepare
from fedgloss.data.partitions import make_partition
from fedgloss.simulation.cell import CellFiles, train_cells
from fedgloss.study import load_study

ROUNDS = (500, 800, 1100, 1399)
STUDY = """{"study": "long", "seeds": [0], "grid": [{"dataset": "digits", "alphas": ["0"],
"model": "smallcnn", "algorithms": ["fedgamma"]}], "training": {"rounds": 1500, "batch_size": 36,
"clients_per_round": 5, "evaluate_every": 50, "last": 100, "record": ["norms"]}}"""


def resident_memory(folder: Path) -> dict[int, int]:
    """Bytes that the process holds after some rounds of a run."""
    prepare("digits", folder / "data")
    partition = folder / "partition.json"
    data = load(folder / "data")
    make_partition(data, partition, scheme="dirichlet", clients=50, alpha="0", seed=0)
    study = load_study(STUDY)
    resident = {}

    def watch(label, rounds, images):
        def on_round(t, row):
            if t in ROUNDS:  # the last 100 rounds are evaluated one by one
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                resident[t] = pages * os.sysconf("SC_PAGE_SIZE")

        return on_round

    cell = CellFiles(
        study.settings(study.cells[0]), partition, folder / "out", "c", folder / "checkpoints"
    )
    options = {"device": "cpu", "checkpoint_rounds": 200, "watch": watch}
    train_cells([cell], folder / "data", **options)
    return resident


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc, which Linux has")
def test_memory_does_not_grow_between_round_500_and_1400(tmp_path):
    """In a process of its own, and not in each third of the way.

    The allocator takes a step of one or two MiB now and then; what is kept every round shows in
    every third, at the same rate as one MiB over the whole way.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        resident = pool.submit(resident_memory, tmp_path).result()
    growth = [resident[b] - resident[a] for a, b in pairwise(ROUNDS)]
    assert min(growth) < 2**20 / 3, growth
