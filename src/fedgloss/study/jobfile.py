"""What a job is told: one JSON file, written before the job starts and read by the job itself.

The workflow writes the files of the jobs that it is about to start; `fedgloss job` prints one. A
file's name has a hash of its content: two calls of Snakemake with other settings never write into
each other's, and nothing is written twice. As a cell is made again, its files of other settings go.
Paths are relative to the working folder.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedgloss import fingerprint
from fedgloss.errors import InputError, did_you_mean
from fedgloss.files import read_json
from fedgloss.records import COUNT, NUMBER, TEXT, Kind, check_record
from fedgloss.records import POSITIVE as AT_LEAST_ONE
from fedgloss.study.layout import Layout
from fedgloss.study.settings import Settings
from fedgloss.study.views import Line, Surface, View

if TYPE_CHECKING:  # a job reads its file where nothing of what a study needs is installed
    from fedgloss.study.study import Cell, Study

MODELS = ("average", "final")
CHOICES = ("paper", "official_code")
METHODS = ("lanczos", "pyhessian", "eigsh")
PATH = Kind("a path", lambda value: TEXT.fits(value) and value and "\0" not in value)
POSITIVE = Kind("a number above 0", lambda value: NUMBER.fits(value) and value > 0)


def some_of(names: tuple[str, ...]) -> Kind:
    """A list of some of these names, at least one."""
    return Kind(
        f"a list of {' and '.join(names)}, each at most once",
        lambda value: (
            isinstance(value, list)
            and 0 < len(value) == len({*map(str, value)})
            and all(name in names for name in value)
        ),
    )


@dataclass(frozen=True)
class TrainingJob:
    """A cell to train.

    Attributes
      settings     all that decides its numbers, resolved
      data         the folder of the prepared data set
      partition    the file that says which client holds which image
      weights      the file that the model starts from; None if the settings name none
      run          the folder to write
      checkpoints  the folder for checkpoints, from which the job goes on; None: it keeps none
      code         the fingerprint of the code that decides its numbers
    """

    settings: Settings
    data: Path
    partition: Path
    weights: Path | None
    run: Path
    checkpoints: Path | None
    code: str


@dataclass(frozen=True)
class HessianJob:
    """The largest Hessian eigenvalues of a run.

    Attributes
      run, data, partition  as in the job that trained it
      out     the file to write (JSON)
      choices  which Hessians, "paper" and "official_code": the one reported, then any other
      count    how many eigenvalues, at least 1
      models   of "average" and "final": the one reported, then any other
      method   "lanczos", "pyhessian" or "eigsh"
      images   how many of the training images: a number, "all", or "auto" by the device
      trace    products for the trace; None: it is not computed
      density  starts and steps for the spectral density; None: it is not computed
    """

    run: Path
    data: Path
    partition: Path
    out: Path
    choices: tuple[str, ...]
    count: int
    models: tuple[str, ...]
    method: str
    images: int | str
    trace: int | None
    density: Mapping[str, int] | None


@dataclass(frozen=True)
class LocalsJob:
    """lambda_1 of the local models of a run's last round.

    Attributes
      run, data, partition  as in the job that trained it
      out             the file to write (JSON)
      method, images  as in `HessianJob`; images: of the union of all clients'
    """

    run: Path
    data: Path
    partition: Path
    out: Path
    method: str
    images: int | str


@dataclass(frozen=True)
class LandscapeJob:
    """The loss surface around one of a run's models.

    Attributes
      run, data, partition  as in the job that trained it
      out     the file to write (CSV); what it is of goes into one beside it (JSON)
      model   average, final, or local-1, local-2, ...: of the last round's participants; or
              round-75, say, if the run has kept the model after that round
      on      all: the training images of all clients; own: those of the local model's client
      images  how many of them, of each class equally many; or all, or auto: all on a GPU
      points  points a side, at least 2
      extent  half-width of the square
      seed    of the two directions, and of the images that are chosen
      code    the fingerprint of the code that decides its numbers
    """

    run: Path
    data: Path
    partition: Path
    out: Path
    model: str
    on: str
    images: int | str
    points: int
    extent: float
    seed: int
    code: str


@dataclass(frozen=True)
class LineJob:
    """Loss on the straight line between the models of two runs, or two models of one.

    Attributes
      run, data, partition  as in the job that trained the first, on whose data both are tested
      other_run             the other's
      model, other_model    of either run, as for a surface
      points                from one model to the other, at least 2
      out, images, seed, code  as for a surface
    """

    run: Path
    other_run: Path
    data: Path
    partition: Path
    out: Path
    model: str
    other_model: str
    images: int | str
    points: int
    seed: int
    code: str


Job = TrainingJob | HessianJob | LocalsJob | LandscapeJob | LineJob
OfKind = TypeVar("OfKind", TrainingJob, HessianJob, LocalsJob, LandscapeJob, LineJob)

KINDS: dict[str, type[Job]] = {
    "train": TrainingJob,
    "hessian": HessianJob,
    "locals": LocalsJob,
    "landscape": LandscapeJob,
    "line": LineJob,
}
PATHS = {"data", "partition", "weights", "run", "other_run", "checkpoints", "out"}
MODEL = Kind(
    "average, final, local-1, local-2, ..., or round-1, round-2, ...",
    lambda value: (
        TEXT.fits(value)
        and re.fullmatch("average|final|(local|round)-[1-9][0-9]{0,9}", value) is not None
    ),
)
ENTRIES = {
    "settings": Kind("keys and values", lambda value: isinstance(value, dict)),
    **dict.fromkeys(PATHS, PATH),
    **dict.fromkeys(("weights", "checkpoints"), PATH.or_null),
    "code": TEXT,
    "choices": some_of(CHOICES),
    "count": AT_LEAST_ONE,
    "models": some_of(MODELS),
    "method": Kind(f"one of {', '.join(METHODS)}", lambda value: value in METHODS),
    "trace": AT_LEAST_ONE.or_null,
    "density": Kind(
        "starts and steps, each an integer of at least 1",
        lambda value: (
            isinstance(value, dict)
            and {*value} == {"starts", "steps"}
            and all(map(AT_LEAST_ONE.fits, value.values()))
        ),
    ).or_null,
    **dict.fromkeys(("model", "other_model"), MODEL),
    "on": Kind("one of all, own", lambda value: value in ("all", "own")),
    "images": Kind(
        "all, auto, or an integer of at least 1",
        lambda value: value in ("all", "auto") or AT_LEAST_ONE.fits(value),
    ),
    "points": Kind("an integer of at least 2", lambda value: COUNT.fits(value) and value >= 2),
    "extent": POSITIVE,
    "seed": COUNT,
}
"""What each entry of a job file must be."""


def job_of(
    kind: str, study: "Study", cell: "Cell", layout: Layout, view: View | None = None
) -> Job:
    """The job of a cell; kind: one of KINDS.

    view: of a landscape, or a line. Where it is not given: the surface around the averaged model,
    the line from there to the final one.
    """
    name = study.name
    common: dict[str, Any] = {
        "data": layout.data(study.data_folder(cell.dataset)),
        "partition": layout.partition(study.partition_folder(cell.dataset, cell.alpha), cell.alpha),
        "run": layout.run(name, cell),
    }
    asked = study.hessian
    if kind == "train":
        weights = study.model(cell.model).weights
        return TrainingJob(
            **common,
            settings=study.settings(cell),
            weights=Path(weights) if weights else None,
            checkpoints=layout.checkpoints(name, cell),
            code=study.code(cell.algorithm, cell.model),
        )
    if kind == "hessian":
        return HessianJob(
            **common,
            out=layout.hessian(name, cell),
            choices=asked.choices,
            count=asked.count,
            models=asked.models,
            method=asked.method,
            images=asked.images,
            trace=asked.trace.products if asked.trace else None,
            density=asked.density.model_dump() if asked.density else None,
        )
    if kind == "locals":
        out = layout.locals(name, cell)
        return LocalsJob(**common, out=out, method=asked.method, images=asked.images)
    drawing = study.landscape
    drawn: dict[str, Any] = {
        "images": drawing.images,
        "points": drawing.points,
        "seed": 0,
        "code": fingerprint.of_analysis("landscape", study.model(cell.model).model),
    }
    if kind == "line":
        line = view if isinstance(view, Line) else Line(cell, "final")
        return LineJob(
            **common,
            **drawn,
            out=layout.view(name, cell, kind, line.name),
            model=line.start,
            other_run=layout.run(name, line.other),
            other_model=line.model,
        )
    surface = view if isinstance(view, Surface) else Surface(drawing.extent)
    return LandscapeJob(
        **common,
        **drawn,
        out=layout.view(name, cell, kind, surface.name),
        model=surface.model,
        on=surface.on,
        extent=surface.extent,
    )


def to_json(job: Job) -> str:
    """A job's file."""
    return json.dumps(asdict(job), indent=1, default=str, allow_nan=False) + "\n"


def file_for(folder: Path, content: str) -> Path:
    """Where a file with this content lies in a folder: its name is a hash of it."""
    return folder / f"{hashlib.sha256(content.encode()).hexdigest()[:8]}.json"


def read_job(file: Path, kind: type[OfKind]) -> OfKind:
    """A job's file; InputError naming the file and the entry that is missing, unknown or wrong.

    Whether a method, model or number of the settings is usable, training finds out itself.
    """
    content = read_json(file)
    names: list[str] = [field.name for field in fields(kind)]
    check_record(file, content, {name: ENTRIES[name] for name in names})
    for key in content:
        if key not in names:
            raise InputError(f"{file}: {key}: unknown key{did_you_mean(key, names)}")
    for name in PATHS.intersection(names):
        content[name] = content[name] and Path(content[name])
    if "settings" in content:
        try:
            content["settings"] = Settings.from_json(content["settings"])
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
    for name in ("choices", "models"):
        if name in names:
            content[name] = tuple(content[name])
    return kind(**content)
