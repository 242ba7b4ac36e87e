"""What a run of the workflow says: how long it will take, then a line for each job that ends."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from fedgloss.errors import InputError, printable
from fedgloss.files import read_json
from fedgloss.progress import clock
from fedgloss.study import costs, remaining
from fedgloss.study.layout import HERE, IMAGES_FILE
from fedgloss.study.outdated import AGAIN, Expectations
from fedgloss.study.own import missing_data, missing_splits
from fedgloss.study.standings import Standings
from fedgloss.study.status import States
from fedgloss.study.study import Cell, Study

KINDS = {
    "train": "metrics.csv",
    "pause": "round-*.json",
    "hessian": "hessian.json",
    "locals": "locals.json",
    "landscape": "landscape-*.csv",
    "line": "line-*.csv",
}
"""The rules whose jobs are about cells, and the file that each leaves for every cell."""
TRAINING = ("train", "pause")
ON_A_GPU = ("tf32", "tf32x3", "float16")
"""Precisions that a processor does not have."""


@dataclass(frozen=True)
class Planned:
    """A job that Snakemake is going to run."""

    rule: str
    wildcards: Mapping[str, str]
    output: Sequence[str]
    forced: bool = False
    """Whether the command line asks for it whatever is there."""


class Messages:
    """The lines to show for these jobs, by Snakemake's number; each method returns the next."""

    def __init__(self, study: Study, jobs: Mapping[int, Planned]) -> None:
        self.study, self.jobs = study, dict[int, Planned]()
        self.states = States(study, HERE.results)
        self.by_path = {str(cell): cell for cell in study.cells}
        self.cells: dict[int, list[Cell]] = {}
        self.costs: dict[int, list[remaining.Job]] = {}
        self.to_train = self.trained = 0
        self.add(jobs)
        self.begun = time.monotonic()
        self.running: set[int] = set()
        self.ended: set[int] = set()

    def add(self, jobs: Mapping[int, Planned]) -> None:
        """Take note of further jobs: which trials a sweep trains to the end is found on the way."""
        for number, job in jobs.items():
            self.jobs[number] = job
            paths = [_cell_of(file) for file in _files(job)]
            self.cells[number] = [self.by_path[path] for path in paths]
            self.costs[number] = [*self._priced(number)]
            self.to_train += len(paths) if job.rule == "train" else 0

    def plan(self, dryrun: bool, gpu: bool = True, cores: int | None = None) -> Iterator[str]:
        """How long it will take; of a dry run also the parts, and what would be refused.

        gpu: as of `unusable`. cores: on how many jobs may run here, all by default.
        """
        jobs = [one for some in self.costs.values() for one in some]
        if dryrun:
            data = (job.wildcards["data"] for job in self.jobs.values() if "data" in job.wildcards)
            names = dict.fromkeys(cell.dataset for cell in self.study.cells)
            by_folder = {self.study.data_folder(name): name for name in names}
            yield from missing_data(self.study, [by_folder[folder] for folder in data])
            yield from splits_to_come(self.study, self.jobs.values())
            yield from unusable(self.study, self.jobs.values(), gpu)
            yield from trained_again(self.study, self.jobs.values())
            yield from costs.by_group(jobs, lambda job: (job.cell.dataset, job.cell.model))
        if jobs:
            yield from costs.total(self.study, jobs, cores)

    def started(self, number: int) -> None:
        """Note that a job runs now, and does not wait in a cluster's queue."""
        self.running.add(number)

    def finished(self, number: int) -> Iterator[str]:
        """A line for each cell that a job has trained, with its accuracy; one for another job."""
        if number not in self.jobs:
            return
        self.running.discard(number)
        self.ended.add(number)
        job = self.jobs[number]
        if job.rule != "train":
            if job.output:  # a named target has none
                yield f"{job.rule:<9}  {self._label(number)}"
            return
        for cell, file in zip(self.cells[number], _files(job), strict=True):
            self.trained += 1
            said = [f"{job.rule:<9}  {self._name([cell])}", *_outcome(Path(file).parent)]
            said += [f"{self.trained:>{len(f'{self.to_train}')}} of {self.to_train}", *self._left()]
            yield "  ".join(said)

    def failed(self, number: int, logs: Sequence[str], said: str | None = None) -> Iterator[str]:
        """Why a job failed, in one line: what a cluster `said` of it, and what its log says."""
        if number in self.jobs:
            self.running.discard(number)
            about = " ".join(self._label(number).split())
            # A cluster's words end in where to look, which is shown next.
            words = [(said or "").partition(". For further ")[0], _cause(logs)]
            cause = printable("; ".join(filter(None, words))) or "its log says nothing"
            yield f"failed: {self.jobs[number].rule} {about}: {cause}"

    def _left(self) -> Iterator[str]:
        """The time left, by what the jobs that have ended took; running ones count half."""

        def work(numbers: set[int]) -> float:
            ended = [one for number in numbers for one in self.costs[number]]
            needs = [one.need if costs.has_gpu() else one.on_cpu for one in ended]
            return sum(need.seconds for need in needs) + costs.START * len(numbers)

        done = work(self.ended) + work(self.running) / 2
        left = work({*self.jobs}) - done
        if left > 0:
            yield f"{clock((time.monotonic() - self.begun) * left / done)} left"

    def _priced(self, number: int) -> Iterator[remaining.Job]:
        """What a job costs: each cell that it trains, what a checkpoint spares left out."""
        cells, kind = self.cells[number], self.jobs[number].rule
        if kind in ("train", "pause"):
            for cell in cells:
                done = 0
                with contextlib.suppress(InputError):  # what cannot be read spares nothing
                    done = remaining.rounds_done(self.states, cell)
                if kind == "pause":  # what comes after it is not this job's
                    rounds = int(self.jobs[number].wildcards["rounds"])
                    done += self.study.settings(cell).training["rounds"] - rounds
                yield remaining.job(self.study, "train", cell, rounds_done=done)
        elif cells:
            yield remaining.job(self.study, kind, cells[0], cells=len(cells))

    def _label(self, number: int) -> str:
        """What a job is about, in words."""
        wildcards = self.jobs[number].wildcards
        if self.cells[number]:
            view = [wildcards["view"]] if "view" in wildcards else []
            return "  ".join([self._name(self.cells[number]), *view])
        words = [value for name, value in wildcards.items() if name != "study"]
        return " ".join(words) or self.study.name

    def _name(self, cells: Sequence[Cell]) -> str:
        """Cells in columns: what they share; data set and model where the study has several."""
        words = []
        for field in ("dataset", "model", "algorithm", "alpha", "seed"):
            here, there = (
                {str(getattr(cell, field)) for cell in some} for some in (cells, self.study.cells)
            )
            if len(here) == 1 and (len(there) > 1 or field in ("algorithm", "alpha", "seed")):
                title = f"{field} " if field in ("alpha", "seed") else ""
                words.append(f"{title}{here.pop():<{max(map(len, there))}}")
        return "  ".join(words)


