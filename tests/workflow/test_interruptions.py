"""Ctrl-C in the middle, then the same command again."""

import os
import signal
import subprocess
import time

import psutil
import pytest

from workflow.project import build, environment, files

pytestmark = pytest.mark.slow

STUDY = """\
study: slow
seeds: [0]
training: {rounds: 1500, clients_per_round: 2, batch_size: 28, evaluate_every: 300, last: 2}
grid:
  - {dataset: digits, alphas: ["0"], model: smallcnn, algorithms: [fedgloss]}
"""
CONFIG = "--configfile=config/slow.yaml"
RUN = "results/runs/slow"


@pytest.fixture
def slow(finished):
    """A copy whose data are prepared, with a study of one cell that trains for some seconds."""
    (finished / "config" / "slow.yaml").write_text(STUDY, encoding="utf-8")
    return finished


def listens(process: psutil.Process, number: int) -> bool:
    """Whether a process has a handler of its own for a signal (Linux)."""
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
        caught = next(line for line in status if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def trains(process: subprocess.Popen) -> bool:
    """Whether a job below this process is in its round loop."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "fedgloss" in " ".join(child.cmdline()[:2]) and listens(child, signal.SIGUSR1):
                return True
        except (psutil.NoSuchProcess, FileNotFoundError):
            continue
    return False


def test_ctrl_c_and_the_same_command_again_is_bit_equal(slow):
    command = ["snakemake", "--cores", "2", "--nocolor", "only_fedgloss", CONFIG]
    process = subprocess.Popen(
        command,
        cwd=slow,
        env=environment(slow),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not trains(process):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: to Snakemake and its jobs
    assert process.wait(60) != 0
    checkpoints = slow / "results" / "checkpoints"
    assert len(files(checkpoints, "*.safetensors")) == 1, "the job wrote a checkpoint"
    assert not files(slow / RUN, "*"), "no results before the end"

    build(slow, "only_fedgloss", CONFIG)  # no unlocking, no special option
    log = slow / "results/logs/train/slow/digits/alpha-0/smallcnn/fedgloss/seed-0.log"
    assert "goes on after round" in log.read_text(encoding="utf-8")
    interrupted = {kind: files(slow / RUN, kind) for kind in ("metrics.csv", "*.safetensors")}
    assert not files(checkpoints, "*")

    build(slow, "only_fedgloss", CONFIG, "--forcerun=train")
    assert "goes on after round" not in log.read_text(encoding="utf-8")
    for kind, expected in interrupted.items():
        assert files(slow / RUN, kind) == expected and expected
