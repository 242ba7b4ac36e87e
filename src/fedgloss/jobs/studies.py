"""What each command of `fedgloss` about a whole study does; imports only what it needs."""

import argparse
import math
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedgloss.errors import InputError, did_you_mean
from fedgloss.study.layout import HERE, IMAGES_FILE, MANIFEST, RUN_FILES, Layout

if TYPE_CHECKING:
    from fedgloss.study.study import Study


def promote(options: argparse.Namespace) -> None:
    from fedgloss.files import write_json
    from fedgloss.study.standings import Standings

    study = _study(options)
    standings = Standings(study, options.results)
    _check_choice("promote", options.label, dict.fromkeys(standings.bases))
    if options.rung >= len(standings.rungs):
        raise InputError(f"promote: rung {options.rung} of only {len(standings.rungs) - 1}")
    left = [trial.label for trial in standings.left(options.label, options.rung)]
    write_json(
        Layout(options.results).promoted(study.name, options.label, options.rung), {"trials": left}
    )


def choose(options: argparse.Namespace) -> None:
    from fedgloss.files import write_text
    from fedgloss.study.choosing import to_yaml
    from fedgloss.study.standings import Standings

    study = _study(options)
    text = to_yaml(Standings(study, options.results))
    write_text(Layout(options.results).chosen(study.name), text)


def table(options: argparse.Namespace) -> None:
    from fedgloss.report.tables import build
    from fedgloss.report.writing import write

    study = _study(options)
    for name in _chosen("table", options.name, study.tables):
        files = Layout(options.results).table(study.name, name)
        write(build(study, name, options.results), files["md"].parent)
        _say_written(files)


def figure(options: argparse.Namespace) -> None:
    from fedgloss.report.figures import draw

    study = _study(options)
    for name in _chosen("figure", options.name, study.figures):
        files = Layout(options.results).figure(study.name, name)
        draw(study, name, options.results, files["png"].with_suffix(""))
        _say_written(files)


def report(options: argparse.Namespace) -> None:
    from fedgloss.report.html import write_report

    study, layout = _study(options), Layout(options.results)
    page = layout.report(study.name)
    write_report(study, options.results, page)
    print(f"wrote {page}")
    absent = [n for n in study.figures if not layout.figure(study.name, n)["png"].is_file()]
    if absent:
        command = ["fedgloss", "figure", str(options.config), *absent]
        command += ["--results", str(options.results)] * (options.results != HERE.results)
        print(
            f"{len(absent)} figure{'s are' if len(absent) > 1 else ' is'} not drawn yet: "
            f"{shlex.join(command)}",
            file=sys.stderr,
        )


def _chosen(kind: str, given: Sequence[str], known: Mapping[str, object]) -> Sequence[str]:
    """The names that were given, each checked before the first is made; all if there are none."""
    for name in given:
        _check_choice(kind, name, known)
    return given or [*known]


def _say_written(files: Mapping[str, Path]) -> None:
    """files: by their suffix, beside each other; shown as a shell would take them."""
    stem = next(iter(files.values())).with_suffix("")
    print(f"wrote {stem}.{{{','.join(files)}}}")


def check(options: argparse.Namespace) -> None:
    from fedgloss.report.names import check_distinct
    from fedgloss.study.own import check_own, missing_data, missing_splits
    from fedgloss.study.ownership import check_owner
    from fedgloss.study.study import load_study

    study = load_study(options.config)
    check_distinct(study)
    check_owner(study)
    check_own(study)
    for line in study.warnings():
        print(f"fedgloss: warning: {line}", file=sys.stderr)
    print(f"{options.config}: a valid study of {len(study.cells)} cells")
    for line in missing_data(study, dict.fromkeys(cell.dataset for cell in study.cells)):
        print(line)
    for line in missing_splits(study, dict.fromkeys((c.dataset, c.alpha) for c in study.cells)):
        print(line)


def cells(options: argparse.Namespace) -> None:
    from fedgloss.study.study import load_study

    for cell in load_study(options.config).cells:
        print(cell)


def job(options: argparse.Namespace) -> None:
    from fedgloss.study.jobfile import job_of, to_json
    from fedgloss.study.study import load_study

    study, layout = load_study(options.config), Layout(options.results)
    # A cell may be named by its folder below the results, too, or by a file in it.
    here = Layout(Path(os.path.relpath(options.results)))
    folder = Path(os.path.relpath(options.cell))
    named = {here.cell_of(study.name, file) for file in (folder, folder / MANIFEST)}
    cell = next((cell for cell in study.cells if str(cell) in named), None)
    cell = cell or study.cell(options.cell)
    print(to_json(job_of(options.kind, study, cell, layout)), end="")


def status(options: argparse.Namespace) -> None:
    from fedgloss.study.costs import total
    from fedgloss.study.remaining import remaining
    from fedgloss.study.status import grid

    study, shown, live = _study(options), "", sys.stdout.isatty()
    while True:
        jobs = [*remaining(study, options.results)]
        lines = [grid(study, options.results), *(total(study, jobs) if jobs else [])]
        text = "\n".join(lines)
        if text != shown:
            # On a terminal from its top left corner, and nothing of before stays.
            print("\x1b[H\x1b[2J" * live * options.watch + text, flush=True)
        if not options.watch or not jobs:
            return
        shown = text
        try:
            time.sleep(options.every)
        except KeyboardInterrupt:
            return


def estimate(options: argparse.Namespace) -> None:
    from fedgloss.study.costs import estimate

    print(estimate(_study(options), options.results, options.target, options.details))


