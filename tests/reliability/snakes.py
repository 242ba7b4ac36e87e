"""Snakemake as a process that can be killed, alone or with its jobs."""

import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from workflow.project import environment, files


@dataclass
class Snake:
    """A running Snakemake on a copy of the project; what it says is in `log`."""

    process: subprocess.Popen
    log: Path

    @classmethod
    def start(cls, project: Path, *arguments: str, name: str = "log.txt") -> "Snake":
        log = project / name
        with open(log, "wb") as file:
            process = subprocess.Popen(
                ["snakemake", "--cores=2", "--nocolor", "--quiet=host", *arguments],
                cwd=project,
                env=environment(project),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(process, log)

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait_until_it_says(self, *words: str) -> None:
        """Wait for any of these words."""
        while not any(word in self.said() for word in words):
            assert self.process.poll() is None, self.said()
            time.sleep(0.02)

    def wait_for_trainer(self) -> psutil.Process:
        """Wait until one of its jobs is in its round loop."""
        while (job := trainer(self)) is None:
            assert self.process.poll() is None, self.said()
            time.sleep(0.02)
        return job

    def jobs(self) -> list[psutil.Process]:
        """All processes below it."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self, with_jobs: bool) -> list[psutil.Process]:
        """SIGKILL; returns the jobs that live on."""
        jobs = self.jobs()
        self.process.kill()
        self.process.wait()
        for job in jobs if with_jobs else []:
            try:
                job.kill()
            except psutil.NoSuchProcess:
                continue
        return [] if with_jobs else jobs

    def made(self, what: str) -> set[str]:
        """The outputs of the jobs that were "started" or "finished"."""
        text, outputs = self.said(), {}
        for block in re.split(r"^(?=(?:local)?rule \w+:$)", text, flags=re.M):
            output = re.search(r"^    output: (.*)$", block, flags=re.M)
            number = re.search(r"^    jobid: (\d+)$", block, flags=re.M)
            if output and number:
                outputs[number[1]] = output[1]
        done = set(re.findall(r"^Finished jobid: (\d+) ", text, flags=re.M))
        return {text for n, text in outputs.items() if what == "started" or n in done}


def trainer(snake: Snake) -> psutil.Process | None:
    """The job that is in its round loop: it has a handler of its own for SIGUSR1 (Linux)."""
    for job in snake.jobs():
        try:
            if "fedgloss" in " ".join(job.cmdline()[:2]):
                with open(f"/proc/{job.pid}/status", encoding="ascii") as status:
                    caught = next(line for line in status if line.startswith("SigCgt"))
                if int(caught.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1:
                    return job
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            continue
    return None


def strays(project: Path) -> list[str]:
    """What has no place among finished results: temporary files, checkpoints."""
    return [
        name
        for name in files(project / "results", "*")
        if name.endswith((".tmp", ".owner")) or "checkpoints" in name or "/." in name
    ]


def numbers(project: Path) -> dict[str, bytes]:
    """All results that depend on nothing but the study: no manifests, logs, or times."""
    kinds = ("*.csv", "*.md", "*.tex", "*.safetensors", "partition.json", "hessian.json")
    found = {
        name: content
        for kind in kinds
        for name, content in files(project / "results", kind).items()
    }
    return found