def splits_to_come(study: Study, jobs: Iterable[Planned]) -> Iterator[str]:
    """A line for each split that one of these jobs is to import, and that is not there."""
    cuts = dict.fromkeys((cell.dataset, cell.alpha) for cell in study.cells)
    by_folder = {(study.partition_folder(*cut), cut[1]): cut for cut in cuts}
    asked = (job.wildcards for job in jobs if job.rule == "partition")
    yield from missing_splits(study, [by_folder[one["cut"], one["alpha"]] for one in asked])


def trained_again(study: Study, jobs: Iterable[Planned]) -> Iterator[str]:
    """A line if these jobs make images or partitions that are not there, and repeat runs of them.

    Beside imported runs there are no images. In the build that makes them Snakemake takes them for
    changed; once they are there, runs of them stay (workflow/rules/kept.smk), but for those whose
    models something needs.
    """
    jobs = [*jobs]
    inputs = [job for job in jobs if job.rule in ("prepare", "partition")]
    made = {Path(file) for job in inputs for file in job.output}
    absent = {file for file in made if file.suffix != ".png" and not file.is_file()}
    again = [job for job in jobs if job.rule in TRAINING and not job.forced]
    files = {_cell_of(file): Path(file) for job in again for file in _files(job)}
    expected, standings = Expectations(study, HERE.results), Standings(study, HERE.results)
    needed, count = dict[Path, None](), 0
    for cell in study.cells if absent else ():
        file, of = files.get(str(cell)), expected.files(cell)
        images = of["data"].with_name(IMAGES_FILE)
        needs = [one for one in (of["data"], images, of["partition"]) if one in absent]
        if file and needs:
            _, _, rounds = file.stem.partition("-")
            paused = rounds and standings.paused(cell, int(rounds))[0]
            if paused or expected.is_there(cell):
                needed |= dict.fromkeys(needs)
                count += 1
    if needed:
        names = [str(file) for file in needed]
        yield (
            f"{', '.join(names)}: not there, and this build would train {count} finished cells"
            f" again; before it: snakemake {study.arguments} -- {' '.join(names)}"
        )


