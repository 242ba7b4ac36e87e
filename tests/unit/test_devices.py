"""Which of several GPUs a job takes; no GPU is needed for that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedgloss.errors import InputError
from fedgloss.simulation import devices

SOURCE = Path(__file__).resolve().parents[2] / "src"


class Job:
    """Another process that claims a GPU and keeps it until it ends."""

    def __init__(self, count: int, folder: Path, visible: str | None = None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        if visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible
        code = (
            "import runpy, sys, pathlib;"
            f"claim = runpy.run_path({devices.__file__!r})['claim'];"
            "ask = lambda: print(claim(int(sys.argv[1]), pathlib.Path(sys.argv[2])), flush=True);"
            "[ask() for line in sys.stdin]"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(count), str(folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.gpu = self.ask()

    def ask(self) -> int:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def start(tmp_path):
    jobs = []

    def start(count: int, visible: str | None = None) -> Job:
        jobs.append(Job(count, tmp_path / "locks", visible))
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()


def test_each_job_takes_a_free_gpu_and_further_ones_share_evenly(start):
    assert [start(3).gpu for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_a_killed_jobs_gpu_is_free_again(start):
    jobs = [start(3) for _ in range(3)]
    jobs[1].kill()
    assert start(3).gpu == 1


def test_a_job_keeps_its_gpu_however_often_it_asks(start):
    first = start(2)
    assert [first.ask() for _ in range(3)] == [first.gpu] * 3
    assert start(2).gpu != first.gpu


def test_jobs_that_see_different_gpus_do_not_take_the_same(start):
    assert start(2, visible="2,3").gpu == 0  # number 2
    assert start(2, visible="3,2").gpu == 0  # number 3
    assert start(2, visible="2,3").gpu == 0  # both have one job; the first of its own
    assert start(3, visible="0,2,3").gpu == 0


def test_the_trainer_asks_only_where_there_is_a_choice(monkeypatch):
    import torch

    from fedgloss.simulation import start

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(start, "claim", lambda count: count - 1)
    for count, expected in ((1, "cuda"), (4, "cuda:3")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert str(start.prepare_torch("auto", 1)) == expected
    assert str(start.prepare_torch("cuda:3", 1)) == "cuda:3"
    with pytest.raises(InputError, match=r"'cuda:4' is not at hand; the last one here is cuda:3"):
        start.prepare_torch("cuda:4", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(start.prepare_torch("auto", 1)) == "cpu"
