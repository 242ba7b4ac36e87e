"""Small studies, for tests to begin with."""

import json
from pathlib import Path

import yaml

from fedgloss.study.study import check_study, load_study

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted(
    path for path in (ROOT / "config").glob("*.yaml") if path.stem not in ("methods", "resources")
)
# Through JSON: YAML's aliases would let a change of one list change the others.
QUICKSTART = json.loads(
    json.dumps(yaml.safe_load((ROOT / "config" / "quickstart.yaml").read_text(encoding="utf-8")))
)

SMALL = """\
study: tiny
seeds: [0, 1]
training: {rounds: 6, last: 2}
algorithms:
  gentle: {method: fedgloss, hyperparameters: {rho: 0.01}, variants: {sigma_scaling: paper}}
grid:
  - {dataset: digits, alphas: ["0", "0.5"], model: smallcnn, algorithms: [fedavg, gentle]}
tables:
  accuracy:
    kind: methods
    columns: [{dataset: digits, alpha: "0", model: smallcnn}]
    rows: [fedavg, gentle]
figures:
  curves:
    kind: curves
    columns: [{dataset: digits, alpha: "0.5", model: smallcnn}]
    rows: [gentle]
"""


def settings_of(file, cell):
    study = load_study(file)
    return study.settings(study.cell(cell)).to_json()


OWN = {
    "rounds": 2,
    "clients": 4,
    "clients_per_round": 2,
    "epochs": 1,
    "batch_size": 8,
    "lr": 0.1,
    "weight_decay": 0.0,
    "augmentation": "none",
    "evaluate_every": 1,
    "last": 1,
    "record": [],
}


def own_study(training):
    return {
        "study": "own",
        "seeds": [0],
        "datasets": {
            "flowers": {
                "source": "folder",
                "root": "flowers",
                "partition": {"scheme": "iid", "clients": 4, "seed": 0},
            }
        },
        "training": training,
        "algorithms": {"fedsam": {"hyperparameters": {"rho_l": 0.1}}},
        "grid": [
            {
                "dataset": "flowers",
                "alphas": ["iid"],
                "model": "my_package.nets:small",
                "algorithms": ["fedavg", "fedsam"],
            }
        ],
    }


DIGITS = {"source": "digits", "partition": {"scheme": "dirichlet", "clients": 50, "seed": 0}}


def with_datasets(alphas=("0", "0.5"), **datasets):
    """A study of FedAvg on the first of some data sets."""
    name, *_ = [*datasets, "digits"]
    block = {"dataset": name, "alphas": [*alphas], "model": "smallcnn", "algorithms": ["fedavg"]}
    return check_study(
        {"study": "s", "seeds": [0], "datasets": datasets, "grid": [block]}, "s.yaml"
    )


def digits(algorithms=None, labels=("fedavg",), alphas=("0",), **more):
    """A study of digits: these labels at these alphas, and what else it is to say."""
    block = {"dataset": "digits", "alphas": [*alphas], "model": "smallcnn", "algorithms": [*labels]}
    config = {"study": "s", "seeds": [0], "algorithms": algorithms or {}, "grid": [block]}
    return check_study(config | more, "s.yaml")