def unusable(study: Study, jobs: Iterable[Planned], gpu: bool) -> Iterator[str]:
    """A line for what none of these jobs that train could use; it would take finished runs with it.

    gpu: whether there may be one where they run.
    """
    jobs = [*jobs]
    made = {file for job in jobs for file in job.output}
    named = {_cell_of(file) for job in jobs if job.rule in TRAINING for file in _files(job)}
    cells = [cell for cell in study.cells if str(cell) in named]
    if cells and not gpu and (precision := study.asked.precision) in ON_A_GPU:
        yield (
            f"{study.file}: precision: {precision!r} is for GPUs, and here is none; allowed:"
            " float32, bfloat16"
        )
    for file in dict.fromkeys(
        Expectations(study, HERE.results).files(c)["partition"] for c in cells
    ):
        if str(file) not in made and file.is_file():
            try:
                read_json(file)
            except InputError as error:
                again = f"snakemake {study.arguments} --force -- {file}"
                yield f"{error}; make it again: {again}"


def outdated(study: Study, kept: Iterable[Planned]) -> Iterator[str]:
    """A line on runs that are outdated although none of the jobs that make them is to be run.

    Snakemake knows what it has made itself; such a run was put there by hand, or changed since.
    """
    expected = Expectations(study, HERE.results)
    made = {Path(file).parent for job in kept for file in _files(job) if job.rule == "train"}
    cells = [cell for cell in study.cells if HERE.run(study.name, cell) in made]
    reasons = {cell: why for cell in cells if (why := expected.read(cell, {})[1])}
    if reasons:
        cell, why = next(iter(reasons.items()))
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        yield f"outdated, so left out of tables and figures: {cell}: {why}{more}; {AGAIN}"


def _cell_of(file: str) -> str:
    """The path of the cell that one of `_files` is about."""
    return "/".join(Path(file).parts[-6:-1])


def _files(job: Planned) -> list[str]:
    """The file of each of a job's cells, if it is about cells."""
    return [file for file in job.output if fnmatch(Path(file).name, KINDS.get(job.rule, ""))]


def _outcome(run: Path) -> Iterator[str]:
    """The accuracy of a finished run, and the seconds that it took or was its share."""
    try:
        manifest = read_json(run / "manifest.json")
        seconds = manifest["wall_seconds"] / manifest["cells_together"]
        diverged = manifest["status"] == "diverged"
        yield f"{'diverged' if diverged else format(manifest['accuracy'], '.2f') + ' %':>8}"
        yield f"{seconds:6.1f} s"
    except (InputError, OSError, KeyError, TypeError, ValueError):
        yield "its manifest cannot be read"


def _cause(logs: Sequence[str]) -> str:
    """The line of a log that says why: the command's own, or else the last; "" if there is none."""
    for log in logs:
        try:
            lines = Path(log).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        lines = [line.strip() for line in lines if line.strip()]
        own = [line for line in lines if line.startswith("fedgloss: error: ")]
        if lines:
            return (own or lines)[-1].removeprefix("fedgloss: error: ")
    return ""
