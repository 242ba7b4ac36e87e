"""Real `fedgloss train` processes that start at once: forked from one that has imported PyTorch.

They run the command's own `main`, die by real signals, and leave what a killed process leaves.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from unit.cells import OUTPUTS, cell_settings, job_file

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    ["fedgloss.cli", "fedgloss.fingerprint", "fedgloss.progress", "fedgloss.jobs.train"]
)

HANGS = 300
"""Seconds after which a run of a few rounds has stopped for ever."""

Fault = Callable[[], None]


@dataclass(frozen=True)
class Cell:
    """A cell to train in a folder of its own: results in out/, checkpoints in checkpoints/."""

    folder: Path
    inputs: dict[str, Path]
    settings: dict = field(default_factory=cell_settings)
    every: int = 2
    """Rounds between checkpoints."""
    backend: str = "auto"
    log: str = "log"
    """Where its standard error goes."""

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def but(self, folder: Path, **changes: object) -> "Cell":
        """The same cell elsewhere, or a changed one."""
        return replace(self, folder=folder, **changes)

    def command(self) -> list[str]:
        """What stands after `fedgloss`."""
        where = {"run": self.out, "checkpoints": self.checkpoints, **self.inputs}
        told = self.folder.with_name(f"{self.folder.name}-job.json")
        job = job_file(told, settings=self.settings, **where)
        options = {"checkpoint-rounds": self.every, "backend": self.backend, "device": "cpu"}
        return ["train", job, *(str(x) for k, v in options.items() for x in (f"--{k}", v))]

    def start(self, fault: Fault | None = None) -> BaseProcess:
        """A new process that trains, after `fault` has prepared what is to happen to it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / self.log).write_text("")  # it may be killed before it says anything
        process = FORKED.Process(target=_main, args=(self.command(), self.folder / self.log, fault))
        process.start()
        return process

    def run(self, fault: Fault | None = None) -> int:
        """Train to the process's end; its exit code, or minus the signal that ended it."""
        process = self.start(fault)
        process.join(HANGS)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"still running after {HANGS} s: {self.said()}")
        return process.exitcode

    def said(self) -> list[str]:
        """What the last process wrote to its standard error, without the progress."""
        lines = (self.folder / self.log).read_text(encoding="utf-8").splitlines()
        return [line for line in lines if "rounds/s" not in line]

    def results(self) -> dict[str, object]:
        """Every file of the results, byte for byte; of the manifest, all but the time it took."""
        found = {path.name: path.read_bytes() for path in self.out.iterdir()}
        assert {*found} == {*OUTPUTS, "manifest.json"}
        manifest = json.loads(found["manifest.json"])
        for measured in ("wall_seconds", "images_per_second"):
            del manifest[measured]
        return {**found, "manifest.json": manifest}

    def everything(self) -> set[str]:
        """All files and folders, but for the logs."""
        found = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}
        return {name for name in found if not name.startswith("log")}


FINISHED = {"out", *(f"out/{name}" for name in (*OUTPUTS, "manifest.json"))}
"""`Cell.everything` after a run: the results, and neither checkpoints nor temporary files."""


def wait_until_stopped(process: BaseProcess) -> None:
    """Wait until a fault's SIGSTOP; a process that ends before fails the test."""
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.exitcode is None, "it ended before the fault"
        time.sleep(0.005)


def _main(command: list[str], log: Path, fault: Fault | None) -> None:
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    from fedgloss.cli import main

    if fault:
        fault()
    sys.exit(main(command))
