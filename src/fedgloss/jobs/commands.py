"""What each command of `fedgloss` about data and cells does; imports only what it needs."""

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedgloss.errors import InputError
from fedgloss.study.layout import CELL

if TYPE_CHECKING:
    from fedgloss.study.jobfile import TrainingJob

INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again


def prepare(options: argparse.Namespace) -> None:
    from fedgloss.data.dataset import prepare

    prepare(
        options.source,
        options.out,
        root=options.root,
        download=options.download,
        images=options.images,
        size=options.size,
        name=options.name,
    )


def partition(options: argparse.Namespace) -> None:
    from fedgloss.data.dataset import load
    from fedgloss.data.partition.partition import HeldOut, make_partition

    held_out = HeldOut(options.held_out, options.held_out_seed) if options.held_out else None
    dataset = load(options.data, verify=True)
    make_partition(
        dataset,
        options.out,
        scheme=options.scheme,
        clients=options.clients,
        alpha=options.alpha,
        seed=options.seed,
        file=options.file,
        held_out=held_out,
    )
    if options.figure:
        from fedgloss.data.partition.picture import plot_partition

        plot_partition(options.out, dataset, options.figure)


def check_code(file: str, job: "TrainingJob") -> None:
    """Refuse a job whose code was edited since it was made: its run would bear the wrong mark."""
    from fedgloss.fingerprint import of_training

    settings = job.settings
    if job.code != of_training(settings.method, settings.model, job.weights is not None):
        from fedgloss.algorithms import build_algorithm
        from fedgloss.models import constructor

        build_algorithm(settings.method, settings.variants)  # what cannot be is said first
        constructor(settings.model)
        raise InputError(
            f"{file}: code: the code behind its numbers has been edited since the job was made;"
            " give the command that made it again (snakemake ..., or fedgloss job)"
        )


def train(options: argparse.Namespace) -> int:
    from fedgloss.engine.checkpoint import Interrupted
    from fedgloss.files import check_writable
    from fedgloss.jobs.train import CellFiles, train_cells
    from fedgloss.progress import Progress, Scalars
    from fedgloss.study.jobfile import TrainingJob, read_job

    scalars = Scalars(options.tensorboard) if options.tensorboard else None
    if len(options.paused) != (len(options.job) if options.until else 0):
        raise InputError("--paused: with --until one file for each job, and none without")
    jobs = [read_job(file, TrainingJob) for file in options.job]
    for file, job in zip(options.job, jobs, strict=True):
        check_code(file, job)
        for name in ("data", "weights"):
            given, first = getattr(job, name), getattr(jobs[0], name)
            if given != first:
                raise InputError(
                    f"{file}: {name}: cells trained together must agree, but have {first} and"
                    f" {given}"
                )
        if [other.run for other in jobs].count(job.run) > 1:
            raise InputError(f"{file}: run: {job.run} is given twice; a cell is trained once")
        if options.until and options.until >= job.settings.training["rounds"]:
            raise InputError(
                f"--until: {options.until}, but {file} ends after"
                f" {job.settings.training['rounds']} rounds; allowed: fewer"
            )
        if options.until and job.checkpoints is None:
            raise InputError(f"{file}: checkpoints: null, but --until leaves one to go on from")
        for folder in filter(None, (job.run, job.checkpoints)):
            check_writable(folder)  # before hours of training, not after

    def show(cell: CellFiles, row: Mapping[str, float]) -> None:
        if scalars:
            scalars(CELL.format(**cell.settings.to_json()), row)

    cells = [
        CellFiles(job.settings, job.partition, job.run, job.code, job.checkpoints) for job in jobs
    ]
    try:
        results = train_cells(
            cells,
            jobs[0].data,
            weights=jobs[0].weights,
            checkpoint_rounds=options.checkpoint_rounds,
            checkpoint_seconds=options.checkpoint_seconds,
            device=options.device,
            threads=options.threads,
            backend=options.backend,
            until=options.until,
            paused=options.paused,
            watch=Progress,
            on_row=show,
        )
    except Interrupted:
        kept = all(job.checkpoints for job in jobs)
        again = "run the same command again to go on" if kept else "nothing was kept"
        print(f"interrupted; {again}", file=sys.stderr)
        return INTERRUPTED
    for cell, result in zip(cells, results, strict=False):  # none of a run that paused
        if result.status == "diverged":
            print(
                f"{cell.out}: diverged in round {result.diverged_in}: recorded as a result",
                file=sys.stderr,
            )
    return 0


def hessian(options: argparse.Namespace) -> None:
    from fedgloss.jobs.spectrum import hessian
    from fedgloss.progress import Products
    from fedgloss.study.jobfile import HessianJob, read_job

    for job in [read_job(file, HessianJob) for file in options.job]:
        hessian(job, options.device, options.threads, Products)


def locals_(options: argparse.Namespace) -> None:
    from fedgloss.jobs.spectrum import locals_of_last_round
    from fedgloss.progress import Products
    from fedgloss.study.jobfile import LocalsJob, read_job

    for job in [read_job(file, LocalsJob) for file in options.job]:
        locals_of_last_round(job, options.device, options.threads, Products)


def landscape(options: argparse.Namespace) -> None:
    from fedgloss.jobs.landscape import landscape
    from fedgloss.progress import Progress
    from fedgloss.study.jobfile import LandscapeJob, read_job

    for job in [read_job(file, LandscapeJob) for file in options.job]:
        landscape(job, options.device, options.threads, watch=Progress)


def line(options: argparse.Namespace) -> None:
    from fedgloss.jobs.landscape import line
    from fedgloss.progress import Progress
    from fedgloss.study.jobfile import LineJob, read_job

    for job in [read_job(file, LineJob) for file in options.job]:
        line(job, options.device, options.threads, watch=Progress)
