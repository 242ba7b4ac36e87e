"""Copies of the project, and Snakemake run on them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from workflow import forked

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "workflow", "config", "profiles", "envs", "src")
CONSTANTS = Path("src/fedgloss/study/constants")
SMOKE = "--configfile=config/smoke.yaml"
CORES = 2


def copy_project(folder: Path, source: Path = ROOT) -> Path:
    """The project without results, as a clone would have it."""
    for part in PARTS:
        if (source / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".snakemake")
            shutil.copytree(source / part, folder / part, symlinks=True, ignore=ignored)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / part, folder / part)
    return folder


def environment(project: Path) -> dict[str, str]:
    """Jobs find the copy's code and this Python's commands."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(project / "src")}


def snakemake(
    project: Path, *arguments: str, cwd: Path | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake on a copy of the project, on two cores unless `arguments` say otherwise."""
    options = ("--cores", str(CORES), "--nocolor", *arguments)
    return forked.snakemake(options, cwd or project, environment(project), timeout)


def build(project: Path, *arguments: str, cwd: Path | None = None) -> str:
    """Run Snakemake; it must succeed. Returns what it says."""
    shown = snakemake(project, *arguments, cwd=cwd)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    return shown.stdout + shown.stderr


def planned(project: Path, *arguments: str, cwd: Path | None = None) -> list[tuple[str, str]]:
    """What a dry run would do: (rule, its wildcards' values, joined) for each job, sorted.

    Named targets and `all` make nothing and are left out.
    """
    text = build(project, "--dry-run", "--quiet=progress", *arguments, cwd=cwd)
    jobs = []
    for block in text.split("\n\n"):
        for rule in re.split(r"^\[.*\]$", block, flags=re.M):
            name = re.search(r"^(?:local)?rule (\S+):$", rule, flags=re.M)
            found = re.search(r"^    wildcards: (.*)$", rule, flags=re.M)
            if name and re.search(r"^    output: ", rule, flags=re.M):
                values = [part.split("=", 1)[1] for part in found[1].split(", ")] if found else []
                jobs.append((name[1], "/".join(values)))
    return sorted(jobs)


def rules(jobs: Sequence[tuple[str, str]]) -> dict[str, int]:
    """How many jobs of each rule."""
    names = [name for name, _ in jobs]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    """The files below a folder that match a pattern, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    }
