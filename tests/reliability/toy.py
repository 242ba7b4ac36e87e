"""A small project: a data set of one's own, a study of two methods and two seeds, its results."""

import contextlib
import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np

from fedgloss.files import write_json
from fedgloss.study import study
from reliability.hostile import fedgloss
from unit.cells import job_file

COLUMN = {"dataset": "pets", "alpha": "iid", "model": "smallcnn"}
BOTH = {"columns": [COLUMN], "rows": ["fedavg", "mine"]}
TRAINING = {
    **{"rounds": 2, "clients": 3, "clients_per_round": 2, "epochs": 1, "batch_size": 4, "lr": 0.1},
    **{"weight_decay": 0.001, "augmentation": "none", "evaluate_every": 1, "last": 1},
    "record": ["norms", "delta_epsilon"],
}
STUDY = {
    "study": "toy",
    "title": "A toy",
    "note": "It means nothing.",
    "preset": "recommended",
    "seeds": [0, 1],
    "datasets": {
        "pets": {
            "source": "folder",
            "root": "pets",
            "size": 8,
            "partition": {"scheme": "iid", "by_alpha": {"0": "dirichlet"}, "clients": 3, "seed": 0},
        }
    },
    "training": TRAINING,
    "algorithms": {
        "mine": {
            "method": "fedgloss",
            "variants": {"sigma_scaling": "paper"},
            "hyperparameters": {"rho": 0.01, "rho_l": 0.05, "beta": 10, "T_s": 1, "rho0": 0.001},
            "training": {"lr": 0.05},
        }
    },
    "grid": [
        {
            "dataset": "pets",
            "alphas": ["iid"],
            "model": "smallcnn",
            "algorithms": ["fedavg", "mine"],
        }
    ],
    "hessian": {"data": "paper", "count": 1, "models": ["average"]},
    "landscape": {"points": 3, "extent": 1.0},
    "tables": {
        "numbers": {
            "kind": "methods",
            "title": "Numbers",
            **BOTH,
            "show": ["accuracy", "accuracy_at_half", "lambda1"],
        },
        "bytes": {"kind": "communication", **BOTH},
    },
    "figures": {
        "curves": {"kind": "curves", "metric": "loss", **BOTH},
        "bars": {"kind": "eigenvalues", **BOTH},
        "surfaces": {"kind": "landscape", "seed": 0, **BOTH},
    },
}
CELL = "pets/alpha-iid/smallcnn/mine/seed-0"
INPUTS = {"data": "data", "partition": "partition.json"}


def picture(file: Path, seed: int) -> None:
    """An image of noise, 8 x 8."""
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def make_project(folder: Path) -> Path:
    """Everything the commands make, from images to a trained and analysed study."""
    for number in range(18):
        part = "train" if number < 12 else "test"
        picture(folder / "pets" / part / "ab"[number % 2] / f"{number}.png", number)
    write_json(folder / "study.yaml", STUDY)
    run = functools.partial(_done, folder)
    run("prepare", "folder", "--root", "pets", "--size", "8", "--out", "data")
    run(
        "partition",
        "--data",
        "data",
        "--scheme",
        "iid",
        "--clients",
        "3",
        "--out",
        "partition.json",
    )
    for cell in study.check_study(STUDY, "study.yaml").cells:
        out, made = f"results/runs/toy/{cell}", f"results/analysis/toy/{cell}"
        run("train", job_file(folder / "cell.json", **training(str(cell), out)))
        measured = {**INPUTS, "run": out, "out": f"{made}/hessian.json"}
        run("hessian", job_file(folder / "hessian.json", "hessian", **measured))
        drawn = {
            **INPUTS,
            "run": out,
            "out": f"{made}/landscape-average-all-within-1.csv",
            "points": 3,
        }
        run("landscape", job_file(folder / "landscape.json", "landscape", **drawn))
    job_file(folder / "job.json", **training(CELL, "new/run"))
    return folder


def training(cell: str, run: str) -> dict[str, Any]:
    """The entries of the job file that trains a cell into a folder."""
    code = _checked().code(*cell.split("/")[3:1:-1])
    return {"settings": settings(cell), **INPUTS, "run": run, "code": code}


def settings(cell: str) -> dict[str, Any]:
    """The resolved settings of a cell of the small study."""
    checked = _checked()
    return checked.settings(checked.cell(cell)).to_json()


def _checked() -> study.Study:
    return study.check_study(copy.deepcopy(STUDY), "study.yaml")


def _done(folder: Path, *arguments: str) -> None:
    with contextlib.chdir(folder):
        code, lines = fedgloss(*arguments)
    assert code == 0, lines
