"""A study of two columns and four methods, and its results folder, written by hand."""

import json
from collections.abc import Callable
from pathlib import Path

from fedgloss.files import sha256
from fedgloss.report.seeds import Summary
from fedgloss.study.layout import RUN_FILES
from fedgloss.study.study import Cell, Study, constants
from fedgloss.study.views import Surface

SEEDS = (0, 42, 200299)
C10 = {"dataset": "cifar10", "alpha": "0", "model": "cnn"}
C100 = {"dataset": "cifar100", "alpha": "0", "model": "cnn"}
ROWS = ["fedavg", "scaffold", "feddyn-sam", "fedgloss"]
# By (column, algorithm): each seed's final accuracy, "x" diverged, None not run.
FINAL = {
    ("cifar10", "fedavg"): (59.0, 60.0, 62.0),
    ("cifar10", "scaffold"): (25.0, "x", 26.0),
    ("cifar10", "feddyn-sam"): (79.0, 80.0, 82.5),
    ("cifar10", "fedgloss"): (83.0, None, 84.6),
    ("cifar100", "fedavg"): (28.0, 28.5, 29.0),
    ("cifar100", "scaffold"): ("x", None, None),
    ("cifar100", "feddyn-sam"): ("x", "x", "x"),
    ("cifar100", "fedgloss"): (None, None, None),
}
LAMBDA1 = {"fedavg": 20.0, "scaffold": 40.0, "feddyn-sam": 9.0, "fedgloss": 2.0}
TWICE = ("scaffold",)
AROUND = Surface(1.0)
PARAMETERS = 1000
TRAINING = {"evaluate_every": 1000, "last": 1000, "record": ["communication"]}


def make_study(**config: object) -> Study:
    """A study of two columns and four methods with three seeds."""
    cells = [
        Cell(column["dataset"], column["alpha"], column["model"], label, seed)
        for column in (C10, C100)
        for label in ROWS
        for seed in SEEDS
    ]
    report = {
        "study": "toy",
        "seeds": [*SEEDS],
        "grid": [
            {
                "dataset": c["dataset"],
                "alphas": [c["alpha"]],
                "model": c["model"],
                "algorithms": ROWS,
            }
            for c in (C10, C100)
        ],
        "title": "A study",
        "training": TRAINING,
        "tables": {
            "table3": {
                "kind": "methods",
                "title": "Accuracy",
                "columns": [C10, C100],
                "rows": ROWS,
            },
            "table7": {"kind": "methods", "columns": [C10], "rows": ROWS, "show": ["lambda1"]},
            "table6": {"kind": "communication", "columns": [C10], "rows": ROWS},
        },
        "figures": {
            "curves": {"kind": "curves", "columns": [C10, C100], "rows": ROWS},
            "sharpness": {"kind": "eigenvalues", "columns": [C10, C100], "rows": ROWS},
            "density": {"kind": "density", "seed": 0, "columns": [C10, C100], "rows": ROWS},
            "gain": {"kind": "gain", "columns": [C10, C100], "rows": ROWS},
            "flatness": {"kind": "flatness", "columns": [C10, C100], "rows": ROWS},
            "classes": {"kind": "classes", "columns": [C10, C100], "rows": ROWS},
            "landscape": {
                "kind": "landscape",
                "seed": 0,
                "columns": [C10],
                "rows": ["fedavg", "fedgloss"],
            },
        },
    }
    return Study("toy", "config/toy.yaml", {**report, **config}, constants(), tuple(cells))


