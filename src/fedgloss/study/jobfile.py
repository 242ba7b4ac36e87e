"""What a job is told: one JSON file, written before the job starts and read by the job itself.

The workflow writes the files of the jobs that it is about to start; `fedgloss job` prints one. A
file's name has a hash of its content: two calls of Snakemake with other settings never write into
each other's, and nothing is written twice. As a cell is made again, its files of other settings go.
Paths are relative to the working folder.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fedgloss.errors import InputError, did_you_mean
from fedgloss.files import read_json
from fedgloss.records import COUNT, NUMBER, TEXT, Kind, check_record
from fedgloss.records import POSITIVE as AT_LEAST_ONE
from fedgloss.sharpness.auto import LEAST
from fedgloss.study.layout import Layout
from fedgloss.study.settings import Settings

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
    """The loss surface around a run's averaged model.

    Attributes
      run, data, partition  as in the job that trained it
      out     the file to write (CSV)
      points  points a side, at least 2
      extent  half-width of the square
      seed    of the two directions
    """

    run: Path
    data: Path
    partition: Path
    out: Path
    points: int
    extent: float
    seed: int


Job = TrainingJob | HessianJob | LocalsJob | LandscapeJob
OfKind = TypeVar("OfKind", TrainingJob, HessianJob, LocalsJob, LandscapeJob)

KINDS: dict[str, type[Job]] = {
    "train": TrainingJob,
    "hessian": HessianJob,
    "locals": LocalsJob,
    "landscape": LandscapeJob,
}
PATHS = {"data", "partition", "weights", "run", "checkpoints", "out"}
ENTRIES = {
    "settings": Kind("keys and values", lambda value: isinstance(value, dict)),
    **dict.fromkeys(PATHS, PATH),
    **dict.fromkeys(("weights", "checkpoints"), PATH.or_null),
    "code": TEXT,
    "choices": some_of(CHOICES),
    "count": AT_LEAST_ONE,
    "models": some_of(MODELS),
    "method": Kind(f"one of {', '.join(METHODS)}", lambda value: value in METHODS),
    "images": Kind(
        f"all, auto, or an integer of at least {LEAST}",
        lambda value: value in ("all", "auto") or (COUNT.fits(value) and value >= LEAST),
    ),
    "trace": AT_LEAST_ONE.or_null,
    "density": Kind(
        "starts and steps, each an integer of at least 1",
        lambda value: (
            isinstance(value, dict)
            and {*value} == {"starts", "steps"}
            and all(map(AT_LEAST_ONE.fits, value.values()))
        ),
    ).or_null,
    "points": Kind("an integer of at least 2", lambda value: COUNT.fits(value) and value >= 2),
    "extent": POSITIVE,
    "seed": COUNT,
}
"""What each entry of a job file must be."""


def job_of(kind: str, study: "Study", cell: "Cell", layout: Layout) -> Job:
    """The job of a cell; kind: train, hessian, locals or landscape."""
    name = study.name
    common = {
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
    return LandscapeJob(
        **common,
        out=layout.landscape(name, cell),
        points=study.landscape.points,
        extent=study.landscape.extent,
        seed=0,
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
