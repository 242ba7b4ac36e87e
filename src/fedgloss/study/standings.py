"""How the trials of a sweep stand: who was dropped, who goes on, who won. Files are only read.

A trial is worth the mean, over its seeds and columns, of the accuracy on held-out images, for each
run that of the evaluated rounds among the last `last`; a run that diverges counts as none right.
Between equals, the smaller value wins, along the first axis in which they differ. With halving the
same is asked on each rung, as if the run had ended there, or of the first seeds.
"""

import csv
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedgloss.errors import InputError
from fedgloss.records import COUNT, PERCENTAGE, STATUS
from fedgloss.student import quantile
from fedgloss.study.layout import Layout
from fedgloss.study.outdated import AGAIN, Expectations, read_manifest

if TYPE_CHECKING:
    from fedgloss.study.study import Cell, Study
    from fedgloss.study.sweep import Trial

RULE = (
    "the highest mean, over seeds and columns, of the accuracy on held-out training images, for"
    " each run that of the evaluated rounds among the last `last`; a run that diverges counts as"
    " none right; between equals, the smaller value"
)
"""What `choose: best-mean` says."""
WANTED = {"status": STATUS, "accuracy": PERCENTAGE.or_null}
"""What must be known of a run."""


@dataclass(frozen=True)
class Rung:
    """A stage of a sweep: until when, and with which seeds, the trials that are left train."""

    rounds: int | None
    """None: to the end."""
    seeds: tuple[int, ...]


class Worth(NamedTuple):
    """What a run was worth on a rung."""

    accuracy: float
    """In percent; 0 if it diverged."""
    diverged: bool


