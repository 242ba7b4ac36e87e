"""Full-length cells of a plan in a short time with a GPU: the last stage of benchmarks/gpu.py.

benchmarks/lease.py writes the plan, and brings it there with all that it needs. Called again in the
same folder, what is finished stays as it is, and the rest goes on from its checkpoints.
"""

import contextlib
import json
import math
import os
import signal
import tarfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import Bench, NotMeasured

from fedgloss.engine.backends import fused
from fedgloss.engine.checkpoint import Interrupted
from fedgloss.files import read_json
from fedgloss.jobs.cells import CellFiles
from fedgloss.jobs.signals import stop_on_signals
from fedgloss.jobs.spectrum import hessian, locals_of_last_round
from fedgloss.jobs.train import train_cells
from fedgloss.study.jobfile import HessianJob, LocalsJob, TrainingJob, read_job
from fedgloss.study.layout import MANIFEST

PLAN = "plan.json"
TO_PACK = 15.0
"""Seconds to keep for what comes after training: checkpoints, and packing the results."""
ALONE, MORE = 15.0, 1.1
"""Seconds of a group beside those of its units (loading, recording, and what of a GPU a single cell
leaves unused); and how many times what one group took by the unit the next one may take. Both as
measured on an H200: few cells take longer by the unit, and a group that does not end is lost."""
ANALYSES = {
    "hessian": (HessianJob, hessian, 12.0),
    "locals": (LocalsJob, locals_of_last_round, 30.0),
}
"""Jobs about a finished cell: the record, the work, and the seconds that must be left for it."""


def read_plan(bench: Bench) -> dict[str, Any]:
    """DATA/plan.json; NotMeasured where there is none."""
    folder = bench.options.data
    if folder is None or not (folder / PLAN).is_file():
        raise NotMeasured(f"needs --data, a folder with {PLAN} (benchmarks/lease.py)")
    return json.loads((folder / PLAN).read_text())


def cells(bench: Bench) -> dict:
    """The groups of DATA/plan.json, as many as the time allows; a group's last cells go first.

    OUT/results.tar has what they leave, without the models; OUT/rows.csv every row of metrics at
    once. What a group takes decides how much of the next one is begun.
    """
    plan = read_plan(bench)
    for precision, tiles in bench.tiles.items():
        fused.TILES[fused.STORAGE[precision][0].itemsize].update(tiles)
    bench.found["cells"] = found = {"groups": [], "analyses": {}}
    with contextlib.chdir(bench.options.data), stop_on_signals() as stopped:
        train_groups(bench, plan, found, stopped)
        pack_all(plan, bench.options.out)
    return found


def train_groups(
    bench: Bench, plan: dict[str, Any], found: dict[str, Any], stopped: Callable[[], bool]
) -> None:
    """Train and analyse, from the folder of the cells' files, until all is done or time is up.

    stopped: whether a signal came before the rounds of a group, or after; in them it is the job's.
    """
    unit = plan["seconds_a_unit"]
    for number, group in enumerate(plan["groups"]):
        if stopped():
            return
        waiting = [cell for cell in group if not is_finished(cell)]
        while waiting and expected(waiting, unit) > bench.left() - TO_PACK:
            waiting = waiting[:-1]
        names = [cell["name"] for cell in waiting]
        print(f"group {number}: {names}, {bench.left():.0f} s left", flush=True)
        here: dict[str, Any] = {"cells": names}
        found["groups"].append(here)
        if waiting:
            begun = time.monotonic()
            try:
                share = train(bench, waiting, stopped)
            except Interrupted as asked:
                here["interrupted"] = str(asked)
                print(f"group {number}: {asked}", flush=True)
                return
            except Exception as error:
                traceback.print_exc()
                here["error"] = f"{type(error).__name__}: {error}"
                bench.found["failed"].append(f"cells, group {number}")
                continue
            here["seconds"] = time.monotonic() - begun
            units = sum(cell["units"] for cell in waiting)
            if share == 1:  # it began at round 0, and so says how long the next one takes
                here["seconds_a_unit"] = here["seconds"] / units
                unit = max(here["seconds"] - ALONE, 0) / units
            print(f"group {number}: {here['seconds']:.1f} s, {units} units", flush=True)
            pack_all(plan, bench.options.out)
        for cell in filter(is_finished, group):
            for kind in ANALYSES:
                analyse(bench, cell, kind, found["analyses"])
        bench.write()


def expected(group: list[dict[str, Any]], unit: float) -> float:
    """Seconds within which a group ends, if the one before took so many by the unit."""
    return ALONE + MORE * unit * sum(cell["units"] for cell in group)


