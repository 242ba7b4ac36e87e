"""Build REPRODUCTION.md and its figures from archives: python reproduction/build.py [FOLDER].

Every archive beside this file (`fedgloss collect`) is imported as `fedgloss import` would, into a
folder of its own. Tables and figures are those of config/reproduction.yaml; the words around them
are in REPRODUCTION.md.in. FOLDER, where all of it is written, is this one by default.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from fedgloss.files import read_json
from fedgloss.jobs.importing import import_runs
from fedgloss.report import names
from fedgloss.report.figures import caption, draw
from fedgloss.report.results import Results
from fedgloss.report.tables import build as build_table
from fedgloss.report.writing import texts
from fedgloss.study.study import Cell, Study, load_study

HERE = Path(__file__).resolve().parent
CONFIG = Path("config/reproduction.yaml")  # as commands in the tables name it
TEMPLATE = "REPRODUCTION.md.in"
SHOWN = 12
"""Digits of a hash: enough to find it, and to tell it from others."""


def build(folder: Path) -> None:
    """Write FOLDER/REPRODUCTION.md and FOLDER/figures; SystemExit if an archive is refused."""
    folder = folder.resolve()
    os.chdir(HERE.parent)
    study = load_study(CONFIG)
    with tempfile.TemporaryDirectory() as results:
        import_archives(study, Path(results))
        found = Results(study, Path(results))
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE),
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
        )
        (folder / "figures").mkdir(parents=True, exist_ok=True)

        def figure(name: str) -> str:
            draw(study, name, Path(results), folder / "figures" / name)
            (folder / "figures" / f"{name}.pdf").unlink()
            said = caption(study, name, Path(results))
            return f"![{study.figures[name].title}](figures/{name}.png)\n\n{said}"

        text = environment.get_template(TEMPLATE).render(
            table=lambda name: texts(build_table(study, name, Path(results)))["md"].rstrip(),
            figure=figure,
            runs=list(runs(study, found)),
            missing=list(missing(study, found)),
            hours=sum(hours(found, cell) for cell in study.cells),
            at=lambda cell, round, metric="accuracy": at(found, study.cell(cell), round, metric),
            lambda1=lambda cell: (found.hessian(study.cell(cell)) or {})["lambda1"],
            result=lambda cell: manifest(found, study.cell(cell))["accuracy"],
            stopped=lambda cell: manifest(found, study.cell(cell))["diverged_in"],
            gain=lambda *which: gain(study, found, *which),
            spectrum=read_json(HERE / "spectrum.json"),
            divergence=read_json(HERE / "divergence.json"),
        )
        (folder / "REPRODUCTION.md").write_text(text, encoding="utf-8")
    print(f"wrote {folder}/REPRODUCTION.md and the figures in {folder}/figures")


def import_archives(study: Study, results: Path) -> None:
    """Take over the runs of all archives; SystemExit says which are refused, and why."""
    for archive in sorted(HERE.glob("*.zip")):
        fates = dict(import_runs(study, archive, results))
        taken = [fate for fate in fates.values() if fate in ("imported", "here")]
        refused = {c: f for c, f in fates.items() if f not in ("imported", "here", "missing")}
        for cell, why in refused.items():
            raise SystemExit(f"{archive.name}: {cell}: {why}")
        if not taken:
            raise SystemExit(f"{archive.name}: has no run of the study {study.name}")


def runs(study: Study, found: Results) -> Iterator[dict[str, Any]]:
    """What each run there is says of itself, a row each."""
    for cell in study.cells:
        said = found.manifest(cell)
        if said is not None:
            sharpness = found.hessian(cell)
            yield {
                "method": label(study, cell),
                "seed": cell.seed,
                "lambda1": sharpness and sharpness.get("lambda1"),
                "metrics": said["outputs"]["metrics.csv"][:SHOWN],
                "code_short": said["code"][:SHOWN],
                **said,
            }


def manifest(found: Results, cell: Cell) -> dict[str, Any]:
    """What a run that is there says of itself."""
    said = found.manifest(cell)
    assert said is not None
    return said


def gain(
    study: Study, found: Results, method: str, other: str, seed: int, dataset: str = "cifar10"
) -> float:
    """Points by which a method, on this data, is above another one on clean CIFAR-10."""
    cells = (f"{dataset}/alpha-0/cnn/{method}", f"cifar10/alpha-0/cnn/{other}")
    mine, others = (manifest(found, study.cell(f"{cell}/seed-{seed}")) for cell in cells)
    return mine["accuracy"] - others["accuracy"]


def label(study: Study, cell: Cell) -> str:
    """The method, and the data unless it is clean CIFAR-10."""
    method = names.algorithm(study, cell.algorithm)
    return method if cell.dataset == "cifar10" else f"{method}, the released code's images"


def at(found: Results, cell: Cell, round: int, metric: str) -> float:
    """A metric of a run in one of its evaluated rounds."""
    columns = found.metrics(cell)
    assert columns is not None
    return columns[metric][columns["round"].index(round)]


def missing(study: Study, found: Results) -> Iterator[tuple[str, str]]:
    """Methods and the seeds that were not run."""
    left: dict[str, list[str]] = {}
    for cell in study.cells:
        if found.manifest(cell) is None:
            left.setdefault(label(study, cell), []).append(str(cell.seed))
    for method, seeds in left.items():
        yield method, ", ".join(seeds)


def hours(found: Results, cell: Cell) -> float:
    """GPU hours of a cell: its share of the time that it was trained in with others."""
    said = found.manifest(cell)
    return said["wall_seconds"] / said["cells_together"] / 3600 if said else 0.0


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
