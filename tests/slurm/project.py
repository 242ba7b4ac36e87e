"""A small study on the cluster, and jobs that are stopped where something is to happen to them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workflow.project import environment, files

STUDY = """\
study: faults
seeds: [0, 1, 2]
training: {rounds: 120, evaluate_every: 40, last: 2}
grid:
  - {dataset: digits, alphas: ["0"], model: smallcnn, algorithms: [fedavg, fedgloss]}
"""
CELLS = ("fedavg-seed-0", "fedavg-seed-1", "fedavg-seed-2", "fedgloss-seed-0", "fedgloss-seed-1")
CONFIG = "--configfile=config/faults.yaml"
CONDITION = "faults/digits/alpha-0/smallcnn"
CHECKPOINT_ROUNDS = 20

# Questions every second or two instead of every minute; and GPUs, which digits do not ask for.
QUICK = (
    "--profile=slurm",
    CONFIG,
    "--nocolor",
    "--slurm-init-seconds-before-status-checks=1",
    "--seconds-between-status-checks=1",
    "--max-status-checks-per-second=1",
    "--latency-wait=10",
    "--set-resources",
    "train:gpu=1",
    "--",
)

# Stands before the real command on a job's PATH. Notes each start of a training; a cell for which
# a plan is laid out is stopped behind a checkpoint, as many times as the plan says.
STAND_IN = """\
#!{python}
import json, os, signal, subprocess, sys, time
from pathlib import Path

arguments = sys.argv[1:]
real = [{python!r}, "-m", "fedgloss"]
if arguments[0] != "train":
    os.execv(real[0], [*real, *arguments])
told = json.loads(Path(arguments[1]).read_text())
cell = "-".join(Path(told["run"]).parts[-2:])
notes = Path("{notes}")
starts = notes / f"{{cell}}.starts"
with open(starts, "a") as file:
    print(os.environ.get("SLURM_JOB_ID", "local"), file=file)
attempt = len(starts.read_text().splitlines())
every = ["--checkpoint-rounds", "{every}", "--checkpoint-seconds", "1000000"]
trainer = subprocess.Popen([*real, *arguments, *every])
plan = notes / f"{{cell}}.plan"
if plan.exists() and attempt <= json.loads(plan.read_text())["times"]:
    folder = Path(told["checkpoints"])
    before = set(folder.glob("round-*"))
    while set(folder.glob("round-*")) <= before:
        assert trainer.poll() is None, "ended before it could be stopped"
        time.sleep(0.002)
    trainer.send_signal(signal.SIGSTOP)
    rounds = max(int(path.stem[6:]) for path in folder.glob("round-*.safetensors"))
    stopped = {{"job": os.environ["SLURM_JOB_ID"], "attempt": attempt, "round": rounds}}
    stopped["gpus"] = os.environ.get("CUDA_VISIBLE_DEVICES")
    temporary = notes / f".{{cell}}.{{attempt}}"
    temporary.write_text(json.dumps(stopped))
    temporary.rename(notes / f"{{cell}}.stopped-{{attempt}}")
    if json.loads(plan.read_text())["then"] == "fail":
        trainer.kill()
        sys.exit(1)
    while not (notes / f"{{cell}}.go-on").exists():
        time.sleep(0.02)
    trainer.send_signal(signal.SIGCONT)
sys.exit(trainer.wait())
"""


# Stands before sacct likewise: notes how each question ended.
ASKING = """\
#!/bin/sh
{sacct} "$@"
code=$?
echo $code >> {notes}/sacct
exit $code
"""


@dataclass(frozen=True)
class Stopped:
    """A training that stands still: its SLURM job, its newest checkpoint, the GPUs it was given."""

    job: str
    attempt: int
    round: int
    gpus: str | None


class Run:
    """Snakemake on a copy of the project, submitting to the cluster."""

    def __init__(self, folder: Path, prepared: Path) -> None:
        """Lay out a copy whose data and partitions are made, without any result."""
        shutil.copytree(prepared, folder, symlinks=True)
        for part in ("runs", "report", "logs"):
            shutil.rmtree(folder / "results" / part, ignore_errors=True)
        self.folder, self.notes = folder, folder / "notes"
        self.notes.mkdir()
        (folder / "bin").mkdir()
        for name, text in (("fedgloss", STAND_IN), ("sacct", ASKING)):
            command = folder / "bin" / name
            command.write_text(
                text.format(
                    python=sys.executable,
                    sacct=shutil.which("sacct"),
                    notes=self.notes,
                    every=CHECKPOINT_ROUNDS,
                )
            )
            command.chmod(0o755)
        self.process: subprocess.Popen | None = None

    def plan(self, cell: str, then: str = "wait", times: int = 1) -> None:
        """Stop a cell in each of its first attempts; then it waits, or fails."""
        self.notes.joinpath(f"{cell}.plan").write_text(json.dumps({"then": then, "times": times}))

    def start(self, *targets: str, options: Sequence[str] = ()) -> None:
        """Start Snakemake; all cells, if no target is given."""
        variables = environment(self.folder)
        variables["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{variables['PATH']}"
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["snakemake", *options, *QUICK, *targets],
                cwd=self.folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stopped(self, cell: str, attempt: int = 1) -> Stopped:
        """Wait until a cell's training stands still."""
        note = self.notes / f"{cell}.stopped-{attempt}"
        self.wait(note.exists, f"{cell} to stop")
        return Stopped(**json.loads(note.read_text()))

    def go_on(self, cell: str) -> None:
        """Let a cell that stands still go on."""
        (self.notes / f"{cell}.go-on").touch()

    def wait(self, ready: Callable[[], bool], what: str, seconds: float = 240) -> None:
        """Wait for something that happens while Snakemake runs, or after it was killed."""
        end = time.monotonic() + seconds
        while not ready():
            ended = self.process is not None and self.process.poll() is not None
            if ended or time.monotonic() > end:
                raise AssertionError(f"waited in vain for {what}\n{self.log}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End Snakemake as the death of its machine would; its jobs go on."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def finish(self, seconds: float = 300) -> int:
        """Wait for Snakemake to end; its exit code."""
        return self.process.wait(seconds)

    @property
    def log(self) -> str:
        """What Snakemake has said."""
        return (self.folder / "log").read_text(encoding="utf-8")

    def starts(self, cell: str) -> list[str]:
        """The SLURM jobs in which a cell's training was started."""
        note = self.notes / f"{cell}.starts"
        return note.read_text().split() if note.exists() else []

    def questions_failed(self) -> int:
        """How many times sacct did not answer."""
        note = self.notes / "sacct"
        return len(note.read_text().replace("0", "").split()) if note.exists() else 0

    def resumed(self, cell: str) -> int | None:
        """The round after which a cell's last attempt went on, None if it began anew."""
        log = self.folder / "results/logs/train" / CONDITION / f"{path(cell)}.log"
        found = re.search(r"goes on after round (\d+)", log.read_text(encoding="utf-8"))
        return int(found[1]) if found else None


def path(cell: str) -> str:
    """A cell's folder: fedavg-seed-0 is in fedavg/seed-0."""
    return cell.replace("-seed-", "/seed-")


def results(project: Path, cell: str) -> dict[str, bytes]:
    """A cell's metrics and models."""
    folder = project / "results/runs" / CONDITION / path(cell)
    return {**files(folder, "metrics.csv"), **files(folder, "*.safetensors")}


def target(*cells: str) -> list[str]:
    """The targets that make these cells."""
    return [f"results/runs/{CONDITION}/{path(cell)}/metrics.csv" for cell in cells]
