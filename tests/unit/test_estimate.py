"""What a study will cost, and what its jobs ask a cluster for."""

import os
import platform
import re
from pathlib import Path

import pytest
import yaml

from fedgloss.cli import main
from fedgloss.errors import InputError
from fedgloss.files import sha256, write_json, write_text
from fedgloss.sharpness.auto import AUTO
from fedgloss.study import costs, resources
from fedgloss.study.configuration import validate
from fedgloss.study.layout import RUN_FILES
from fedgloss.study.remaining import remaining
from fedgloss.study.resources import Need
from fedgloss.study.schema.resources import Resources
from fedgloss.study.study import check_study, load_study

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAPER = str(ROOT / "config" / "paper.yaml")
SMOKE = str(ROOT / "config" / "smoke.yaml")
TABLE = yaml.safe_load(
    (ROOT / "src/fedgloss/study/constants" / "resources.yaml").read_text(encoding="utf-8")
)
GRID = {"dataset": "digits", "alphas": ["0"], "model": "smallcnn"}


def study_of(*algorithms, **more):
    grid = [{**GRID, "algorithms": list(algorithms)}]
    return check_study({"study": "s", "seeds": [0, 1], "grid": grid, **more}, "s.yaml")


def seconds(study, cell):
    return resources.training(study, study.cell(cell)).seconds


def test_a_round_is_its_participants_epochs_of_one_or_two_gradients():
    study = study_of(
        "fedavg", "fedsam", "fedgloss", training={"rounds": 7, "last": 1, "clients_per_round": 3}
    )
    rows = TABLE["training"]["digits/smallcnn"]
    cell = "digits/alpha-0/smallcnn/{}/seed-0"
    assert seconds(study, cell.format("fedavg")) == pytest.approx(21 * rows["sgd"]["seconds"])
    for method in ("fedsam", "fedgloss"):
        assert seconds(study, cell.format(method)) == pytest.approx(21 * rows["sam"]["seconds"])


@pytest.mark.parametrize(
    ("changed", "times"),
    [
        ({"training": {"epochs": 3}}, 3),
        # Its extra exchange is for the rounds that are evaluated: 10, ..., 100, and the last 20.
        ({"training": {"record": ["delta_epsilon"]}}, 1 + 30 / 120),
        ({"algorithms": {"fedgloss": {"method": "naivefedgloss"}}}, 2),
    ],
)
def test_work_done_several_times_costs_as_many_times(changed, times):
    cell = "digits/alpha-0/smallcnn/fedgloss/seed-0"
    once = seconds(study_of("fedgloss"), cell)
    assert seconds(study_of("fedgloss", **changed), cell) == pytest.approx(times * once)


def test_cells_of_one_job_share_its_start_and_take_turns():
    row = TABLE["training"]["digits/smallcnn"]["sam"]
    study = study_of("fedgloss")
    one = resources.training(study, study.cells[0])
    forty = one.together(40)
    assert one.together(1) == one
    assert forty.seconds == pytest.approx(40 * one.seconds)
    assert forty.mem_mb == row["mem_mb"] + 39 * row["cell_mb"]


def test_a_centralized_epoch_is_that_of_all_clients():
    study = study_of("centralized-sgd", training={"rounds": 2, "last": 1})
    row = TABLE["training"]["digits/smallcnn"]["sgd"]
    assert seconds(study, "digits/alpha-0/smallcnn/centralized-sgd/seed-0") == pytest.approx(
        2 * 50 * row["seconds"]
    )


