"""Where everything lies: each path below the results folder, for the code and for the rules.

The rules ask with wildcards in the place of names, `Layout().run("{study}", CELL)`, and so have
their patterns from here, too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONDITION = "{dataset}/alpha-{alpha}/{model}/{algorithm}"
"""The path of a method's cells below the folders of a study, and below it that of one cell."""
SEED = "seed-{seed}"
CELL = f"{CONDITION}/{SEED}"

MANIFEST = "manifest.json"
IMAGES_FILE = "data.safetensors"
"""A prepared data set, beside its manifest; an import may have brought the manifest alone."""
RUN_FILES = ("metrics.csv", "final.safetensors", "average.safetensors", "locals.safetensors")
"""What every finished run leaves beside its manifest, which has their SHA-256: numbers, models."""


def files_of(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """What the run with this manifest left beside it: RUN_FILES, and the models that it kept."""
    outputs = manifest.get("outputs")
    names = outputs if isinstance(outputs, dict) else {}
    more = (name for name in names if re.fullmatch(r"round-[1-9][0-9]*\.safetensors", name))
    return *RUN_FILES, *more


@dataclass(frozen=True)
class Layout:
    """The paths below one results folder.

    study is a study's name, cell what its path is below the study's folders (a `Cell`, or text).
    """

    results: Path = Path("results")

    def data(self, folder: str) -> Path:
        """The folder of a prepared data set: IMAGES_FILE and its manifest."""
        return self.results / "data" / folder

    def partition(self, folder: str, alpha: str) -> Path:
        """The file that says which client holds which image."""
        return self.results / "partitions" / folder / f"alpha-{alpha}" / "partition.json"

    def runs(self, study: str) -> Path:
        """The folder of a study's runs."""
        return self.results / "runs" / study

    def run(self, study: str, cell: object) -> Path:
        """The folder of a cell's run: its manifest, and the files that this names."""
        return self.runs(study) / str(cell)

    def metrics(self, study: str, cell: object) -> Path:
        """A run's metrics, which stand for it as a target."""
        return self.run(study, cell) / "metrics.csv"

    def checkpoints(self, study: str, cell: object) -> Path:
        """The folder of a cell's checkpoints while it trains."""
        return self.results / "checkpoints" / study / str(cell)

    def owner(self, study: str, cell: object) -> Path:
        """The file that names the process that owns a cell's checkpoints."""
        folder = self.checkpoints(study, cell)
        return folder.with_name(f"{folder.name}.owner")

    def paused(self, study: str, cell: object, rounds: int | str) -> Path:
        """What a trial's run was worth as it paused after so many rounds."""
        return self._sweep(study) / str(cell) / f"round-{rounds}.json"

    def promoted(self, study: str, base: str, rung: int | str) -> Path:
        """Which trials of a label reach a rung (1: those that the first one kept)."""
        return self._sweep(study) / f"{base}.rung-{rung}.json"

    def chosen(self, study: str) -> Path:
        """The settings that a study's sweep has chosen, for another study to take."""
        return self._sweep(study) / "chosen.yaml"

    def _sweep(self, study: str) -> Path:
        return self.results / "sweeps" / study

    def hessian(self, study: str, cell: object) -> Path:
        """The Hessian eigenvalues at a cell's model."""
        return self._analysis(study, cell) / "hessian.json"

    def locals(self, study: str, cell: object) -> Path:
        """The Hessian's largest eigenvalues at a cell's local models of the last round."""
        return self._analysis(study, cell) / "locals.json"

    def view(self, study: str, cell: object, kind: str, name: str) -> Path:
        """A surface around a cell's model (landscape), or a line from there; see study/views.py."""
        return self._analysis(study, cell) / f"{kind}-{name}.csv"

    def cell_of(self, study: str, file: Path) -> str | None:
        """The path of the cell that a file of a run, or of an analysis, belongs to; else None."""
        for folder in (self.runs(study), self._analysis(study, "")):
            if file.is_relative_to(folder) and len(file.relative_to(folder).parts) > 1:
                return str(file.relative_to(folder).parent)
        return None

    def study_of(self, file: Path) -> str | None:
        """The name of the study that a file below the results folder belongs to; None if of all."""
        if not file.is_relative_to(self.results):
            return None
        kind, *below = file.relative_to(self.results).parts or ("",)
        if kind in ("runs", "analysis", "sweeps", "tables", "figures") and len(below) > 1:
            return below[0]
        return file.stem if kind == "report" and file.suffix == ".html" else None

    def _analysis(self, study: str, cell: object) -> Path:
        return self.results / "analysis" / study / str(cell)

    def jobs(self, kind: str, study: str, cell: object) -> Path:
        """The folder of a cell's job files; kind: train, hessian, locals, landscape or line."""
        return self.results / "jobs" / kind / study / str(cell)

    def told(self, study: str) -> Path:
        """The folder of the files that tell jobs what the study says."""
        return self.results / "jobs" / "study" / study

    def table(self, study: str, name: str) -> dict[str, Path]:
        """The files of a table by their kind: csv, md, tex."""
        return self._by_kind("tables", study, name, ("csv", "md", "tex"))

    def figure(self, study: str, name: str) -> dict[str, Path]:
        """The files of a figure by their kind: png, pdf."""
        return self._by_kind("figures", study, name, ("png", "pdf"))

    def _by_kind(self, kind: str, study: str, name: str, ends: tuple[str, ...]) -> dict[str, Path]:
        return {end: self.results / kind / study / f"{name}.{end}" for end in ends}

    def report(self, study: str) -> Path:
        """The page on a study."""
        return self.results / "report" / f"{study}.html"

    def owner_of(self, study: str) -> Path:
        """The note of whose results these are."""
        return self.results / "studies" / f"{study}.json"

    def log(self, rule: str, job: str) -> Path:
        """What a job said."""
        return self.results / "logs" / rule / f"{job}.log"

    def benchmark(self, rule: str, job: str) -> Path:
        """How long a job took, and how much memory."""
        return self.results / "benchmarks" / rule / f"{job}.jsonl"


HERE = Layout()
"""What lies below the working folder: the results where no other folder is named."""