def write_cell(
    folder: Path, cell: Cell, final: float | str, study: Study | None = None, name: str = "toy"
) -> None:
    """What training and analysis leave behind for one cell; accuracy climbs by 1/10 a round."""
    runs, analysis = (folder / kind / name / str(cell) for kind in ("runs", "analysis"))
    runs.mkdir(parents=True)
    analysis.mkdir(parents=True)
    diverged = final == "x"
    study = study or make_study()
    settings = study.settings(cell).to_json()
    training = settings["training"]
    sent = 5 * training["rounds"] * PARAMETERS * 4 * (2 if cell.algorithm in TWICE else 1)
    reached = [] if diverged else [final * t / 10 for t in range(1, 11)]
    # One that diverged before its first evaluation has recorded nothing (fedgloss.jobs.results).
    lines = ["round,accuracy,loss" + ",bytes_down,bytes_up" * bool(reached)]
    for i, a in enumerate(reached, 1):
        so_far = sent * i // 10
        lines.append(f"{i * training['rounds'] // 10},{a},{1 / a},{so_far},{so_far}")
    (runs / "metrics.csv").write_text("\n".join(lines) + "\n")
    for name in RUN_FILES[1:]:
        (runs / name).touch()
    manifest = {
        "status": "diverged" if diverged else "completed",
        "diverged_in": 7 if diverged else None,
        "accuracy": None if diverged else final,
        "accuracy_at_half": None if diverged else final / 2,
        "accuracy_by_class": None if diverged else [final - 2, final + 2, None],
        "settings": settings,
        "bytes_down": sent,
        "bytes_up": sent,
        "gradients_per_step": 1.0,
        "parameters": PARAMETERS,
        "backend": "stacked",
        "device": "cpu",
        "threads": 1,
        "precision": "float32, TF32 off",
        "versions": {"python": "3.11.2", "torch": "2.6.0", "numpy": "2.0.0", "fedgloss": "0.1.0"},
        "code": study.code(cell.algorithm, cell.model),
        "wall_seconds": 12.5,
        "images_per_second": 1234.5,
        "inputs": {"data": "da7a" * 16},
        "outputs": {name: sha256(runs / name) for name in RUN_FILES},
    }
    (runs / "manifest.json").write_text(json.dumps(manifest))
    lambda1 = None if diverged else LAMBDA1[cell.algorithm] * (1 + cell.seed % 3 / 10)
    hessian = {"status": manifest["status"], "lambda1": lambda1, "eigenvalues": [lambda1]}
    hessian |= {"residuals": [0.0], "data": "paper", "model": "average", "samples": 50000}
    if not diverged:  # of 1000 eigenvalues, two are not 0
        hessian["trace"] = {"trace": 4 * lambda1, "standard_error": 0.1, "products": 90}
        nodes = [0.0, lambda1 / 2, lambda1]
        weights = [[0.998 - 0.002 * s, 0.001, 0.001 + 0.002 * s] for s in (-0.1, 0.1)]
        hessian["density"] = {"nodes": [nodes] * 2, "weights": weights, "products": 6}
    (analysis / "hessian.json").write_text(json.dumps(hessian))
    if not diverged:
        grid = [i / 3 for i in range(-3, 4)]
        lines = [f"{x},{y},{0.1 + lambda1 * (x * x + y * y) / 2},50" for x in grid for y in grid]
        text = "\n".join(["x,y,loss,accuracy", *lines]) + "\n"
        (analysis / f"landscape-{AROUND.name}.csv").write_text(text)
        facts = {"status": "completed", "model": "average", "data": "all"}
        facts |= {"images": 5000, "of": 50000}
        (analysis / f"landscape-{AROUND.name}.json").write_text(json.dumps(facts))


def write_results(folder: Path, study: Study | None = None) -> Path:
    """A results folder with what FINAL says."""
    for cell in make_study().cells:
        final = FINAL[cell.dataset, cell.algorithm][SEEDS.index(cell.seed)]
        if final is not None:
            write_cell(folder, cell, final, study)
    return folder


def summary(*by_seed: float | str, against: str = "") -> Summary:
    """Of seeds 0, 1, 2, ...: a value, or why there is none."""
    values = {seed: value for seed, value in enumerate(by_seed) if not isinstance(value, str)}
    absent = {seed: why for seed, why in enumerate(by_seed) if isinstance(why, str)}
    return Summary(values, absent, against)


def cell(dataset: str, algorithm: str, seed: int) -> Cell:
    return Cell(dataset, "0", "cnn", algorithm, seed)


def edit_manifest(run: Path, change: Callable[[dict], object]) -> None:
    """Change a run's manifest in place."""
    manifest = json.loads((run / "manifest.json").read_text())
    change(manifest)
    (run / "manifest.json").write_text(json.dumps(manifest))
