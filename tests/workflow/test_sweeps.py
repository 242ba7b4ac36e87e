"""A sweep by the workflow: who is dropped, and that stopping on the way changes nothing."""

import json
import shutil
import subprocess

import pytest

from fedgloss.study.layout import Layout
from fedgloss.study.study import load_study
from workflow.project import build, copy_project, environment, files, planned, rules, snakemake

SWEEP = {
    "study": "search",
    "seeds": [0, 1],
    "training": {"rounds": 6, "evaluate_every": 2, "last": 2},
    "sweep": {
        "held_out": {"share": 0.2},
        "choose": "best-mean",
        "halving": {"keep": "1/2", "rounds": [2]},
        "search": [
            {"labels": ["fedavg"], "training": {"lr": [0.1, 0.2, 0.3]}},
            {"labels": ["fedsam"], "hyperparameters": {"rho_l": [0.05, 0.1]}},
        ],
    },
    "algorithms": {"fedsam": {"training": {"lr": 0.2}}},
    "grid": [
        {
            "dataset": "digits",
            "alphas": ["0.5"],
            "model": "smallcnn",
            "algorithms": ["fedavg", "fedsam"],
        }
    ],
    "tables": {"trials": {"kind": "sweep"}},
    "figures": {"response": {"kind": "sweep"}},
}
FILE = "--configfile=config/search.yaml"


def add_sweep(project, **changes):
    """The study above, with changes to its sweep, in a project."""
    content = SWEEP | {"sweep": {**SWEEP["sweep"], **changes}}
    file = project / "config" / "search.yaml"
    file.write_text(json.dumps(content), encoding="utf-8")
    return load_study(file)


def trained(project, study):
    """The trials of which all cells were trained to their end."""
    layout = Layout(project / "results")
    done = [cell for cell in study.cells if layout.metrics(study.name, cell).is_file()]
    assert len(done) % 2 == 0, "both seeds, or none"
    return {cell.algorithm for cell in done}


@pytest.fixture
def other(tmp_path_factory):
    """A second project with the study above."""
    project = copy_project(tmp_path_factory.mktemp("other") / "project")
    add_sweep(project)
    return project


@pytest.mark.slow
def test_a_sweep_that_was_stopped_on_a_rung_ends_as_one_that_was_not(fresh, other):
    """And trials that a rung drops are trained no further."""
    study = add_sweep(fresh)
    build(fresh, FILE)
    assert len(trained(fresh, study)) == 2 + 1
    # Stopped before anybody is promoted: each cell has come to its rung, and no further.
    snakemake(other, FILE, "--until", "pause", "pause_seeds")
    assert trained(other, study) == set()
    paused = files(other / "results" / "sweeps", "round-2.json")
    assert len(paused) == len(study.cells)
    build(other, FILE)
    for kind, pattern in (("runs", "metrics.csv"), ("runs", "*.safetensors"), ("sweeps", "*.*")):
        first, second = (files(p / "results" / kind, pattern) for p in (fresh, other))
        assert first == second and first
    assert rules(planned(fresh, FILE)) == {}, "nothing is left to do"


@pytest.mark.slow
def test_a_search_that_halved_is_kept_with_what_it_dropped(fresh, other, tmp_path):
    """An archive has what its trials were worth as they paused; a seed less decides anew."""
    study = add_sweep(fresh)
    build(fresh, FILE)
    archive = str(tmp_path / "search.zip")
    for project, words in (
        (fresh, ["collect", "config/search.yaml", "--out", archive]),
        (other, ["import", archive, "config/search.yaml"]),
    ):
        command = ["fedgloss", *words]
        subprocess.run(command, cwd=project, env=environment(project), check=True)
    assert trained(other, study) == trained(fresh, study)
    jobs = rules(planned(other, FILE))
    assert not {rule for rule in jobs if rule.startswith(("train", "pause"))}, jobs
    build(other, FILE)
    chosen = "results/sweeps/search/chosen.yaml"
    assert (other / chosen).read_bytes() == (fresh / chosen).read_bytes()

    assert "promote" not in build(fresh, FILE, "--dry-run")
    assert "promote" in build(fresh, FILE, "--dry-run", "--config", "study=search", "seeds=[1]")


@pytest.mark.slow
def test_who_goes_on_is_what_the_runs_say_whatever_the_files_of_rungs_say(fresh):
    """They may be damaged, or not be known to Snakemake: a second build is as the first."""
    study = add_sweep(fresh)
    build(fresh, FILE)
    before = files(fresh / "results/sweeps", "*.*")
    rung = fresh / "results/sweeps/search/fedavg.rung-1.json"
    for damaged in ("{", "[]", "{}", '{"trials": []}'):
        rung.write_text(damaged)
        build(fresh, FILE)
        assert files(fresh / "results/sweeps", "*.*") == before
    shutil.rmtree(fresh / ".snakemake")
    search = [{"labels": ["fedavg"], "training": {"lr": [0.05, 0.15, 0.2, 0.3]}}]
    study = add_sweep(fresh, search=[*search, SWEEP["sweep"]["search"][1]])
    build(fresh, FILE)
    assert len(trained(fresh, study)) >= 2 + 1
    assert rules(planned(fresh, FILE)) == {}
    dropped = next(cell for cell in study.cells if cell.algorithm not in trained(fresh, study))
    Layout(fresh / "results").paused("search", dropped, 2).unlink()
    build(fresh, FILE, "--config", "title=Again")
    assert rules(planned(fresh, FILE)).keys() <= {"table", "figure", "report", "choose"}


@pytest.mark.slow
def test_a_change_of_who_goes_on_trains_only_who_goes_on_now(fresh):
    study = add_sweep(fresh)
    build(fresh, FILE)
    before = trained(fresh, study)
    add_sweep(fresh, halving={"keep": "1/1", "rounds": [2]})
    said = build(fresh, FILE)
    assert trained(fresh, study) == {*study.trials} and "pause" not in said.split("Job stats")[1]
    assert len(before) == 3