def is_finished(cell: dict[str, Any]) -> bool:
    """Whether the cell's run is there, trained as the plan has it."""
    job = cell["train"]
    file = Path(job["run"]) / MANIFEST
    if not file.is_file():
        return False
    manifest = read_json(file)
    return all(manifest.get(key) == job[key] for key in ("settings", "code"))


def train(bench: Bench, group: list[dict[str, Any]], stopped: Callable[[], bool]) -> float:
    """Train the cells of a group side by side; returns which share of the rounds was done here.

    A signal to itself ends what outlasts the time: with checkpoints, as any other signal does.
    Raises Interrupted then; also if `stopped` says that one came before the first round.
    """
    jobs = [job_of(cell["train"], TrainingJob) for cell in group]
    files = [CellFiles(j.settings, j.partition, j.run, j.code, j.checkpoints) for j in jobs]
    names = {id(file): cell["name"] for file, cell in zip(files, group, strict=True)}
    done = rounds = 0

    def watch(label: str, total: int, images: float):
        nonlocal rounds
        if stopped():
            raise Interrupted("a signal came before the first round")
        rounds, begun = total, time.monotonic()

        def on_round(t: int, row: dict[str, float] | None) -> None:
            nonlocal done
            done += 1
            if t % 1000 == 0:
                ms = 1e3 * (time.monotonic() - begun) / done
                print(f"  round {t}, {ms:.2f} ms a round, {bench.left():.0f} s left", flush=True)

        return on_round

    left = max(bench.left() - TO_PACK, 1)
    alarm = threading.Timer(left, os.kill, (os.getpid(), signal.SIGUSR1))
    with open(bench.options.out / "rows.csv", "a") as rows:

        def on_row(file: CellFiles, row: dict[str, float]) -> None:
            rows.write(f"{names[id(file)]},{','.join(map(str, row.values()))}\n")
            rows.flush()

        alarm.start()
        try:
            # Checkpoints of a hundred clients take seconds: none but that of an interruption.
            train_cells(
                files, jobs[0].data, device=bench.options.device, watch=watch, on_row=on_row,
                checkpoint_rounds=2**62, checkpoint_seconds=math.inf,
            )  # fmt: skip
        finally:
            alarm.cancel()
    return done / rounds


def analyse(bench: Bench, cell: dict[str, Any], kind: str, found: dict[str, float]) -> None:
    """lambda_1 of a cell's averaged model, or of its local ones (`locals`): a job of the study."""
    record, work, least = ANALYSES[kind]
    content = cell[kind]
    if content is None or Path(content["out"]).exists() or bench.left() < least:
        return
    name, begun = f"{kind} {cell['name']}", time.monotonic()
    failed = bench.attempt(name, lambda: work(job_of(content, record), bench.options.device))
    found[name] = failed or time.monotonic() - begun
    print(f"  {name}: {found[name]}", flush=True)


def job_of(content: dict[str, Any], record: type) -> Any:
    """A job from its file's content."""
    path = Path("job.json")
    path.write_text(json.dumps(content))
    return read_job(path, record)


def pack_all(plan: dict[str, Any], out: Path) -> None:
    """What comes home of the groups so far: results.tar, and the models that the plan wants."""
    pack(out / "results.tar")
    wanted = [cell for group in plan["groups"] for cell in group if cell["bring"]]
    pack_models(wanted, out)


def pack(archive: Path) -> None:
    """The results folder, but for its tensors: models, checkpoints and images."""

    def small(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if entry.name.endswith((".safetensors", "results/checkpoints")) else entry

    pack_files(archive, [Path("results")], small)


def pack_models(wanted: list[dict[str, Any]], out: Path) -> None:
    """The wanted cells' averaged models, and the local ones of those measured (`locals`).

    Each archive has five models of the CNN, about 15 MiB: files larger than 16 MiB do not travel.
    """
    runs = [Path(cell["train"]["run"]) for cell in wanted]
    fives = [runs[begin : begin + 5] for begin in range(0, len(runs), 5)]
    archives = {
        f"averages-{number}": [run / "average.safetensors" for run in five]
        for number, five in enumerate(fives)
    }
    with_locals = [run for run, cell in zip(runs, wanted, strict=True) if cell["locals"]]
    for number, run in enumerate(with_locals):
        archives[f"locals-{number}"] = [run / "locals.safetensors"]
    for name, files in archives.items():
        if there := [file for file in files if file.exists()]:
            pack_files(out / f"{name}.tar", there)


def pack_files(
    archive: Path,
    paths: list[Path],
    only: Callable[[tarfile.TarInfo], tarfile.TarInfo | None] | None = None,
) -> None:
    """An archive in place of an earlier one, which stays until this one is whole."""
    with tarfile.open(archive.with_suffix(".new"), "w") as packed:
        for path in paths:
            packed.add(path, filter=only)
    archive.with_suffix(".new").replace(archive)
