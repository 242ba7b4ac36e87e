"""The settings of the quickstart's rows: an equal search for each, on held-out training images.

    nice python benchmarks/tune_quickstart.py [--processes 2] [--out FILE]

A fifth of the digits' training images is held out; the clients share the others. Every row of
config/quickstart.yaml tries the same 24 points, as far as its method has these hyperparameters, at
both alphas and with two seeds; its best six are tried again with four more. None of these seeds is
reported by the study. The best mean accuracy on the held-out images, over all six seeds, wins; a
run that diverges counts as none right. The search never sees a test image; its second round was
added after a first run of the study had shown that two seeds do not settle a choice.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fedgloss
from fedgloss.data.dataset import Dataset, load, prepare
from fedgloss.data.partition.partition import load_partition, make_partition
from fedgloss.engine.clients import ClientData, Pipeline
from fedgloss.engine.start import initial_model
from fedgloss.files import write_text
from fedgloss.rng import Stream
from fedgloss.study.study import Cell, Study, load_study

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "config" / "quickstart.yaml"
RESULTS = ROOT / "benchmarks" / "results" / "quickstart_tuning.csv"
SEEDS, MORE_SEEDS = (1, 2), (3, 4, 5, 6)
HELD_OUT = 0.2
TRIALS, FINALISTS = 24, 6
# Each reaches a factor of three to four either way from the values that the study had before.
LOGARITHMIC = {"lr": (0.04, 0.4), "rho": (0.015, 0.2), "rho_l": (0.015, 0.2), "beta": (2.5, 40.0)}
WARM_UP = (0, 60)  # T_s: half of the rounds at most


@dataclass(frozen=True)
class Trial:
    """One training run of the search."""

    label: str
    number: int
    alpha: str
    seed: int


def points() -> list[dict[str, float]]:
    """The points of the search: along each axis every value once, in an order of its own.

    Without a second axis that is a grid, with more a Latin hypercube; two significant digits.
    """
    axes = {name: np.geomspace(*ends, TRIALS) for name, ends in LOGARITHMIC.items()}
    axes["T_s"] = np.linspace(*WARM_UP, TRIALS).round()
    orders = {name: Stream(0, f"tuning {name}").permutation(TRIALS) for name in axes}
    return [
        {name: float(f"{axes[name][orders[name][i]]:.2g}") for name in axes} for i in range(TRIALS)
    ]


def settings_of(study: Study, label: str, point: dict[str, float]) -> dict[str, float]:
    """What a row takes of a point: `lr` and the hyperparameters that its method has."""
    known = {"lr", *study.settings(study.select(algorithm=label)[0]).hyperparameters}
    known |= {"beta"} if "alpha" in known else set()  # FedDyn's alpha is 1 / beta
    return {name: value for name, value in point.items() if name in known}


def ranking(rows: Iterable[dict[str, str]], label: str) -> dict[int, float]:
    """The trials of a label with their mean accuracies, best first; of the finalists, if any."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["label"] == label:
            found.setdefault(int(row["trial"]), []).append(float(row["accuracy"]))
    most = max(map(len, found.values()))
    means = {trial: float(np.mean(v)) for trial, v in found.items() if len(v) == most}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def hold_out(data: Dataset) -> tuple[Dataset, tuple[Tensor, Tensor]]:
    """The data set without the held-out training images, and these with their labels."""
    held = torch.zeros(len(data.train_labels), dtype=torch.bool)
    for label in range(len(data.classes)):
        members = (data.train_labels == label).nonzero()[:, 0]
        order = Stream(0, "tuning held out", client=label).permutation(len(members))
        held[members[order[: round(HELD_OUT * len(members))]]] = True
    rest = replace(
        data, train_images=data.train_images[~held], train_labels=data.train_labels[~held]
    )
    return rest, (data.train_images[held], data.train_labels[held])


