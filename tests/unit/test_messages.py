"""What a run of the workflow says: what is to come, a line for each job, causes of failures."""

import pytest

from fedgloss.files import write_json, write_text
from fedgloss.study import costs
from fedgloss.study.messages import Messages, Planned, outdated
from fedgloss.study.study import check_study, load_study
from studies import ROOT

CELL = "digits/alpha-0/smallcnn/{}/seed-{}"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(costs, "has_gpu", lambda: False)


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have passed, to be set."""
    passed = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: passed[0])
    return passed


def study(*algorithms, alphas=("0",), seeds=(0, 1), **more):
    block = {"dataset": "digits", "alphas": [*alphas], "model": "smallcnn"}
    grid = [{**block, "algorithms": [*algorithms]}]
    return check_study({"study": "s", "seeds": [*seeds], "grid": grid, **more}, "s.yaml")


def train(*cells):
    return Planned(
        "train",
        {"study": "s", "seed": cells[0][-1]},
        [f"results/runs/s/{cell}/{name}" for cell in cells for name in ("metrics.csv", "x.json")],
    )


def trained(cell, accuracy=81.536, seconds=1.74, together=1, status="completed"):
    """What a cell's training leaves for its line."""
    record = {"status": status, "accuracy": accuracy, "wall_seconds": seconds}
    write_json(f"results/runs/s/{cell}/manifest.json", {**record, "cells_together": together})


def test_a_finished_cell_is_method_alpha_seed_accuracy_seconds_and_count():
    cells = [CELL.format(method, 1) for method in ("fedavg", "fedgloss")]
    messages = Messages(
        study("fedavg", "fedgloss", seeds=[1]), {7: train(cells[0]), 9: train(cells[1])}
    )
    trained(cells[0])
    trained(cells[1], None, 12.0, status="diverged")
    (first,) = messages.finished(7)
    assert first.startswith("train      fedavg    alpha 0  seed 1   81.54 %     1.7 s  1 of 2  ")
    assert [*messages.finished(9)] == [
        "train      fedgloss  alpha 0  seed 1  diverged    12.0 s  2 of 2"
    ]


def test_the_columns_stay_in_line_from_the_first_cell_to_the_last():
    cells = [CELL.format("fedavg", seed) for seed in range(10)]
    for cell in cells:
        trained(cell)
    lines = [*Messages(study("fedavg", seeds=range(10)), {1: train(*cells)}).finished(1)]
    assert {line.index(" of 10") for line in lines} == {lines[0].index(" of 10")}
    assert "   1 of 10" in lines[0] and "  10 of 10" in lines[9]


def test_cells_trained_together_have_a_line_and_a_share_of_the_seconds_each():
    cells = [CELL.format("fedavg", seed) for seed in (0, 1)]
    for cell in cells:
        trained(cell, seconds=3.0, together=2)
    lines = [*Messages(study("fedavg"), {1: train(*cells)}).finished(1)]
    assert [line.split("%")[1].split("left")[0].split()[:5] for line in lines] == [
        ["1.5", "s", "1", "of", "2"],
        ["1.5", "s", "2", "of", "2"],
    ]


def test_a_job_of_several_cells_is_named_by_what_they_share():
    cells = [CELL.format(method, 0) for method in ("fedavg", "fedsam")]
    messages = Messages(study("fedavg", "fedsam"), {1: train(*cells)})
    assert [*messages.failed(1, [])] == ["failed: train alpha 0 seed 0: its log says nothing"]


def test_what_differs_in_the_study_is_named():
    two = study("fedavg", alphas=("0", "0.5"), seeds=[0])
    assert len({cell.alpha for cell in two.cells}) == 2
    trained(CELL.format("fedavg", 0))
    (line,) = Messages(two, {1: train(CELL.format("fedavg", 0))}).finished(1)
    assert "  fedavg  alpha 0    seed 0  " in line and "digits" not in line
    paper = load_study(ROOT / "config" / "paper.yaml")
    path = "cifar100/alpha-0.5/cnn/fedavg/seed-42"
    job = Planned("train", {"seed": "42"}, [f"results/runs/paper/{path}/metrics.csv"])
    (line,) = Messages(paper, {1: job}).failed(1, [])
    assert line == "failed: train cifar100 cnn fedavg alpha 0.5 seed 42: its log says nothing"


def test_other_jobs_are_named_by_what_they_make():
    spectra = [f"results/analysis/s/{CELL.format('fedavg', n)}/hessian.json" for n in (0, 1)]
    jobs = {
        1: Planned("prepare", {"data": "digits"}, ["results/data/digits/manifest.json"]),
        2: Planned("hessian", {"study": "s", "algorithm": "fedavg"}, spectra),
        3: Planned("table", {"study": "s", "table": "accuracy"}, ["results/tables/s/accuracy.csv"]),
        4: Planned("report", {"study": "s"}, ["results/report/s.html"]),
        5: Planned("all", {}, []),
    }
    messages = Messages(study("fedavg"), jobs)
    lines = [line for number in [*jobs, 99] for line in messages.finished(number)]
    assert lines == [
        "prepare    digits",
        "hessian    fedavg  alpha 0",
        "table      accuracy",
        "report     s",
    ]


def test_the_time_left_is_what_the_work_that_is_left_takes_at_the_pace_so_far(clock):
    cells = [CELL.format("fedavg", seed) for seed in range(4)]
    messages = Messages(study("fedavg", seeds=range(4)), dict(enumerate(map(train, cells))))
    said = []
    for number, cell in enumerate(cells):
        messages.started(number)
        clock[0] += 30
        trained(cell)
        (line,) = messages.finished(number)
        said.append(line.partition(" of 4")[2].strip())
    assert said == ["1:30 left", "1:00 left", "0:30 left", ""]


