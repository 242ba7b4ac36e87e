"""Build REPRODUCTION.md and its figures from archives: python reproduction/build.py [FOLDER].

Each of ARCHIVES, beside this file (`fedgloss collect`), is imported as `fedgloss import` would,
into a folder of its own. Tables and figures are those of the archives' studies; the words around
them are in REPRODUCTION.md.in. FOLDER, where all of it is written, is this one by default.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from fedgloss.files import read_json
from fedgloss.jobs.importing import import_runs
from fedgloss.report import names
from fedgloss.report.figures import caption, draw
from fedgloss.report.local_models import median
from fedgloss.report.results import Results
from fedgloss.report.tables import build as build_table
from fedgloss.report.writing import texts
from fedgloss.student import mean_interval
from fedgloss.study.study import Cell, Study, load_study

HERE = Path(__file__).resolve().parent
TEMPLATE = "REPRODUCTION.md.in"
ARCHIVES = {
    "full": ("cifar10.zip", "config/reproduction.yaml"),
    "early": ("early.zip", "config/cifar10-early.yaml"),
    "early42": ("early-42.zip", "config/cifar10-early-42.yaml"),
    "stability": ("stability.zip", "config/stability.yaml"),
    "long": ("digits-long.zip", "config/digits-long.yaml"),
    "single": ("float32.zip", "config/float32.yaml"),
}
"""An archive and its study, as commands in the tables name it, by its name in the template."""
FACTS = ("spectrum", "divergence", "released")
"""Files of measurements that are no runs of a study."""
SHOWN = 12
"""Digits of a hash: enough to find it, and to tell it from others."""


def build(folder: Path) -> None:
    """Write FOLDER/REPRODUCTION.md and FOLDER/figures; SystemExit if an archive is refused."""
    folder = folder.resolve()
    os.chdir(HERE.parent)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    with tempfile.TemporaryDirectory() as results:
        parts = {}
        for name, (archive, config) in ARCHIVES.items():
            parts[name] = Part(load_study(Path(config)), Path(results) / name, folder / "figures")
            parts[name].take_over(HERE / archive)
        text = environment.get_template(TEMPLATE).render(
            mean_interval=mean_interval,
            **parts,
            **{name: read_json(HERE / f"{name}.json") for name in FACTS},
        )
        (folder / "REPRODUCTION.md").write_text(text, encoding="utf-8")
    print(f"wrote {folder}/REPRODUCTION.md and the figures in {folder}/figures")


@dataclass(frozen=True)
class Part:
    """The runs of one study, and what the page says of them."""

    study: Study
    results: Path
    figures: Path
    """The folder for the page's figures."""

    def take_over(self, archive: Path) -> None:
        """Import an archive's runs; SystemExit says which are refused, and why."""
        fates = dict(import_runs(self.study, archive, self.results))
        refused = {c: f for c, f in fates.items() if f not in ("imported", "here", "missing")}
        for cell, why in refused.items():
            raise SystemExit(f"{archive.name}: {cell}: {why}")
        if not {*fates.values()} & {"imported", "here"}:
            raise SystemExit(f"{archive.name}: has no run of the study {self.study.name}")

    @cached_property
    def found(self) -> Results:
        """What the runs left; asked for once they are there."""
        return Results(self.study, self.results)

    def table(self, name: str) -> str:
        """A table of the study, with its notes."""
        return texts(build_table(self.study, name, self.results))["md"].rstrip()

    def figure(self, name: str) -> str:
        """A figure of the study and its caption; draws it."""
        draw(self.study, name, self.results, self.figures / name)
        (self.figures / f"{name}.pdf").unlink()
        said = caption(self.study, name, self.results)
        return f"![{self.study.figures[name].title}](figures/{name}.png)\n\n{said}"

    def runs(self) -> Iterator[dict[str, Any]]:
        """What each run there is says of itself, a row each."""
        for cell in self.study.cells:
            said = self.found.manifest(cell)
            if said is not None:
                sharpness = self.found.hessian(cell)
                yield {
                    "method": self._label(cell),
                    "alpha": cell.alpha,
                    "seed": cell.seed,
                    "lambda1": sharpness and sharpness.get("lambda1"),
                    "metrics": said["outputs"]["metrics.csv"][:SHOWN],
                    "code_short": said["code"][:SHOWN],
                    **said,
                }

    def missing(self) -> Iterator[tuple[str, str]]:
        """Methods and the seeds that were not run."""
        left: dict[str, list[str]] = {}
        for cell in self.study.cells:
            if self.found.manifest(cell) is None:
                left.setdefault(self._label(cell), []).append(str(cell.seed))
        for method, seeds in left.items():
            yield method, ", ".join(seeds)

    def hours(self) -> float:
        """All runs' hours: of each its share of the time that it was trained in with others."""
        return sum(r["wall_seconds"] / r["cells_together"] / 3600 for r in self.runs())

    def said(self, cell: str) -> dict[str, Any]:
        """What a run that is there says of itself: its `accuracy`, where it `diverged_in`."""
        manifest = self.found.manifest(self.study.cell(cell))
        assert manifest is not None, cell
        return manifest

    def lambda1(self, cell: str, official_code: bool = False) -> float:
        """The largest Hessian eigenvalue of a run's model; also as the released code has it."""
        measured = self.found.hessian(self.study.cell(cell)) or {}
        return (measured["official_code"] if official_code else measured)["lambda1"]

    def local(self, cell: str, which: str) -> float:
        """The median lambda_1 of a run's local models: `local`, on their own data, or `global`."""
        found = median(self.found, self.study.cell(cell), which)
        assert found is not None, cell
        return found

    def at(self, cell: str, round: int, metric: str = "accuracy") -> float:
        """A metric of a run in one of its evaluated rounds."""
        columns = self.found.metrics(self.study.cell(cell))
        assert columns is not None, cell
        return columns[metric][columns["round"].index(round)]

    def after(self, method: str, round: int) -> float:
        """A method's mean accuracy over its seeds, after a round, on the digits at alpha 0."""
        cells = [f"digits/alpha-0/smallcnn/{method}/seed-{seed}" for seed in self.study.asked.seeds]
        return statistics.mean(self.at(cell, round) for cell in cells)

    def spread(self, cell: str, last: int) -> float:
        """The standard deviation of the accuracy in the last evaluated rounds."""
        columns = self.found.metrics(self.study.cell(cell))
        assert columns is not None, cell
        return statistics.stdev(columns["accuracy"][-last:])

    def mean(self, cell: str, first: int, last: int) -> float:
        """The mean accuracy over a run's evaluations from one round to another, both counted."""
        columns = self.found.metrics(self.study.cell(cell))
        assert columns is not None, cell
        rows = zip(columns["round"], columns["accuracy"], strict=True)
        return statistics.mean(value for round, value in rows if first <= round <= last)

    def learned(self, condition: str, least: float) -> str:
        """The mean accuracy of the seeds with at least `least` percent, and how many have less."""
        cells = [f"{condition}/seed-{seed}" for seed in self.study.asked.seeds]
        found = [self.said(cell)["accuracy"] or 0.0 for cell in cells]  # None: it diverged
        good = [accuracy for accuracy in found if accuracy >= least]
        if not good:
            return "lost"
        lost = f" ({len(found) - len(good)} of {len(found)} lost)" if len(good) < len(found) else ""
        return f"{statistics.mean(good):.1f}{lost}"

    def good_until(self, conditions: list[str], least: float) -> str:
        """The rounds in which these runs have `least` percent for the last time, as a range."""
        ends = []
        for condition in conditions:
            for seed in self.study.asked.seeds:
                columns = self.found.metrics(self.study.cell(f"{condition}/seed-{seed}"))
                assert columns is not None, condition
                rows = zip(columns["round"], columns["accuracy"], strict=True)
                ends.append(max(round for round, value in rows if value >= least))
        return " to ".join(f"{round:,.0f}" for round in sorted({min(ends), max(ends)}))

    def gain(self, method: str, other: str, seed: int, dataset: str = "cifar10") -> float:
        """Points by which a method, on this data, is above another one on clean CIFAR-10."""
        cells = (f"{dataset}/alpha-0/cnn/{method}", f"cifar10/alpha-0/cnn/{other}")
        mine, others = (self.said(f"{cell}/seed-{seed}")["accuracy"] for cell in cells)
        return mine - others

    def _label(self, cell: Cell) -> str:
        """The method, and the data unless it is clean CIFAR-10."""
        method = names.algorithm(self.study, cell.algorithm)
        return method if cell.dataset == "cifar10" else f"{method}, the released code's images"


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