@cache
def prepared() -> tuple[Study, Dataset, tuple[Tensor, Tensor], dict[str, tuple[Tensor, ...]]]:
    """A process's study, training images, held-out images, and each alpha's clients."""
    torch.set_num_threads(1)
    study = load_study(STUDY)
    with tempfile.TemporaryDirectory() as folder:
        prepare("digits", Path(folder) / "digits")
        data, held_out = hold_out(load(Path(folder) / "digits"))
        clients = {}
        for alpha in dict.fromkeys(cell.alpha for cell in study.cells):
            file = Path(folder) / f"{alpha}.json"
            make_partition(data, file, **study.partition("digits", alpha))
            clients[alpha] = load_partition(file, data).clients
    return study, data, held_out, clients


def accuracy(trial: Trial) -> tuple[str, float]:
    """How a trial's run ends, and its mean accuracy in % over the last rounds; 0 if it diverges."""
    study, data, held_out, clients = prepared()
    cell = Cell("digits", trial.alpha, "smallcnn", trial.label, study.config["seeds"][0])
    settings = study.settings(cell).to_json()
    training, own = settings["training"], settings_of(study, trial.label, points()[trial.number])
    lr = own.pop("lr")
    fixed = {k: v for k, v in settings["hyperparameters"].items() if k in ("rho0", "eta_s")}
    result = fedgloss.train(
        initial_model("smallcnn", data, trial.seed),
        ClientData(data.train_images, data.train_labels, clients[trial.alpha]),
        settings["method"],
        rounds=training["rounds"],
        clients_per_round=training["clients_per_round"],
        lr=lr,
        weight_decay=training["weight_decay"],
        batch_size=training["batch_size"],
        epochs=training["epochs"],
        hyperparameters=fixed | own,
        variants=settings["variants"],
        seed=trial.seed,
        test=held_out,
        evaluate_every=training["rounds"],
        last=training["last"],
        keep_history=False,
        pipeline=Pipeline(data.mean, data.std, training["augmentation"]),
    )
    if result.status != "completed":
        return result.status, 0.0
    return result.status, float(np.mean([row["accuracy"] for row in result.metrics]))


def row_of(study: Study, trial: Trial, status: str, value: float) -> dict[str, str]:
    """A trial as a line of the CSV; a hyperparameter that its method lacks is left empty."""
    own = settings_of(study, trial.label, points()[trial.number])
    values = {name: f"{own[name]:g}" if name in own else "" for name in points()[0]}
    head = {"label": trial.label, "trial": str(trial.number), **values}
    tail = {"alpha": trial.alpha, "seed": str(trial.seed), "status": status}
    return head | tail | {"accuracy": f"{value:.3f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="training runs at a time")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the CSV of all trials")
    options = parser.parse_args()
    begun, study, rows = time.monotonic(), load_study(STUDY), []
    labels = list(dict.fromkeys(cell.algorithm for cell in study.cells))
    alphas = list(dict.fromkeys(cell.alpha for cell in study.cells))
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(options.processes) as pool:
        for seeds, most in ((SEEDS, TRIALS), (MORE_SEEDS, FINALISTS)):
            chosen = {
                label: sorted([*ranking(rows, label)][:most]) if rows else range(most)
                for label in labels
            }
            trials = [
                Trial(label, number, alpha, seed)
                for label in labels
                for number, alpha, seed in itertools.product(chosen[label], alphas, seeds)
            ]
            found = pool.map(accuracy, trials, chunksize=4)
            rows += [row_of(study, t, *result) for t, result in zip(trials, found, strict=True)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    write_text(options.out, "".join(",".join(line) + "\n" for line in lines))
    for label in labels:
        number, mean = next(iter(ranking(rows, label).items()))
        print(f"{label}: {mean:.1f} % with {settings_of(study, label, points()[number])}")
    print(f"{len(rows)} runs in {time.monotonic() - begun:.0f} s; {options.out}")


if __name__ == "__main__":
    main()
