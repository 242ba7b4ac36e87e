"""Which of several GPUs a job takes: no GPU is needed to see jobs choose by number."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cells import cell_settings, prepare_inputs, train_cell
from fedgloss.engine import devices, switches
from fedgloss.engine.start import prepared
from refusal import refused

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


# What the trainer makes of it, on the devices that this machine has

GPUS = torch.cuda.device_count()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


def device_of(inputs, out, device):
    """What the manifest of a short run calls its device."""
    settings = cell_settings("fedavg", rounds=1, last=1)
    train_cell(settings, **inputs, out=out, code="code", device=device)
    return json.loads((out / "manifest.json").read_text())["device"]


@pytest.mark.skipif(GPUS > 0, reason="needs a machine without a CUDA device")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(inputs, tmp_path):
    assert device_of(inputs, tmp_path / "auto", "auto") == "cpu"
    for device in ("cuda", "cuda:0", "cuda:7"):
        with refused("device: no CUDA device is at hand", "allowed here: auto, cpu"):
            device_of(inputs, tmp_path / "refused", device)
    assert not (tmp_path / "refused").exists()


@pytest.mark.skipif(GPUS == 0, reason="needs a CUDA device")
def test_auto_is_a_gpu_and_the_one_after_the_last_is_refused(inputs, tmp_path):
    names = {torch.cuda.get_device_name(index) for index in range(GPUS)}
    assert device_of(inputs, tmp_path / "auto", "auto") in names
    last = f"cuda:{GPUS - 1}"
    assert device_of(inputs, tmp_path / "last", last) == torch.cuda.get_device_name(last)
    with refused(f"'cuda:{GPUS}' is not at hand", f"the last one here is {last}"):
        device_of(inputs, tmp_path / "refused", f"cuda:{GPUS}")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "mps", "meta", ""])
def test_what_is_no_device_for_training_is_refused_on_every_machine(device, inputs, tmp_path):
    with refused("device: ", f"{device!r}", "allowed: auto, cpu, cuda, cuda:N"):
        device_of(inputs, tmp_path / "refused", device)
    assert not (tmp_path / "refused").exists()


def test_a_programs_current_gpu_is_its_own_again_afterwards(monkeypatch):
    """Streams and graphs are made on the current one; of two that are not there, here."""
    current = [0]

    def exchange(index):
        before, current[0] = current[0], index
        return before

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "_exchange_device", exchange)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", exchange)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: exchange(device.index))
    monkeypatch.setattr(switches, "put_back", contextlib.nullcontext)
    for name in ("compute_alike", "multiply_float32"):
        monkeypatch.setattr(switches, name, lambda how: None)
    with pytest.raises(KeyError), prepared("cuda:1"):
        assert current == [1]
        raise KeyError
    assert current == [0]
