"""A long run needs no more memory than a short one.

What is counted is what malloc has given out and not got back, to the byte: the size of the process
also moves with how the allocator cuts its pages, differently on every machine.
"""

import ctypes
import gc
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from fedgloss.data.dataset import load, prepare
from fedgloss.data.partition.partition import make_partition
from fedgloss.jobs.train import CellFiles, train_cells
from fedgloss.study.study import load_study

BEGIN, END = 150, 650
STUDY = """{"study": "long", "seeds": [0], "grid": [{"dataset": "digits", "alphas": ["0"],
"model": "smallcnn", "algorithms": ["fedgamma"]}], "training": {"rounds": 700, "batch_size": 36,
"clients_per_round": 5, "evaluate_every": 50, "last": 1, "record": ["norms"]}}"""
ALLOWED = 256 * (END - BEGIN)
"""A few rows of metrics, and what caches of small objects happen to hold, several times over."""


class Mallinfo2(ctypes.Structure):
    """What glibc (2.33 and newer) says about its main heap."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    ]


def glibc() -> ctypes.CDLL | None:
    """The C library, if it can say what is in use."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(library, "mallinfo2"):
        return None
    library.mallinfo2.restype = Mallinfo2
    return library


def bytes_in_use() -> int:
    gc.collect()
    found = glibc().mallinfo2()
    return found.uordblks + found.hblkhd


def growth(folder: Path, each_round: Callable[[], object] | None = None) -> int:
    """Bytes that a run keeps of the rounds between BEGIN and END."""
    folder.mkdir()
    prepare("digits", folder / "data")
    partition = folder / "partition.json"
    data = load(folder / "data")
    make_partition(data, partition, scheme="dirichlet", clients=50, alpha="0", seed=0)
    study = load_study(STUDY)
    used, kept = {}, []

    def watch(label, rounds, images):
        def on_round(t, row):
            if each_round:
                kept.append(each_round())
            if t in (BEGIN, END):
                used[t] = bytes_in_use()

        return on_round

    cell = CellFiles(
        study.settings(study.cells[0]),
        partition,
        folder / "out",
        "c",
        folder / "checkpoints",
    )
    train_cells([cell], folder / "data", device="cpu", checkpoint_rounds=100, watch=watch)
    return used[END] - used[BEGIN]


def half_a_kilobyte() -> bytearray:
    """A small leak."""
    return bytearray(512)


@pytest.mark.slow
@pytest.mark.skipif(glibc() is None, reason="needs glibc 2.33, which counts the bytes in use")
def test_five_hundred_rounds_keep_nothing(tmp_path, monkeypatch):
    """In a process of its own, whose Python objects come from malloc too and are freed at once.

    That the count would show a leak of half a kilobyte a round is tried as well.
    """
    monkeypatch.setenv("PYTHONMALLOC", "malloc")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(growth, tmp_path / "leaking", half_a_kilobyte).result() > ALLOWED
        assert pool.submit(growth, tmp_path / "as it is").result() < ALLOWED
