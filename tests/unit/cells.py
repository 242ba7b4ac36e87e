"""Small, real training cells for tests: prepared digits, settings, and what a run leaves behind."""

import json
from functools import cache
from pathlib import Path

from fedgloss.data.dataset import load, prepare
from fedgloss.data.partition.partition import make_partition
from fedgloss.engine.assembly import Result
from fedgloss.fingerprint import of_training
from fedgloss.jobs.train import CellFiles, train_cells
from fedgloss.study.settings import Settings
from fedgloss.study.study import load_study

QUICK = {
    "rounds": 12,
    "clients_per_round": 3,
    "batch_size": 20,  # two mini-batches a client, of 20 and 8
    "evaluate_every": 3,
    "last": 4,
}
OUTPUTS = ("metrics.csv", "final.safetensors", "average.safetensors", "locals.safetensors")


def prepare_inputs(folder: Path) -> dict[str, Path]:
    """The digits and a partition of theirs, as the arguments of `train_cell` and `fedgloss`."""
    prepare("digits", folder / "data")
    partition = folder / "partition.json"
    make_partition(
        load(folder / "data"), partition, scheme="dirichlet", clients=50, alpha="0", seed=0
    )
    return {"data": folder / "data", "partition": partition}


def train_cell(settings, data, partition, out, *, code, checkpoints=None, **options) -> Result:
    """Train one cell alone."""
    cell = CellFiles(Settings.from_json(settings), partition, out, code, checkpoints)
    return next(iter(train_cells([cell], data, **options)), None)


def cell_settings(method: str = "fedgloss", **training: object) -> dict:
    """Resolved settings of 12 quick rounds on the digits, with changes to the training."""
    chosen = {**QUICK, **training}
    chosen["last"] = min(chosen["last"], chosen["rounds"])
    return json.loads(_resolved(method, json.dumps(chosen)))


@cache
def _resolved(method: str, training: str) -> str:
    study = {
        "study": "test",
        "seeds": [0],
        "training": json.loads(training),
        "grid": [
            {"dataset": "digits", "alphas": ["0"], "model": "smallcnn", "algorithms": [method]}
        ],
    }
    study = load_study(json.dumps(study))
    return json.dumps(study.settings(study.cells[0]).to_json())


JOBS = {
    "train": {"weights": None, "checkpoints": None},
    "hessian": {
        **{"choices": ["paper"], "count": 1, "models": ["average"], "method": "lanczos"},
        **{"images": "auto", "trace": None, "density": None},
    },
    "locals": {"method": "lanczos", "images": "auto"},
    "landscape": {
        "model": "average",
        "on": "all",
        "images": "auto",
        "points": 2,
        "extent": 1.0,
        "seed": 0,
        "code": "code",
    },
    "line": {
        "model": "average",
        "other_model": "final",
        "images": "auto",
        "points": 2,
        "seed": 0,
        "code": "code",
    },
}


def job_file(file: Path, kind: str = "train", **entries: object) -> str:
    """Write a job file, as `fedgloss train` and its like take it; returns its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    job = JOBS[kind] | entries
    if kind == "train" and isinstance(settings := job.get("settings"), dict):
        named = str(settings.get("method")), str(settings.get("model")), job["weights"] is not None
        job = {"code": of_training(*named)} | job
    file.write_text(json.dumps(job, default=str))
    return str(file)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of a run's results."""
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: the files' bytes, None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
