"""The smoke study, built: what is there, and what an edit makes run again."""

import csv
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from fedgloss.models.cnn import smallcnn
from fedgloss.study.study import load_study
from fedgloss.tensors import save_tensors
from workflow.project import (
    CONSTANTS,
    ROOT,
    SMOKE,
    build,
    environment,
    files,
    planned,
    rules,
    snakemake,
)

pytestmark = pytest.mark.slow

RUN = "results/runs/smoke/digits/alpha-0/smallcnn"
COST = "communication_cost"  # a table's only number that is a method's, not a condition's


def test_everything_that_was_asked_for_is_there(built):
    study = load_study(built / "config" / "smoke.yaml")
    wanted = ["report/smoke.html", "data/digits/manifest.json"]
    wanted += [f"tables/smoke/accuracy.{kind}" for kind in ("csv", "md", "tex")]
    wanted += [f"figures/smoke/curves.{kind}" for kind in ("png", "pdf")]
    wanted += [f"partitions/digits/alpha-0/partition.{kind}" for kind in ("json", "png")]
    for cell in study.cells:
        models = [f"{name}.safetensors" for name in ("final", "average", "locals")]
        for name in ("metrics.csv", "manifest.json", *models):
            wanted.append(f"runs/smoke/{cell}/{name}")
        wanted.append(f"analysis/smoke/{cell}/hessian.json")
    for name in wanted:
        assert (built / "results" / name).stat().st_size > 0, name


def test_nothing_else_is_left(built):
    """No temporary files, no checkpoints, and nothing outside results and .snakemake.

    Empty folders may be left where trainers shared them: removing one that another trainer is about
    to write into would fail it.
    """
    results = built / "results"
    assert not [path for path in results.rglob("*") if ".tmp" in path.name or path.name[0] == "."]
    assert not [path for path in (results / "checkpoints").rglob("*") if path.is_file()]
    kinds = {"analysis", "benchmarks", "data", "figures", "jobs", "logs", "partitions", "report"}
    kinds |= {"runs", "studies", "tables"}
    assert {path.name for path in results.iterdir()} - {"checkpoints"} == kinds
    new = {path.name for path in built.iterdir()} - {path.name for path in ROOT.iterdir()}
    assert new <= {"log", ".snakemake", "logs"}


def test_every_job_left_a_log_and_a_benchmark(built):
    results = built / "results"
    logs = {path.removesuffix(".log") for path in files(results / "logs", "*.log")}
    measured = files(results / "benchmarks", "*.jsonl")
    assert {path.removesuffix(".jsonl") for path in measured} == logs
    for content in measured.values():
        assert json.loads(content.splitlines()[0])["s"] >= 0
    said = "".join(file.read_text() for file in (built / ".snakemake" / "log").iterdir())
    done = re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", said)
    assert len(logs) == len([rule for rule in done if rule != "all"])


def test_manifests_and_settings_agree_with_the_study(built, monkeypatch):
    monkeypatch.setattr("fedgloss.study.study.METHODS_FILE", built / CONSTANTS / "methods.yaml")
    study = load_study(built / "config" / "smoke.yaml")
    for cell in study.cells:
        manifest = json.loads((built / f"results/runs/smoke/{cell}/manifest.json").read_text())
        assert manifest["settings"] == study.settings(cell).to_json()
        assert manifest["status"] == "completed"


