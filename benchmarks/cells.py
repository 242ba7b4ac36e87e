"""Full-length cells of a study in a short time with a GPU: the last stage of benchmarks/gpu.py.

    python benchmarks/cells.py STUDY --out DIR [DATASET/]METHOD,METHOD,...:SEED,SEED,... ...

writes DIR/plan.json: for each argument a group of cells to be trained together, in this order. DIR
is the working folder of their jobs: it has the prepared data and the partitions as a build of the
study makes them, and gets the results.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import Bench

COUNTED = 2
"""A client with SAM takes so many gradients a step."""


def cells(bench: "Bench") -> dict:
    """The groups of DATA/plan.json, as many as the time allows; a group's last cells go first.

    OUT/results.tar has what they leave, without the models; OUT/rows.csv every row of metrics at
    once. What a group takes decides whether the next one is begun.
    """
    from fedgloss.engine.backends import fused as fused_backend

    options, found = bench.options, {"groups": [], "analyses": {}}
    for precision, tiles in bench.tiles.items():
        fused_backend.TILES[fused_backend.STORAGE[precision][0].itemsize].update(tiles)
    out = options.out.resolve()
    os.chdir(options.data)
    plan = json.loads(Path("plan.json").read_text())
    unit = plan["seconds_a_unit"]
    bench.found["cells"], finished = found, []
    for number, group in enumerate(plan["groups"]):
        while group and unit * sum(cell["units"] for cell in group) > bench.left() - 15:
            group = group[:-1]
        names = [cell["name"] for cell in group]
        print(f"group {number}: {names}, {bench.left():.0f} s left", flush=True)
        if not group:
            continue
        begun = time.monotonic()
        try:
            train(bench, group, out)
        except Exception as error:
            traceback.print_exc()
            found["groups"].append({"cells": names, "error": f"{type(error).__name__}: {error}"})
            continue
        wall = time.monotonic() - begun
        unit = wall / sum(cell["units"] for cell in group)
        found["groups"].append({"cells": names, "seconds": wall, "seconds_a_unit": unit})
        print(f"group {number}: {wall:.1f} s, {unit:.2f} s a unit", flush=True)
        pack(out / "results.tar")
        finished += group
        for cell in group:
            analyse(bench, cell, "hessian", found["analyses"])
        if number == plan["locals_after"]:
            for cell in finished:
                analyse(bench, cell, "locals", found["analyses"])
        pack(out / "results.tar")
        bench.write()
    models = [cell for group in plan["groups"] for cell in group if cell["bring"]]
    pack_models(models, out)
    return found


def train(bench: "Bench", group: list[dict[str, Any]], out: Path) -> None:
    """The cells of a group, side by side; a signal to itself ends what outlasts the time."""
    from fedgloss.jobs.train import CellFiles, train_cells
    from fedgloss.study.jobfile import TrainingJob

    jobs = [job_of(cell["train"], TrainingJob) for cell in group]
    files = [CellFiles(job.settings, job.partition, job.run, job.code) for job in jobs]
    names = {id(file): cell["name"] for file, cell in zip(files, group, strict=True)}
    rows = open(out / "rows.csv", "a")  # noqa: SIM115

    def on_row(file: CellFiles, row: dict[str, float]) -> None:
        rows.write(f"{names[id(file)]},{','.join(map(str, row.values()))}\n")
        rows.flush()

    def watch(label: str, total: int, images: float):
        begun = time.monotonic()

        def on_round(t: int, row: dict[str, float] | None) -> None:
            if t % 1000 == 0:
                here = 1e3 * (time.monotonic() - begun) / t
                print(f"  round {t}, {here:.2f} ms a round, {bench.left():.0f} s left", flush=True)

        return on_round

    alarm = threading.Timer(max(bench.left() - 4, 1), os.kill, (os.getpid(), signal.SIGUSR1))
    alarm.start()
    try:
        train_cells(files, jobs[0].data, device=bench.options.device, watch=watch, on_row=on_row)
    finally:
        alarm.cancel()
        rows.close()


def analyse(bench: "Bench", cell: dict[str, Any], kind: str, found: dict[str, float]) -> None:
    """lambda_1 of a cell's averaged model, or of its local ones (`locals`): a job of the study."""
    from fedgloss.jobs.spectrum import hessian, locals_of_last_round
    from fedgloss.study.jobfile import HessianJob, LocalsJob

    kinds = {"hessian": (HessianJob, hessian, 12), "locals": (LocalsJob, locals_of_last_round, 30)}
    record, work, least = kinds[kind]
    if cell[kind] is None or bench.left() < least:
        return
    begun = time.monotonic()
    try:
        work(job_of(cell[kind], record), bench.options.device)
    except Exception:
        traceback.print_exc()
    found[f"{kind} {cell['name']}"] = time.monotonic() - begun
    print(f"  {kind} {cell['name']}: {time.monotonic() - begun:.1f} s", flush=True)