@dataclass(frozen=True)
class Standing:
    """What a trial was worth on the last rung that it reached."""

    trial: "Trial"
    rung: int
    """0 first."""
    values: Mapping[int, float]
    """By seed: the mean accuracy in percent over the columns; without seeds that miss a run."""
    seeds: int
    """How many there are on this rung."""
    diverged: int
    """Runs that did."""

    @property
    def is_known(self) -> bool:
        """Whether all its runs on this rung are there."""
        return len(self.values) == self.seeds

    @property
    def mean(self) -> float | None:
        """What it is worth, in percent; None while nothing is known."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def half_interval(self) -> float | None:
        """Half the 95 % interval of the mean over seeds (Student's t); None for one seed."""
        if len(self.values) < 2:
            return None
        error = statistics.stdev(self.values.values()) / math.sqrt(len(self.values))
        return quantile(len(self.values) - 1) * error

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean over seeds; None for one seed."""
        mean, half = self.mean, self.half_interval
        return None if mean is None or half is None else (mean - half, mean + half)

    @property
    def order(self) -> tuple[Any, ...]:
        """The smaller, the better."""
        return (self.mean is None, -(self.mean or 0.0), self.trial.places)


def rungs(study: "Study") -> list[Rung]:
    """The stages of a study's sweep: one, if nothing is halved."""
    asked, every = study.asked, study.asked.seeds
    halving = asked.sweep.halving if asked.sweep else None
    early = [Rung(rounds, every) for rounds in halving.rounds] if halving else []
    early += [Rung(None, every[:count]) for count in halving.seeds] if halving else []
    return [*early, Rung(None, every)]


class Standings:
    """The trials of a study, by what is in a results folder."""

    def __init__(self, study: "Study", results: Path) -> None:
        self.study, self.layout = study, Layout(Path(results))
        self.expected = Expectations(study, Path(results))
        self.rungs = rungs(study)
        self._seen = cache(self._look)
        self.of = cache(self._of)

    @property
    def bases(self) -> list[str]:
        """The labels that are searched, in the order of the study."""
        return [*dict.fromkeys(trial.base for trial in self.study.trials.values())]

    def pauses(self) -> Iterator[tuple["Cell", int]]:
        """The cells of all trials that may pause, and after how many rounds."""
        for rung, stage in enumerate(self.rungs):
            for trial in self.study.trials.values():
                for cell in self.cells(trial, rung):
                    if stage.rounds is not None:
                        yield cell, stage.rounds

    def cells(self, trial: "Trial", rung: int) -> list["Cell"]:
        """The cells of a trial that train on a rung."""
        return [c for c in self._cells[trial.label] if c.seed in self.rungs[rung].seeds]

    @cached_property
    def _cells(self) -> dict[str, list["Cell"]]:
        found: dict[str, list[Cell]] = {}
        for cell in self.study.cells:
            found.setdefault(cell.algorithm, []).append(cell)
        return found

    def reached(self, base: str) -> int:
        """The rung on which a label's trials stand, but for those that were dropped."""
        return self.of(base)[0].rung

    def left(self, base: str, rung: int) -> list["Trial"]:
        """The trials of a label that reach a rung, in the order of the study; InputError if that
        cannot be said yet."""
        if rung > self.reached(base):
            raise InputError(
                f"{self.study.file}: sweep: the runs that decide which trials of {base} go on are"
                f" not all there; {self.awaited(base)}"
            )
        reached = [standing.trial for standing in self.of(base) if standing.rung >= rung]
        return [trial for trial in self.study.trials.values() if trial in reached]

    def chosen(self, base: str) -> Standing | None:
        """The best of a label's trials; None while any run is missing."""
        ended = self.reached(base) == len(self.rungs) - 1
        return self.of(base)[0] if ended and next(self.missing(base), None) is None else None

    def missing(self, base: str) -> Iterator["Cell"]:
        """The cells of a label that the rung it is on still waits for."""
        for standing in self.of(base):
            if standing.rung == self.reached(base):
                for cell in self.cells(standing.trial, standing.rung):
                    if self.worth(cell, self.rungs[standing.rung].rounds) is None:
                        yield cell

    def awaited(self, base: str) -> str:
        """The first of these, in words, and why it does not count if there is a run of it."""
        cell = next(self.missing(base))
        why = self._seen(cell, self.rungs[self.reached(base)].rounds)[1]
        said = f"{cell} is missing first"
        return f"{said}: its run does not count, {why}; {AGAIN}" if why else said

    def foreseen(self) -> dict["Cell", int | None]:
        """The cells that will train if trials keep their present order, and to which round.

        None: to the end. Who will go on is not known before a rung, but how many is.
        """
        halving = self.study.asked.sweep and self.study.asked.sweep.halving
        ends: dict[Cell, int | None] = {}
        for base in self.bases:
            left = [standing.trial for standing in self.of(base)]
            for rung, stage in enumerate(self.rungs):
                if rung and halving:
                    left = left[: halving.kept(len(left))]
                for trial in left:
                    ends |= dict.fromkeys(self.cells(trial, rung), stage.rounds)
        return ends

    def is_dropped(self, cell: "Cell") -> bool:
        """Whether a cell is of a trial that was dropped, and so need not go on."""
        trial = self.study.trials.get(cell.algorithm)
        if trial is None or len(self.rungs) == 1:
            return False
        rung = next(s.rung for s in self.of(trial.base) if s.trial == trial)
        return rung < self.reached(trial.base)

    def _of(self, base: str) -> list[Standing]:
        """How a label's trials stand, best first: those on later rungs before any others."""
        alive = [trial for trial in self.study.trials.values() if trial.base == base]
        dropped: list[Standing] = []
        halving = self.study.asked.sweep and self.study.asked.sweep.halving
        for rung in range(len(self.rungs)):
            here = sorted((self._at(trial, rung) for trial in alive), key=lambda s: s.order)
            if not halving or rung + 1 == len(self.rungs) or not all(s.is_known for s in here):
                break
            count = halving.kept(len(here))
            alive, dropped = [s.trial for s in here[:count]], [*here[count:], *dropped]
        return [*here, *dropped]

    def _at(self, trial: "Trial", rung: int) -> Standing:
        values: dict[int, float] = {}
        diverged, seeds = 0, self.rungs[rung].seeds
        for seed in seeds:
            cells = [cell for cell in self.cells(trial, rung) if cell.seed == seed]
            worth = [self.worth(cell, self.rungs[rung].rounds) for cell in cells]
            known = [one for one in worth if one is not None]
            diverged += sum(one.diverged for one in known)
            if len(known) == len(cells):
                values[seed] = statistics.fmean(one.accuracy for one in known)
        return Standing(trial, rung, values, len(seeds), diverged)

    def worth(self, cell: "Cell", rounds: int | None) -> Worth | None:
        """What a cell's run is worth at its end, or after these rounds; None if unknown."""
        return self._seen(cell, rounds)[0]

    def _look(self, cell: "Cell", rounds: int | None) -> tuple[Worth | None, str | None]:
        """What a cell's run is worth, None if that cannot be said; and why not, if there is one.

        rounds: where it paused on a rung, which counts as its end.
        """
        paused, broken = (None, None) if rounds is None else self.paused(cell, rounds)
        if paused:
            return paused, None
        manifest, why = self.expected.read(cell, WANTED | {"diverged_in": COUNT.or_null})
        if manifest is None or why:
            return None, why or broken
        if rounds is None:
            return _of_record(manifest), None
        # It never paused, as one that was imported: its rows say what they would have said then.
        if manifest["diverged_in"] is not None and manifest["diverged_in"] <= rounds:
            return Worth(0.0, True), None
        last = self.study.settings(cell).training["last"]
        metrics = self.layout.metrics(self.study.name, cell)
        with open(metrics, newline="", encoding="utf-8") as file:
            values = [
                float(row["accuracy"])
                for row in csv.DictReader(file)
                if rounds - last < int(row["round"]) <= rounds
            ]
        return (Worth(sum(values) / len(values), False) if values else Worth(0.0, True)), None

    def paused(self, cell: "Cell", rounds: int) -> tuple[Worth | None, str | None]:
        """What a run was worth where it paused, by the record that it left there.

        None if it left none; and why it does not count if there is a reason.
        """
        file = self.layout.paused(self.study.name, cell, rounds)
        try:
            record = read_manifest(file, WANTED)
        except InputError as error:
            return None, str(error)
        if record is None:
            return None, None
        why = self.expected.fault(cell, record)
        return (None, why) if why else (_of_record(record), None)


def _of_record(record: Mapping[str, Any]) -> Worth:
    if record["status"] == "diverged" or record["accuracy"] is None:
        return Worth(0.0, True)
    return Worth(record["accuracy"], False)
