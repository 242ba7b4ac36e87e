"""Small sweeps, and their runs, for tests."""

import json
from pathlib import Path

from cells import train_cell
from fedgloss.data.dataset import load, prepare
from fedgloss.data.partition.partition import HeldOut, make_partition
from fedgloss.study.jobfile import TrainingJob, job_of
from fedgloss.study.layout import Layout
from fedgloss.study.study import Study, check_study

BLOCK = {"dataset": "digits", "alphas": ["0.5"], "model": "smallcnn"}


def sweep(search, labels=("fedavg",), *, study=None, **more) -> Study:
    """A study that searches some settings of these labels; `study`: what else it says."""
    section = {"held_out": {"share": 0.2}, "choose": "best-mean", **more}
    section["search"] = search if isinstance(search, list) else [{"labels": [*labels], **search}]
    config = {
        "study": "search",
        "seeds": [1, 2],
        "training": {"rounds": 6, "last": 2, "evaluate_every": 2},
        "sweep": section,
        "grid": [{**BLOCK, "algorithms": [*labels]}],
        "tables": {"trials": {"kind": "sweep"}},
        "figures": {"response": {"kind": "sweep"}},
    }
    return check_study(json.loads(json.dumps(config | (study or {}))), "search.yaml")


def values(study: Study, label="fedavg") -> list[dict]:
    """What the trials of a label try, by name, in their order."""
    found = [trial for trial in study.trials.values() if trial.base == label]
    return [{name: value for (_, name), value in trial.point.items()} for trial in found]


def prepare_for(study: Study, results: Path) -> None:
    """The data and the partitions of a study."""
    layout = Layout(results)
    for cell in {cell.column: cell for cell in study.cells}.values():
        data = layout.data(study.data_folder(cell.dataset))
        prepare("digits", data)
        arguments = study.partition(cell.dataset, cell.alpha)
        if "held_out" in arguments:
            arguments["held_out"] = HeldOut(**arguments["held_out"])
        out = layout.partition(study.partition_folder(cell.dataset, cell.alpha), cell.alpha)
        make_partition(load(data), out, **arguments)


def train(study: Study, results: Path, cells=None, **options) -> None:
    """Train cells of a study, all by default, one by one."""
    for cell in study.cells if cells is None else cells:
        job = job_of("train", study, cell, Layout(results))
        assert isinstance(job, TrainingJob)
        train_cell(
            job.settings.to_json(),
            job.data,
            job.partition,
            job.run,
            code=job.code,
            checkpoints=job.checkpoints,
            **options,
        )
