"""A long run needs no more memory than a short one."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from fedgloss.data.datasets import load, prepare
from fedgloss.data.partitions import make_partition
from fedgloss.simulation.cell import CellFiles, train_cells
from fedgloss.study import load_study

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
            if t in (500, 1399):  # the last 100 rounds are evaluated one by one
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
    """In a process of its own: what other tests left behind would move.

    The allocator's own steps are one or two MiB; keeping one of the small models each round, or
    one client's state, would take 48 MiB.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        resident = pool.submit(resident_memory, tmp_path).result()
    assert resident[1399] - resident[500] < 6 * 2**20