def test_each_attempt_asks_for_more_up_to_the_longest_limit():
    limits = TABLE["limits"]
    need = Need(600, 1, 1000, "measured")
    first = -(-(600 * limits["margin"]["measured"] + limits["start_seconds"]) // 60)
    assert [need.minutes(attempt) for attempt in (1, 2, 3)] == [first, 2 * first, 4 * first]
    assert [need.memory(attempt) for attempt in (1, 2, 3)] == [1000, 2000, 4000]
    assert need.minutes(20) == limits["longest_minutes"]
    assert Need(600, 1, 1000, "guessed").minutes(1) > first, "a guess has a wider margin"


def test_every_row_says_how_it_is_known():
    validate(TABLE, Resources, "resources.yaml")
    for basis, word in (("measured", "where"), ("guessed", "why")):
        row = {**TABLE["analysis"]["default"], "basis": basis}
        row.pop("where", None)
        row.pop("why", None)
        table = {**TABLE, "analysis": {"default": row}}
        with pytest.raises(InputError, match=rf"analysis\.default\.{word}: missing"):
            validate(table, Resources, "resources.yaml")


def test_every_condition_of_the_paper_has_a_row_of_its_own():
    study = load_study(PAPER)
    for cell in study.cells:
        key = f"{study.datasets[cell.dataset].source}/{cell.model}"
        assert key in TABLE["training"] and key in TABLE["analysis"]


def finish(study, cell, results, status="completed"):
    """What a cell's run leaves."""
    run = results / "runs" / study.name / str(cell)
    for name in RUN_FILES:
        write_text(run / name, "")
    manifest = {"status": status, "settings": study.settings(cell).to_json()}
    manifest["code"] = study.code(cell.algorithm, cell.model)
    manifest["outputs"] = {name: sha256(run / name) for name in RUN_FILES}
    write_json(run / "manifest.json", manifest)


SHARP = {
    "columns": [{"dataset": "digits", "alpha": "0", "model": "smallcnn"}],
    **{"kind": "methods", "rows": ["fedavg"], "show": ["lambda1"]},
}
MEASURED = {"status": "completed", "data": "paper", "model": "average", "lambda1": 5.0}
MEASURED |= {"lambda1_final_model": 4.0, "eigenvalues": [5.0, 4.0, 3.0, 2.0, 1.0]}


def test_finished_cells_cost_nothing_and_checkpoints_spare_their_rounds(tmp_path):
    study = study_of("fedavg", training={"rounds": 100})
    whole = resources.training(study, study.cells[0]).seconds
    first, second = study.cells
    assert [job.need.seconds for job in remaining(study, tmp_path)] == [whole, whole]
    finish(study, first, tmp_path, "diverged")
    checkpoints = tmp_path / "checkpoints" / "s" / str(second)
    for rounds in (20, 75):
        write_text(checkpoints / f"round-{rounds:07d}.safetensors", "")
    (left,) = remaining(study, tmp_path)
    assert left.need.seconds == pytest.approx(whole / 4)


def test_an_outdated_run_costs_what_it_costs_to_run_again_with_all_that_follows(tmp_path):
    study = study_of("fedavg", tables={"sharp": SHARP})
    for cell in study.cells:
        finish(study, cell, tmp_path)
        write_json(tmp_path / "analysis" / "s" / str(cell) / "hessian.json", MEASURED)
    assert not list(remaining(study, tmp_path))
    edited = study_of("fedavg", tables={"sharp": SHARP}, training={"lr": 0.2})
    assert [job.kind for job in remaining(edited, tmp_path)] == ["train", "train", "hessian"]


@pytest.mark.parametrize(
    ("asked", "jobs"),
    [
        ({"data": "paper", "count": 5, "models": ["average", "final"]}, []),
        ({"data": "official_code"}, ["hessian"]),
        ({"count": 4}, ["hessian"]),
        ({"models": ["average"]}, ["hessian"]),
        ({"data": ["paper", "official_code"]}, ["hessian"]),
        ({"trace": {}}, ["hessian"]),
        ({"models": ["final", "average"]}, ["hessian"]),
    ],
)
def test_eigenvalues_that_the_study_no_longer_asks_for_are_made_again(asked, jobs, tmp_path):
    study = study_of("fedavg", tables={"sharp": SHARP}, hessian=asked)
    for cell in study.cells:
        finish(study, cell, tmp_path)
        write_json(tmp_path / "analysis" / "s" / str(cell) / "hessian.json", MEASURED)
    assert [job.kind for job in remaining(study, tmp_path)] == jobs


def test_what_was_measured_on_an_earlier_run_of_a_cell_is_measured_again(tmp_path):
    study = study_of("fedavg", tables={"sharp": SHARP})
    for cell in study.cells:
        finish(study, cell, tmp_path)
        run = tmp_path / "runs" / "s" / str(cell)
        hashes = [sha256(run / "average.safetensors")] if cell == study.cells[0] else ["0" * 64]
        file = tmp_path / "analysis" / "s" / str(cell) / "hessian.json"
        write_json(file, {**MEASURED, "sha256": hashes})
    assert [(job.kind, job.cells) for job in remaining(study, tmp_path)] == [("hessian", 1)]


def test_a_diverged_run_has_no_eigenvalues_to_count(tmp_path):
    study = study_of("fedavg", tables={"sharp": SHARP})
    none = {"status": "diverged", "data": "paper", "model": "average", "lambda1": None}
    for cell in study.cells:
        finish(study, cell, tmp_path, "diverged")
        file = tmp_path / "analysis" / "s" / str(cell) / "hessian.json"
        write_json(file, {**none, "eigenvalues": [], "residuals": []})
    assert not list(remaining(study, tmp_path))


def test_a_table_and_a_figure_of_one_name_are_two(tmp_path):
    curves = {"kind": "curves", "metric": "accuracy", "rows": ["fedgloss"]}
    study = study_of("fedavg", "fedgloss", tables={"one": SHARP}, figures={"one": curves})

    def left(target):
        jobs = remaining(study, tmp_path, target)
        return [*dict.fromkeys((job.kind, job.cell.algorithm) for job in jobs)]

    table, figure = [("train", "fedavg"), ("hessian", "fedavg")], [("train", "fedgloss")]
    assert left("table_one") == table and left("figure_one") == figure
    assert {*left("one")} == {*left("")} == {*table, *figure}


def test_targets_choose_cells_and_what_is_made_of_them(tmp_path):
    study = load_study(PAPER)

    def kinds(target):
        jobs = list(remaining(study, tmp_path, target))
        return {
            kind: sum(job.kind == kind for job in jobs)
            for kind in ("train", "hessian", "landscape", "line")
        }

    views = [seen for figure in study.figures.values() for seen in study.views(figure)]
    surfaces = {seen for seen in views if seen[1].kind == "landscape"}
    lines = {"landscape": len(surfaces), "line": len({*views} - surfaces)}
    assert kinds("") == {"train": len(study.cells), "hessian": 48, **lines}
    nothing = dict.fromkeys(("train", "hessian", "landscape", "line"), 0)
    two = {**nothing, "train": 2, "landscape": 2}
    assert kinds("fig6a") == kinds("figure_fig6a") == two
    # Two panels: FedGloSS's local models on their own data and on all, FedSAM's on all.
    assert kinds("fig4ab") == {**nothing, "train": 2, "landscape": 6}
    assert kinds("lines-seeds") == {**nothing, "train": 16, "line": 8}
    assert kinds("table_table7") == {**nothing, "train": 24, "hessian": 8}
    # The paper's Table 7 is three of ours: centralized training, and what is communicated.
    assert kinds("table7") == {**nothing, "train": 42, "hessian": 8}
    assert kinds("figure6") == {**nothing, "train": 9, "landscape": 9}
    assert kinds("paper")["line"] == 0 < kinds("paper")["hessian"]
    with pytest.raises(InputError, match=r"'tabel7' is no table.*did you mean 'table7'"):
        kinds("tabel7")


def shown(capsys, *arguments):
    assert main(["estimate", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_command_groups_by_table_model_and_device_and_adds_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(costs, "has_gpu", lambda: True)
    *lines, blank, total, guesses, _ = shown(capsys, PAPER, "--results", tmp_path)
    parts = [line.split()[0] for line in lines]
    study = load_study(PAPER)
    assert parts[0] == "table1" and {*parts} < {*study.tables, *study.figures}
    assert blank == "" and ["table4", "resnet18", "66", "cells"] in [s.split()[:4] for s in lines]
    assert all(line.endswith("GPU h") for line in lines)
    hours = sum(float(line.split()[-3]) for line in lines)
    counts = "459 cells to train, 144 Hessians, 66 sets of local models, 33 loss surfaces"
    counts += ", 22 lines between models"
    assert f"paper: {counts}: {hours:.0f} GPU hours, 86% of it guessed" in total
    assert "guessed" in guesses and "resources.yaml" in guesses


def test_it_is_said_where_a_table_needs_jobs_that_are_listed_under_another(tmp_path, capsys):
    def lines(file, *target):
        return shown(capsys, file, *target, "--results", tmp_path)

    *_, said = lines(PAPER)
    command = f"fedgloss estimate {PAPER} table3"
    assert said.endswith(
        f"under the first table or figure that needs it; all that table3 needs: {command})"
    )
    for shown_whole in (lines(PAPER, "table3"), lines(PAPER, "cifar10/alpha-0"), lines(SMOKE)):
        assert "listed once" not in "".join(shown_whole)


def test_details_are_a_line_for_each_condition_with_its_limit(tmp_path, capsys):
    *lines, _, _, _, _ = shown(capsys, PAPER, "fig6a", "--details", "--results", tmp_path)
    assert len(lines) == 4
    assert all("GPU h  limit" in line for line in lines)
    how = [(line.split()[1], line.split()[-1]) for line in lines]
    assert how == [("train", "measured")] * 2 + [("landscape", "measured")] * 2


@pytest.mark.parametrize(("cores", "text"), [(2, "9.2 h"), (4, "6.0 h")])
def test_a_machine_without_a_gpu_is_told_how_long_it_takes_itself(
    cores, text, tmp_path, capsys, monkeypatch
):
    """Three cells of 10,000 rounds of 5, and the spectra of six global and fifteen local models."""
    monkeypatch.setattr(costs, "has_gpu", lambda: False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(cores))
    cells = 3 * 10_000 * 5 * TABLE["training"]["cifar10/cnn"]["sgd"]["cpu"]["seconds"]
    row = TABLE["analysis"]["cifar10/cnn"]
    models = 3 * (1 + 0.6) + 15 * 0.6  # of five eigenvalues, or of one
    spectra = models * row["cpu"]["hessian"] * AUTO / row["images"]  # a part of the images, here
    assert (cells + spectra) / 3600 == pytest.approx(18.415, rel=1e-3)
    line, _, on_gpu, here, _ = shown(
        capsys, PAPER, "cifar10/alpha-0/cnn/scaffold", "--results", tmp_path
    )
    assert line.endswith("GPU h  or 18 CPU h") and ": 0.1 GPU hours" in on_gpu
    assert here == f"without a GPU, as here, on {cores} cores: about {text}, 3% of it guessed"


def test_spectra_cost_as_many_images_models_and_products_as_are_asked_for():
    grid = [{"dataset": "cifar10", "alphas": ["0"], "model": "cnn", "algorithms": ["fedavg"]}]

    def seconds(kind="hessian", on_cpu=False, **asked):
        content = {"study": "s", "seeds": [0], "grid": grid, "hessian": {"count": 1, **asked}}
        study = check_study(content, "s.yaml")
        return getattr(resources, kind)(study, study.cells[0], on_cpu).seconds

    row, one = TABLE["analysis"]["cifar10/cnn"], {"models": ["average"]}
    # The row is of 20 products: one eigenvalue takes 12, each further one 2, a trace what is asked.
    single = 12 / 20 * row["hessian"]
    assert seconds(**one) == seconds(images="all", **one) == pytest.approx(single)
    assert seconds(**one, count=5) == pytest.approx(row["hessian"])
    assert seconds(count=5) == pytest.approx(row["hessian"] + single)
    assert seconds(images=5000, **one) == pytest.approx(single / 10)
    assert seconds(images=10**6, **one) == pytest.approx(single)
    cpu = 12 / 20 * row["cpu"]["hessian"]
    assert seconds(on_cpu=True, **one) == pytest.approx(cpu * AUTO / 50_000)
    assert seconds(trace={"products": 90}, **one) == pytest.approx(102 / 20 * row["hessian"])
    assert seconds("locals") == pytest.approx(5 * single)


@pytest.mark.parametrize("label", ["fedavg", "fedsam"])
def test_operands_of_half_the_size_take_their_share_of_the_time_on_a_gpu(label):
    grid = [{"dataset": "cifar10", "alphas": ["0"], "model": "cnn", "algorithms": [label]}]

    def needs(precision):
        content = {"study": "s", "seeds": [0], "grid": grid, "precision": precision}
        study = check_study(content, "s.yaml")
        return [resources.training(study, study.cells[0], on_cpu=cpu).seconds for cpu in (0, 1)]

    half = TABLE["training"]["cifar10/cnn"]["sgd"]["half"]
    gpu, cpu = needs("tf32")
    assert needs("float16") == needs("bfloat16") == pytest.approx([half * gpu, cpu])


def test_details_of_small_cells_are_in_seconds(tmp_path, capsys):
    smoke = ROOT / "config" / "smoke.yaml"
    first, *_ = shown(capsys, smoke, "--details", "--results", tmp_path)
    assert " 2 x 0.1 s " in first and "0:00:00" not in first


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.1 s"), (4.26, "4.3 s"), (60, "0:01:00"), (3723, "1:02:03")]
)
def test_a_short_time_has_its_seconds(seconds, text):
    assert costs._duration(seconds) == text


def test_where_nothing_is_left_nothing_is_counted(tmp_path, capsys):
    study = study_of("fedavg")
    assert costs.total(study, []) == ["s: nothing left to run"]


def test_a_seed_that_is_added_costs_its_own_eigenvalues_only(tmp_path):
    study = study_of("fedavg", tables={"sharp": SHARP}, seeds=[0, 1, 2, 3])
    for cell in study.cells[:3]:
        finish(study, cell, tmp_path)
        write_json(tmp_path / "analysis" / "s" / str(cell) / "hessian.json", MEASURED)
    train, hessian = remaining(study, tmp_path)
    assert train.cell == hessian.cell == study.cells[3] and hessian.cells == 1
    assert hessian.need.seconds == resources.hessian(study, hessian.cell).seconds / 4


def test_what_is_measured_is_not_called_a_guess(tmp_path, capsys):
    *_, total, here = shown(capsys, SMOKE, "--results", tmp_path)
    assert (
        "smoke: 4 cells to train, 4 Hessians: 0.1 CPU minutes" in total
        and "guessed" not in total + here
    )
    assert here.startswith("here, on ")


def test_status_says_how_far_running_cells_are_and_what_is_left(tmp_path, capsys):
    cell = load_study(SMOKE).cells[0]
    write_text(tmp_path / f"checkpoints/smoke/{cell}.owner", f"{os.getpid()} on {platform.node()}")
    log = tmp_path / f"logs/train/smoke/{cell}.log"
    write_text(log, "a warning: round off\ndigits: round 2 of 6  accuracy 31.50 %  0:04 left\n")
    assert main(["status", SMOKE, "--results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f"running: {cell}: round 2 of 6  accuracy 31.50 %  0:04 left\n" in text
    assert "1 running …" in text and "4 cells to train, 4 Hessians" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (569, "9.5 min"),
        (570, "10 min"),
        (5400, "1.5 h"),
        (172_800, "2 days"),
        (1e8, "3.2 years"),
    ],
)
def test_times_are_said_in_their_own_unit(seconds, text):
    assert costs.spoken(seconds) == text


def test_an_unknown_target_is_refused_in_one_line(capsys):
    assert main(["estimate", PAPER, "nothing"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and PAPER in said and "'nothing'" in said


def test_the_quickstart_took_what_is_estimated_give_or_take_30_percent():
    """As the README has it, measured on two cores that nobody else used."""
    (row,) = re.findall(r"the quickstart, two quiet CPU cores \| (.*) \|", README)
    study = load_study(ROOT / "config" / "quickstart.yaml")
    foreseen = costs.here(study, [*remaining(study, Path("/nowhere"))], 2)
    taken = [int(seconds) for seconds in re.findall(r"(\d+) s\b", row)]
    assert len(taken) == 2 and all(abs(t - foreseen) < 0.3 * foreseen for t in taken)


def test_what_surrounds_small_jobs_is_counted_and_the_error_is_stated(monkeypatch):
    """Each job starts a Python; seeds of small cells share one; Snakemake itself has to start."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(1))
    study = study_of("fedavg", tables={"sharp": SHARP}, training={"rounds": 1, "last": 1})
    jobs = [*remaining(study, Path("/nowhere"))]
    work = sum(job.on_cpu.seconds for job in jobs)
    assert [job.kind for job in jobs] == ["train", "train", "hessian"]
    # One job trains both seeds, one measures, one makes the table; nothing runs beside the data,
    # their cut, and the report.
    expected = costs.WORKFLOW + 3 * costs.LIGHT + work + 2 * costs.START + costs.LIGHT
    assert costs.here(study, jobs, 1) == pytest.approx(expected)
    longest = max(job.on_cpu.seconds for job in jobs) + costs.START
    many = costs.WORKFLOW + 3 * costs.LIGHT + longest
    assert costs.here(study, jobs, 99) == pytest.approx(many), "not shorter than its longest job"
    *_, here = costs.total(study, jobs)
    assert here == f"here, on 1 core: about {costs.spoken(expected)}, give or take 30 %"