def compare(options: argparse.Namespace) -> None:
    from fedgloss.files import write_text
    from fedgloss.report import comparison
    from fedgloss.report.comparison import FIELDS, Change
    from fedgloss.report.results import Results
    from fedgloss.study.ownership import check_owner
    from fedgloss.study.study import load_study

    if not options.of and not options.other and not options.other_results:
        raise InputError("compare: with what? name another study, --other-results, or --of")
    if options.of and options.of[0] not in FIELDS:
        hint = did_you_mean(options.of[0], FIELDS)
        raise InputError(f"--of: {options.of[0]!r} is no field of a cell{hint}")
    if options.csv and options.csv.is_dir():
        raise InputError(f"--csv: {options.csv} is a folder (allowed: a file to write)")
    if options.of and options.of[1] == options.of[2]:
        raise InputError(f"--of: {options.of[1]!r} is given twice; name two values")
    sides = []
    for file, folder in (
        (options.config, options.results),
        (options.other or options.config, options.other_results or options.results),
    ):
        study = load_study(file)
        _check_there(folder)
        check_owner(study, Layout(folder))
        sides.append(Results(study, folder))
    first, second = sides
    if not options.of and (first.study.name, first.folder) == (second.study.name, second.folder):
        raise InputError(f"compare: {options.config} with itself; name another study, or --of")
    change = Change(*options.of) if options.of else None
    found = [*comparison.compare(first, second, change)]
    if not found:
        why = "".join(
            f"; {line.rstrip('.')}" for line in comparison.left_out(first, second, change)
        )
        raise InputError(f"{options.config}: no seed has been run on both sides yet{why}")
    if options.csv:
        write_text(options.csv, comparison.to_csv(found))
    names = options.of[1:] if options.of else [options.config, options.other or options.config]
    if not options.of and names[0] == names[1]:
        names = [f"{options.results}", f"{options.other_results}"]
    print(comparison.to_markdown(found, *names))
    for line in comparison.remarks(first, second, change):
        print(f"- {line}")


def collect(options: argparse.Namespace) -> None:
    from fedgloss.jobs.collecting import collect

    study = _study(options)
    archive = options.out or Path(f"{study.name}.zip")
    if archive.is_dir():
        raise InputError(f"--out: {archive} is a folder (allowed: a file to write)")
    fates = collect(study, options.results, archive, options.weights)
    for cell, fate in fates.items():
        if fate not in ("collected", "missing"):
            print(f"left out: {cell}: {InputError(fate)}", file=sys.stderr)
    counts = Counter(fates.values())
    rest = len(fates) - counts["collected"] - counts["missing"]
    print(
        f"{archive}: {counts['collected']} of {len(fates)} runs, {counts['missing']} not there,"
        f" {rest} left out; {_size(archive)}",
        file=sys.stderr,
    )


def _size(file: Path) -> str:
    """A file's size as one says it: 36 kB, 1.7 MB."""
    count = file.stat().st_size
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{math.ceil(count / 1e3)} kB"


def import_runs(options: argparse.Namespace) -> int:
    from fedgloss.jobs.importing import REPLACED, import_runs, is_taken, measured_on

    study, layout = _study(options, may_be_new=True), Layout(options.results)
    whole, imported = True, []
    counts = dict.fromkeys(("imported", "here", "missing", "refused"), 0)
    for cell, fate in import_runs(study, options.source, options.results):
        taken = is_taken(fate)
        counts["imported" if taken else fate if fate in counts else "refused"] += 1
        if taken:
            imported.append(cell)
            print(layout.metrics(study.name, cell), flush=True)
            whole &= all((layout.run(study.name, cell) / name).is_file() for name in RUN_FILES)
        if fate not in counts:
            said = (
                f"replaced: {cell}: an outdated run was here, " if taken else f"refused: {cell}: "
            )
            print(f"{said}{InputError(fate.removeprefix(REPLACED))}", file=sys.stderr)
    for cell in imported:
        for file in measured_on(layout, study, cell):
            print(file)
    print(
        f"{study.name}: {counts['imported']} imported, {counts['here']} here already,"
        f" {counts['missing']} not there, {counts['refused']} refused",
        file=sys.stderr,
    )
    if counts["imported"]:
        then = "snakemake --touch --force with the files above"
        if not whole:
            then = (
                "fedgloss table, figure and report; without models, Snakemake trains these cells"
                " again where something new needs a model"
            )
        images = {layout.data(study.data_folder(c.dataset)) / IMAGES_FILE for c in study.cells}
        if absent := sorted(str(file) for file in images if not file.is_file()):
            beside = f"snakemake {study.arguments} -- {' '.join(absent)}"
            then += f"; to train other cells beside these, {beside} before that"
        print(f"next: {then}", file=sys.stderr)
    return 2 if counts["refused"] and not (counts["imported"] or counts["here"]) else 0


def _study(options: argparse.Namespace, may_be_new: bool = False) -> "Study":
    """The study of a command that looks into its results, which must be those of its file.

    A folder that is named must be there, unless it `may_be_new`. Where none is named there may be
    no results yet.
    """
    from fedgloss.report.names import check_distinct
    from fedgloss.study.own import check_data
    from fedgloss.study.ownership import check_owner
    from fedgloss.study.study import load_study

    study = load_study(options.config)
    check_distinct(study)
    if options.results != HERE.results and not may_be_new:
        _check_there(options.results)
    check_owner(study, Layout(options.results))
    check_data(study, options.results)
    return study


def _check_there(results: Path) -> None:
    """InputError for a misspelt folder, of which all would be missing."""
    if not results.is_dir():
        raise InputError(f"{results}: there is no such results folder")


def _check_choice(what: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise InputError(f"{what}: {name!r} is not in this study{did_you_mean(name, [*known])}")