def test_the_tables_numbers_are_those_of_the_runs(built):
    """Each number in its row: of every seed, then their mean and sample standard deviation."""
    study = load_study(built / "config" / "smoke.yaml")
    text = (built / "results/tables/smoke/accuracy.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["metric"] != COST]
    expected = []
    for algorithm in ("fedavg", "fedgloss"):
        for metric, file in (
            ("accuracy", "runs/smoke/{}/manifest.json"),
            ("lambda1", "analysis/smoke/{}/hessian.json"),
        ):
            values = [
                json.loads((built / "results" / file.format(cell)).read_text())[metric]
                for cell in study.select(algorithm=algorithm)
            ]
            assert len(set(values)) == 2, "seeds that agree would hide a mistake"
            expected += [(algorithm, metric, "seed", value, 0) for value in values]
            mean, std = statistics.fmean(values), statistics.stdev(values)
            expected.append((algorithm, metric, "ours", mean, std))
    assert len(rows) == len(expected) == 12
    for row, (*where, mean, std) in zip(rows, expected, strict=True):
        assert [row["algorithm"], row["metric"], row["source"]] == where
        assert float(row["mean"]) == pytest.approx(mean, rel=1e-12)
        assert float(row["std"] or 0) == pytest.approx(std, rel=1e-9)


def test_a_second_run_does_nothing(finished):
    before = {p: p.stat().st_mtime_ns for p in (finished / "results").rglob("*")}
    assert "Nothing to be done" in build(finished, SMOKE)
    assert {p: p.stat().st_mtime_ns for p in (finished / "results").rglob("*")} == before


def test_a_moved_project_with_its_results_makes_nothing_again(finished):
    """`finished` lies elsewhere than where it was built."""
    assert planned(finished, SMOKE) == []


def test_results_copied_beside_a_fresh_clone_are_kept(built, fresh):
    """All sources are newer than the results, as after `git clone`."""
    for folder in ("results", ".snakemake"):
        shutil.copytree(built / folder, fresh / folder)
    for path in fresh.rglob("*"):
        if "results" not in path.parts and ".snakemake" not in path.parts:
            os.utime(path)
    assert planned(fresh, SMOKE) == []


def test_a_touched_file_makes_nothing_again(finished):
    for part in ("Snakefile", "workflow", "config", "profiles", "envs", "src"):
        for path in [finished / part, *(finished / part).rglob("*")]:
            os.utime(path)
    assert planned(finished, SMOKE) == []


def test_large_results_are_known_by_their_manifests_not_by_their_dates(finished):
    """Snakemake compares the contents of files up to a size; prepared CIFAR-10 is far above it."""
    for path in (finished / "results").rglob("*.safetensors"):
        os.utime(path)
    assert planned(finished, SMOKE, "--max-checksum-file-size=10") == []


def edit(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def trained(jobs):
    """The cells that are trained, fedavg/0; of a job for all seeds, the method alone."""
    return [
        re.sub(r"^smoke/digits/(alpha-)?0/smallcnn/", "", values)
        for rule, values in jobs
        if rule.startswith("train")
    ]


def status(project):
    command = ["fedgloss", "status", "config/smoke.yaml"]
    shown = subprocess.run(
        command, cwd=project, env=environment(project), capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


DOWNSTREAM = {"table": 1, "figure": 1, "report": 1}


def test_another_rho_trains_that_methods_cells_and_what_follows(finished):
    file = finished / "config" / "smoke.yaml"
    edit(file, "T_s: 3", "T_s: 3, rho: 0.123")
    assert "2 done ✓, 0 diverged ✗, 2 outdated ≠" in status(finished)
    jobs = planned(finished, SMOKE)
    assert trained(jobs) == ["fedgloss"]
    assert rules(jobs) == {"train_seeds": 1, "hessian_seeds": 1, **DOWNSTREAM}
    assert [values for rule, values in jobs if rule == "hessian_seeds"] == [
        "smoke/digits/alpha-0/smallcnn/fedgloss"
    ]


def test_another_constant_in_methods_yaml_trains_that_methods_cells(finished):
    file = finished / CONSTANTS / "methods.yaml"
    text = file.read_text(encoding="utf-8")
    place = text.index("fedgloss:\n", text.index("digits/smallcnn:"))
    place = text.index("rho_l: {value: ", place) + len("rho_l: {value: ")
    file.write_text(f"{text[:place]}9{text[place:]}", encoding="utf-8")
    jobs = planned(finished, SMOKE)
    assert trained(jobs) == ["fedgloss"]


def test_other_weights_train_the_cells_that_start_from_them(finished):
    """A content, not a date: touching the file makes nothing again. Sharpness needs no weights."""
    file, weights = finished / "config" / "smoke.yaml", finished / "data" / "warm.safetensors"
    edit(file, "\ngrid:", f"\nmodels:\n  warm: {{model: smallcnn, weights: {weights}}}\n\ngrid:")
    block = '  - {dataset: digits, alphas: ["0"], model: warm, algorithms: [fedavg]}\n'
    edit(file, "\ntables:", f"{block}\ntables:")
    weights.parent.mkdir()

    def write(number):
        shapes = smallcnn((1, 8, 8), 10).state_dict()
        save_tensors(weights, {name: t.fill_(number) for name, t in shapes.items()})

    write(0.01)
    train = ("train_seeds", "smoke/digits/alpha-0/warm/fedavg")
    jobs = planned(finished, SMOKE)
    assert [job for job in jobs if job[0].startswith("train")] == [train]
    target = "results/runs/smoke/digits/alpha-0/warm/fedavg/seed-0/metrics.csv"
    build(finished, target, SMOKE)
    inputs = json.loads((finished / target).with_name("manifest.json").read_text())["inputs"]
    assert inputs["weights"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    os.utime(weights)
    assert planned(finished, target, SMOKE) == []
    write(0.02)
    assert planned(finished, target, SMOKE) == [("train", "smoke/digits/0/warm/fedavg/0")]
    weights.unlink()
    shown = snakemake(finished, SMOKE)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert f"models.warm.weights: '{weights}' cannot be read" in shown.stderr


CELL_FILE = "results/runs/smoke/digits/alpha-0/smallcnn/fedavg/seed-0/metrics.csv"
UNUSED = [
    "algorithms/scaffold.py",
    "models/torchvision_models.py",
    "data/sources/cifar.py",
    "cli.py",
]
UNUSED += [f"study/{name}.py" for name in ("study", "status", "inputs", "invocation")]
EDITS = {
    "a method": (
        ["algorithms/fedgloss.py"],
        {"train_seeds": 1, "hessian_seeds": 1, **DOWNSTREAM},
    ),
    "the engine": (["engine/rounds.py"], {"train_seeds": 2, "hessian_seeds": 2, **DOWNSTREAM}),
    "the Hessian": (["sharpness/eigenvalues.py"], {"hessian": 4, "table": 1, "report": 1}),
    "curves": (["report/curves.py"], {"figure": 1, "report": 1}),
    "what the study does not use": (UNUSED, {}),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_of_the_code_makes_again_what_depends_on_it(what, finished):
    edited, expected = EDITS[what]
    for file in edited:
        with open(finished / "src" / "fedgloss" / file, "a", encoding="utf-8") as source:
            source.write("\n\n_EDITED = 1\n")
    assert rules(planned(finished, SMOKE)) == expected


def test_comments_and_documents_make_nothing_again(finished):
    for path in (finished / "src").rglob("*.py"):
        with open(path, "a", encoding="utf-8") as source:
            source.write("\n# A comment.\n")
    (finished / "README.md").write_text("Other words.")
    edit(finished / "config" / "smoke.yaml", "# ", "# More words. ")
    edit(finished / "Snakefile", "snakemake --cores all ", "snakemake --cores  all ")
    assert planned(finished, SMOKE) == []


def test_data_from_a_clock_that_is_ahead_cost_no_run(finished):
    """Snakemake deletes what is older than its inputs as soon as it is made."""
    inputs = [finished / "results/partitions/digits/alpha-0/partition.json"]
    inputs += [*(finished / "results/data/digits").iterdir()]
    shutil.rmtree(finished / RUN / "fedavg")
    ahead = time.time() + 3600
    for file in inputs:
        os.utime(file, (ahead, ahead))
    build(finished, SMOKE)
    assert planned(finished, SMOKE) == []


def test_a_damaged_partition_costs_no_run(finished):
    partition = finished / "results/partitions/digits/alpha-0/partition.json"
    whole, before = partition.read_bytes(), files(finished / RUN, "*")
    partition.write_bytes(whole[:500])
    shown = snakemake(finished, SMOKE)
    line = "partition.json: not valid JSON"
    again = f"{SMOKE} --force -- results/partitions/digits/alpha-0/partition.json"
    assert shown.returncode == 2 and line in shown.stderr and again in shown.stderr
    assert files(finished / RUN, "*") == before
    build(finished, *again.split())
    assert partition.read_bytes() == whole and planned(finished, SMOKE) == []


def test_a_run_made_by_hand_hides_no_change_of_the_others(finished):
    """Snakemake knows nothing of its files, and sees no change of a job that makes such a file."""
    by_hand = files(finished / RUN / "fedavg/seed-0", "*")
    build(finished, "--cleanup-metadata", *(f"{RUN}/fedavg/seed-0/{f}" for f in by_hand), SMOKE)
    assert planned(finished, SMOKE) == []
    edit(finished / "config/smoke.yaml", "rounds: 6", "rounds: 7")
    said = build(finished, SMOKE)
    assert (
        "outdated, so left out of tables and figures: digits/alpha-0/smallcnn/fedavg/seed-0" in said
    )
    assert "(3 of 4 runs)" in (finished / "results/tables/smoke/accuracy.md").read_text()
    assert planned(finished, SMOKE) == []
    # Nor does the table keep an outdated number where no job makes a run anew.
    others = {*files(finished / RUN, "*")} - {f"fedavg/seed-0/{file}" for file in by_hand}
    build(finished, "--cleanup-metadata", *(f"{RUN}/{file}" for file in others), SMOKE)
    edit(finished / "config/smoke.yaml", "rounds: 7", "rounds: 8")
    build(finished, SMOKE)
    assert "(0 of 4 runs)" in (finished / "results/tables/smoke/accuracy.md").read_text()


def test_what_the_study_says_when_a_build_begins_is_what_its_jobs_are_told(finished):
    """An edit while they wait is for the next build."""
    (finished / "results/tables/smoke/accuracy.md").unlink()
    study = finished / "config/smoke.yaml"
    said = build(finished, SMOKE, "--dry-run", "--printshellcmds")
    [command] = [line for line in said.splitlines() if "fedgloss table " in line]
    assert "config/smoke.yaml" not in command and "results/jobs/study/smoke/" in command
    build(finished, SMOKE)
    [told] = (finished / "results/jobs/study/smoke").iterdir()
    assert json.loads(told.read_text())["config"] == yaml.safe_load(study.read_text())


def test_another_title_draws_one_table_again(finished):
    edit(finished / "config" / "smoke.yaml", "kind: methods", "kind: methods, title: Other")
    assert rules(planned(finished, SMOKE)) == {"report": 1, "table": 1}


def test_another_name_of_a_label_makes_again_what_shows_it(finished):
    """The page would refuse tables that say otherwise than it does."""
    edit(finished / "config" / "smoke.yaml", "fedgloss: {", "fedgloss: {name: Another name, ")
    assert rules(planned(finished, SMOKE)) == DOWNSTREAM
    build(finished, SMOKE)
    for file in ("tables/smoke/accuracy.md", "report/smoke.html"):
        assert "Another name" in (finished / "results" / file).read_text(encoding="utf-8")


def test_another_seed_trains_that_seed_alone(finished):
    edit(finished / "config" / "smoke.yaml", "seeds: [0, 1]", "seeds: [0, 1, 2]")
    jobs = planned(finished, SMOKE)
    assert trained(jobs) == ["fedavg/2", "fedgloss/2"]
    assert rules(jobs) == {"train": 2, "hessian": 2, **DOWNSTREAM}, "nor another's sharpness"


def test_a_seed_less_makes_tables_and_figures_alone(finished):
    edit(finished / "config" / "smoke.yaml", "seeds: [0, 1]", "seeds: [1]")
    assert rules(planned(finished, SMOKE)) == DOWNSTREAM


def test_job_files_say_what_ran_and_are_not_looked_at_again(finished):
    jobs = files(finished / "results" / "jobs", "*.json")
    assert {Path(name).parts[0] for name in jobs} == {"train", "hessian", "study"}
    assert len(jobs) == 4 + 4 + 1
    settings = [json.loads(text)["settings"] for name, text in jobs.items() if "train/" in name]
    study = load_study(finished / "config" / "smoke.yaml")
    assert settings == [study.settings(cell).to_json() for cell in sorted(study.cells)]
    shutil.rmtree(finished / "results" / "jobs")
    assert planned(finished, SMOKE) == []


def test_a_job_that_starts_replaces_its_cells_earlier_job_files(finished):
    """Those of cells that stay as they are may be another build's, of other settings."""
    name = "digits/alpha-0/smallcnn/fedgloss/seed-1"
    jobs = finished / "results" / "jobs"
    started = jobs / "hessian" / "smoke" / name / "01234567.json"
    others = [jobs / "train" / "smoke" / name / "01234567.json"]
    others += [started.parent.with_name("seed-0") / "01234567.json"]
    for file in (started, *others):
        file.write_text("{}")
    (finished / "results" / "analysis" / "smoke" / name / "hessian.json").unlink()
    build(finished, SMOKE, "--until", "hessian")
    assert not started.exists() and len([*started.parent.iterdir()]) == 1
    assert all(file.exists() for file in others)


def test_deleted_eigenvalues_are_computed_again(finished):
    cell = "digits/alpha-0/smallcnn/fedgloss/seed-1"
    (finished / "results" / "analysis" / "smoke" / cell / "hessian.json").unlink()
    jobs = planned(finished, SMOKE)
    assert rules(jobs) == {"hessian": 1, "table": 1, "report": 1}


def test_a_damaged_job_file_is_written_again(finished):
    """A full disk may have cut it off; its name says what should be in it."""
    for path in (finished / "results" / "jobs" / "train").rglob("*.json"):
        path.write_text("{")
    (finished / CELL_FILE).unlink()
    build(finished, SMOKE, "--", CELL_FILE)
    assert (finished / CELL_FILE).is_file()


def test_two_calls_with_other_settings_do_not_write_into_each_others_job_files(finished):
    """One has told its jobs; the other starts before these have read it, which takes --nolock."""
    before = files(finished / "results" / "jobs", "*.json")
    build(finished, "only_fedavg", SMOKE, "--nolock", "--config", "training={rounds: 3, last: 1}")
    after = files(finished / "results" / "jobs", "*.json")
    assert before.items() < after.items() and len(after) == len(before) + 2
    assert "Nothing to be done" not in build(finished, "only_fedavg", SMOKE)


def test_a_published_number_makes_the_tables_again(finished):
    edit(finished / CONSTANTS / "published.csv", "cifar10", "cifar10 ")
    assert rules(planned(finished, SMOKE)) == {"report": 1, "table": 1}


def test_deleted_metrics_train_one_cell_again_to_the_same_bytes(finished, built):
    (finished / RUN / "fedavg" / "seed-1" / "metrics.csv").unlink()
    assert trained(planned(finished, SMOKE)) == ["fedavg/1"]
    log = build(finished, f"{RUN}/fedavg/seed-1/metrics.csv", SMOKE)
    assert re.findall(r"^train +(\w+) .* seed (\d) .* 1 of 1$", log, flags=re.M) == [
        ("fedavg", "1")
    ]
    kinds = ("metrics.csv", "*.safetensors")
    for kind in kinds:
        assert files(finished / RUN, kind) == files(built / RUN, kind)


def test_a_deleted_table_or_run_is_missed(finished):
    (finished / "results/tables/smoke/accuracy.tex").unlink()
    assert rules(planned(finished, SMOKE)) == {"report": 1, "table": 1}
    shutil.rmtree(finished / RUN / "fedgloss")
    assert trained(planned(finished, SMOKE)) == ["fedgloss"]


def test_the_same_study_in_another_folder_gives_the_same_bytes(built, fresh, tmp_path):
    """From nothing, with --directory, in one process after another where it was two."""
    (tmp_path / "elsewhere").mkdir()
    build(
        fresh,
        "only_fedgloss",
        f"--snakefile={fresh}/Snakefile",
        f"--configfile={fresh}/config/smoke.yaml",
        "--directory=elsewhere",
        "--cores=1",
        cwd=tmp_path,
    )
    for kind in ("metrics.csv", "*.safetensors"):
        ours = files(tmp_path / "elsewhere" / RUN / "fedgloss", kind)
        assert ours == files(built / RUN / "fedgloss", kind) and ours
    for kind in ("data.safetensors", "partition.json", "partition.png"):
        ours = files(tmp_path / "elsewhere" / "results", kind)
        assert ours == files(built / "results", kind) and ours
    assert not (fresh / "results").exists()
