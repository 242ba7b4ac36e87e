"""What each command of `fedgloss` does with its options; imports what it needs, and only then."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from fedgloss.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from fedgloss.study.study import Study

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
    from fedgloss.data.partition.partition import make_partition, plot_partition

    dataset = load(options.data, verify=True)
    make_partition(
        dataset,
        options.out,
        scheme=options.scheme,
        clients=options.clients,
        alpha=options.alpha,
        seed=options.seed,
        file=options.file,
    )
    if options.figure:
        plot_partition(options.out, dataset, options.figure)


def train(options: argparse.Namespace) -> int:
    from fedgloss.engine.checkpoint import Interrupted
    from fedgloss.files import check_writable
    from fedgloss.fingerprint import of_training
    from fedgloss.jobs.train import CellFiles, train_cells
    from fedgloss.progress import Progress, Scalars
    from fedgloss.study.settings import Settings

    scalars = options.tensorboard and Scalars(options.tensorboard)
    cells = []
    number = len(options.settings)
    for name in ("partition", "out", "checkpoints", "code"):
        given = getattr(options, name)
        if given and len(given) != number:
            raise InputError(f"--{name}: {len(given)} for {number} --settings")
    for i, text in enumerate(options.settings):
        settings = _read_settings(text)
        Settings.from_json(settings)
        code = (
            options.code[i]
            if options.code
            else of_training(settings["method"], settings["model"], bool(settings["weights"]))
        )
        checkpoints = options.checkpoints[i] if options.checkpoints else None
        for folder in filter(None, (options.out[i], checkpoints)):
            check_writable(folder)  # before hours of training, not after
        cells.append(CellFiles(settings, options.partition[i], options.out[i], code, checkpoints))
    try:
        results = train_cells(
            cells,
            options.data,
            weights=options.weights,
            checkpoint_rounds=options.checkpoint_rounds,
            checkpoint_seconds=options.checkpoint_seconds,
            device=options.device,
            threads=options.threads,
            backend=options.backend,
            watch=Progress,
            on_row=lambda cell, row: scalars and scalars(_path(cell.settings), row),
        )
    except Interrupted:
        kept = "run the same command again to go on" if options.checkpoints else "nothing was kept"
        print(f"interrupted; {kept}", file=sys.stderr)
        return INTERRUPTED
    for cell, result in zip(cells, results, strict=True):
        if result.status == "diverged":
            print(
                f"{cell.out}: diverged in round {result.diverged_in}: recorded as a result",
                file=sys.stderr,
            )
    return 0


def _path(settings: dict) -> str:
    return "{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}".format(**settings)


def _read_settings(text: str) -> dict:
    from fedgloss.files import parse_json, read_json

    if not text.lstrip().startswith("{"):
        return read_json(text)
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"--settings: not valid JSON ({error})") from None


def hessian(options: argparse.Namespace) -> None:
    from fedgloss.jobs.sharpness import hessian

    if len(options.cell) != len(options.out):
        raise InputError(f"--out: {len(options.out)} files for {len(options.cell)} runs")
    for run, out in zip(options.cell, options.out, strict=True):
        hessian(
            run,
            options.data,
            options.partition,
            out,
            choice=options.choice,
            count=options.count,
            models=options.models,
            device=options.device,
            threads=options.threads,
        )


def landscape(options: argparse.Namespace) -> None:
    from fedgloss.jobs.sharpness import landscape

    landscape(
        options.cell,
        options.data,
        options.partition,
        options.out,
        extent=options.extent,
        points=options.points,
        seed=options.seed,
        device=options.device,
        threads=options.threads,
    )


def table(options: argparse.Namespace) -> None:
    from fedgloss.report.formats import write
    from fedgloss.report.tables import build

    study = _study(options)
    _check_choice("table", options.name, study.tables)
    write(
        build(study, options.name, options.results),
        options.results / "tables" / study.name,
    )


def figure(options: argparse.Namespace) -> None:
    from fedgloss.report.figures import draw

    study = _study(options)
    _check_choice("figure", options.name, study.figures)
    draw(
        study,
        options.name,
        options.results,
        options.results / "figures" / study.name / options.name,
    )


def report(options: argparse.Namespace) -> None:
    from fedgloss.report.html import write_report

    study = _study(options)
    write_report(study, options.results, options.results / "report" / f"{study.name}.html")


def check(options: argparse.Namespace) -> None:
    from fedgloss.study.claims import check_claim
    from fedgloss.study.own import check_own
    from fedgloss.study.study import load_study

    study = load_study(options.config)
    check_claim(study)
    check_own(study)
    for line in study.warnings():
        print(f"fedgloss: warning: {line}", file=sys.stderr)
    print(f"{options.config}: a valid study of {len(study.cells)} cells")


def cells(options: argparse.Namespace) -> None:
    from fedgloss.study.study import load_study

    for cell in load_study(options.config).cells:
        print(cell)


def settings(options: argparse.Namespace) -> None:
    from fedgloss.study.study import load_study

    study = load_study(options.config)
    print(json.dumps(study.settings(study.cell(options.cell)).to_json(), indent=1))


def status(options: argparse.Namespace) -> None:
    from fedgloss.study.status import grid

    print(grid(_study(options), options.results))


def estimate(options: argparse.Namespace) -> None:
    from fedgloss.study.estimate import estimate

    print(estimate(_study(options), options.results, options.target))


def import_runs(options: argparse.Namespace) -> None:
    from fedgloss.jobs.importing import import_runs

    study = _study(options)
    counts = dict.fromkeys(("imported", "here", "missing", "refused"), 0)
    for cell, fate in import_runs(study, options.folder, options.results):
        counts[fate if fate in counts else "refused"] += 1
        if fate == "imported":
            print(options.results / "runs" / study.name / str(cell) / "metrics.csv", flush=True)
        elif fate not in counts:
            print(f"refused: {cell}: {InputError(fate)}", file=sys.stderr)
    print(
        f"{study.name}: {counts['imported']} imported, {counts['here']} here already,"
        f" {counts['missing']} not there, {counts['refused']} refused",
        file=sys.stderr,
    )
    if counts["imported"]:
        print("next: snakemake --touch --force with the files above", file=sys.stderr)


def _study(options: argparse.Namespace) -> "Study":
    """The study of a command that looks into its results, which must be those of its file."""
    from fedgloss.study.claims import check_claim
    from fedgloss.study.study import load_study

    study = load_study(options.config)
    check_claim(study, options.results)
    return study


def _check_choice(what: str, name: str, known: dict) -> None:
    if name not in known:
        raise InputError(f"{what}: {name!r} is not in this study{did_you_mean(name, [*known])}")