def test_running_jobs_count_half(clock):
    cells = [CELL.format("fedavg", seed) for seed in range(4)]
    messages = Messages(study("fedavg", seeds=range(4)), dict(enumerate(map(train, cells))))
    for number in (0, 1, 2):
        messages.started(number)
    clock[0] = 60
    trained(cells[0])
    (line,) = messages.finished(0)
    assert line.endswith("1 of 4  1:00 left")


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("", "its log says nothing"),
        ("a warning\nfedgloss: error: data/x: cannot be read\n", "data/x: cannot be read"),
        ("fedgloss: error: no\nsrun: error: exit 2\n", "no"),
        ("Traceback:\n  File\nZeroDivisionError: division\n\n", "ZeroDivisionError: division"),
        ("\x1b[2Jred\n", "\\x1b[2Jred"),
    ],
)
def test_a_failure_is_told_by_the_line_of_its_log_that_says_why(log, cause):
    write_text("job.log", log)
    messages = Messages(study("fedavg"), {1: train(CELL.format("fedavg", 0))})
    assert [*messages.failed(1, ["gone.log", "job.log"])] == [
        f"failed: train fedavg alpha 0 seed 0: {cause}"
    ]


def test_what_a_cluster_says_comes_first():
    messages = Messages(study("fedavg"), {1: train(CELL.format("fedavg", 0))})
    said = (
        "SLURM-job '12' failed, SLURM status is: 'TIMEOUT'. For further error details see the log"
    )
    write_text("job.log", "round 7 of 9\n")
    for logs, more in ((["job.log"], "; round 7 of 9"), ([], "")):
        (line,) = messages.failed(1, logs, said)
        assert line.endswith(f"seed 0: SLURM-job '12' failed, SLURM status is: 'TIMEOUT'{more}")


def test_a_manifest_that_cannot_be_read_breaks_no_run():
    write_text(f"results/runs/s/{CELL.format('fedavg', 0)}/manifest.json", "[]")
    (line,) = Messages(study("fedavg"), {1: train(CELL.format("fedavg", 0))}).finished(1)
    assert "its manifest cannot be read  1 of 1" in line


def test_a_dry_run_says_which_data_are_missing_and_how_long_it_takes():
    paper = load_study(ROOT / "config" / "paper.yaml")
    path = "cifar100/alpha-0.5/cnn/fedavg/seed-42"
    jobs = {
        1: Planned("prepare", {"data": "cifar100"}, ["results/data/cifar100/data.safetensors"]),
        2: Planned("train", {"seed": "42"}, [f"results/runs/paper/{path}/metrics.csv"]),
    }
    missing, group, total, here = Messages(paper, jobs).plan(dryrun=True)
    assert missing.startswith("data/cifar100: missing, must hold cifar-100-python")
    assert group.split()[:6] == ["cifar100", "cnn", "1", "cell", "to", "train"]
    assert total.startswith("paper: 1 cell to train: 2.0 GPU minutes")
    assert here.startswith("without a GPU")
    assert [*Messages(paper, jobs).plan(dryrun=False)][:2] == [total, here]


def test_the_start_counts_cells_however_many_a_job_serves():
    cells = [CELL.format("fedavg", seed) for seed in (0, 1)]
    spectra = [f"results/analysis/s/{cell}/hessian.json" for cell in cells]
    one = {1: train(*cells), 2: Planned("hessian", {}, spectra)}
    each = dict(enumerate([*map(train, cells), *(Planned("hessian", {}, [f]) for f in spectra)]))
    (first, *_), (again, *_) = (Messages(study("fedavg"), jobs).plan(False) for jobs in (one, each))
    assert first == again and first.startswith("s: 2 cells to train, 2 Hessians: ")


def test_the_start_leaves_out_what_checkpoints_spare():
    """Half of the rounds, which are the work that is left."""
    cell = CELL.format("fedavg", 0)

    def seconds():
        (job,) = Messages(half, {1: train(cell)}).costs[1]
        return job.need.seconds

    half = study("fedavg", training={"rounds": 60, "last": 10})
    whole = seconds()
    write_text(f"results/checkpoints/s/{cell}/round-0000030.safetensors", "")
    assert seconds() == pytest.approx(whole / 2)
    write_text("results/data/digits/manifest.json", "{")
    Messages(half, {1: train(cell)})  # what cannot be read breaks no run


def test_runs_put_there_by_hand_are_told_before_anything_runs():
    """Snakemake takes them for its own; what it is going to make again is nobody's concern."""
    two = study("fedavg")
    jobs = [train(str(cell)) for cell in two.cells]
    for cell in two.cells:
        trained(str(cell))
    (line,) = outdated(two, jobs)
    assert line.startswith(f"outdated, so left out of tables and figures: {two.cells[0]}: settings")
    assert "(and 1 more); delete its folder, or run the cell again with snakemake --force" in line
    assert [*outdated(two, [])] == []
    write_text(f"results/runs/s/{two.cells[0]}/manifest.json", "{")
    (line,) = outdated(two, jobs[:1])
    assert "not valid JSON" in line and line.count("--force") == 1


def test_a_run_without_cells_has_nothing_to_estimate():
    jobs = {1: Planned("table", {"table": "accuracy"}, ["results/tables/s/accuracy.csv"])}
    assert [*Messages(study("fedavg"), jobs).plan(dryrun=True)] == []