def job_of(content: dict[str, Any], record: type) -> Any:
    """A job from its file's content."""
    from fedgloss.study.jobfile import read_job

    path = Path("job.json")
    path.write_text(json.dumps(content))
    return read_job(path, record)


def pack(archive: Path) -> None:
    """All results but the models and the data."""

    def small(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if entry.name.endswith((".safetensors", "results/data")) else entry

    with tarfile.open(archive.with_suffix(".new"), "w") as packed:
        packed.add("results", filter=small)
    archive.with_suffix(".new").replace(archive)


def pack_models(wanted: list[dict[str, Any]], out: Path) -> None:
    """The models that the plan wants brought, five of a CNN an archive: none larger than 16 MiB."""
    averages = [f"{cell['train']['run']}/average.safetensors" for cell in wanted]
    archives = {"averages": averages} | {
        f"locals-{n}": [f"{cell['train']['run']}/locals.safetensors"]
        for n, cell in enumerate(cell for cell in wanted if cell.get("locals"))
    }
    for name, files in archives.items():
        with tarfile.open(out / f"{name}.tar", "w") as packed:
            for file in files:
                if Path(file).exists():
                    packed.add(file)


def planned(
    study: Path, cell: str, units: int, alone: bool, local: bool, bring: bool
) -> dict[str, Any]:
    """A cell as the plan has it: the jobs that `fedgloss job` prints; alone: its training only."""

    def job(kind: str) -> Any:
        command = [sys.executable, "-m", "fedgloss", "job", str(study), cell, kind]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    return {
        "name": cell, "units": units, "bring": bring, "train": job("train"),
        "hessian": None if alone else job("hessian"), "locals": job("locals") if local else None,
    }  # fmt: skip


def together(group: list[dict[str, Any]]) -> None:
    """SystemExit if these cells cannot be trained side by side: before a GPU waits for them."""
    from fedgloss.errors import InputError
    from fedgloss.jobs.train import CellFiles, check_same_shape
    from fedgloss.study.jobfile import TrainingJob

    jobs = [job_of(cell["train"], TrainingJob) for cell in group]
    try:
        check_same_shape([CellFiles(j.settings, j.partition, j.run, j.code) for j in jobs])
    except InputError as error:
        raise SystemExit(f"{', '.join(cell['name'] for cell in group)}: {error}") from None


def main() -> None:
    """Write a plan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", default="cifar10", help="of groups that name none")
    parser.add_argument("--where", default="alpha-0/cnn", help="alpha, model")
    parser.add_argument("--sgd", default="fedavg,fedprox,feddyn,scaffold,fedgloss-sgd")
    parser.add_argument("--train-only", action="store_true", help="no lambda_1: a sweep has none")
    parser.add_argument("--locals", default="", help="METHOD,...: measure local models")
    parser.add_argument("--locals-after", type=int, default=0, help="which group, 0 first")
    parser.add_argument("--divergence", default="", help="METHODS:SEEDS to be looked into")
    parser.add_argument("--seconds", type=float, default=150, help="at most for these")
    parser.add_argument("--bring", default="", help="METHOD,...: models to bring home")
    parser.add_argument("--unit", type=float, default=17.0, help="seconds for SGD clients' 1 run")
    parser.add_argument("groups", nargs="+", metavar="[DATASET/]METHODS:SEEDS")
    options = parser.parse_args()
    study, pending = options.study.resolve(), set(options.locals.split(","))
    wanted, sgd, groups = set(options.bring.split(",")), options.sgd.split(","), []
    os.chdir(options.out)
    for group in filter(None, [*options.groups, options.divergence]):
        *dataset, group = group.rsplit("/", 1)
        where = f"{(dataset or [options.dataset])[0]}/{options.where}"
        methods, seeds = (part.split(",") for part in group.split(":"))
        groups.append([])
        for seed in seeds:
            for method in methods:
                units = 1 if method in sgd else COUNTED
                cell = f"{where}/{method}/seed-{seed}"
                here = method in pending, method in wanted
                groups[-1].append(planned(study, cell, units, options.train_only, *here))
                pending -= {method}
                wanted -= {method}
    for group in groups:
        together(group)
    plan = {"seconds_a_unit": options.unit, "locals_after": options.locals_after, "groups": groups}
    if options.divergence:
        plan["divergence"] = {"seconds": options.seconds, "cells": groups.pop()}
    Path("plan.json").write_text(json.dumps(plan, indent=1) + "\n")


if __name__ == "__main__":
    main()
