"""Studies that share a results folder, and finished cells of another checkout."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from workflow.project import (
    CONSTANTS,
    SMOKE,
    build,
    environment,
    files,
    planned,
    rules,
    snakemake,
)

pytestmark = pytest.mark.slow

PARTITION = "results/partitions/digits/alpha-0/partition.json"
CELLS = "results/runs/smoke/digits/alpha-0/smallcnn"


def edit(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_another_split_file_cuts_again_and_a_touched_one_does_not(finished):
    """The content of an imported split counts."""
    split = finished / "split.json"
    clients = [[k] for k in range(50)]
    split.write_text(json.dumps({"clients": clients}))
    edit(
        finished / CONSTANTS / "methods.yaml",
        "partition: {scheme: dirichlet, clients: 50, seed: 0}",
        "partition: {scheme: file, file: split.json}",
    )
    build(finished, PARTITION, SMOKE)
    os.utime(split)
    assert planned(finished, PARTITION, SMOKE) == []
    split.write_text(json.dumps({"clients": [[99], *clients[1:]]}))
    assert planned(finished, PARTITION, SMOKE) == [("partition", "digits/0")]


# Studies that share a results folder


OTHER = """\
study: other
seeds: [0, 1]
training: {rounds: 2, last: 2, clients_per_round: 2}
datasets:
  digits: {source: digits, partition: {scheme: file, file: mine/split.json}}
grid:
  - {dataset: digits, alphas: ["natural"], model: smallcnn, algorithms: [fedavg]}
tables:
  accuracy:
    kind: methods
    columns: [{dataset: digits, alpha: "natural", model: smallcnn}]
    rows: [fedavg]
"""


def test_a_study_with_a_split_of_its_own_takes_nothing_from_another(finished):
    """It is built outside config/, of one seed by the command line; the smoke study stays done."""
    (finished / "mine").mkdir()
    (finished / "mine" / "other.yaml").write_text(OTHER)
    split = {"clients": [[*range(14 * k, 14 * k + 14)] for k in range(50)]}
    (finished / "mine" / "split.json").write_text(json.dumps(split))
    before = files(finished / "results" / "partitions", "*"), files(finished / "results/data", "*")

    one_seed = ["table_accuracy", "--configfile=mine/other.yaml", "--config", "seeds=[0]"]
    jobs = rules(planned(finished, *one_seed))
    assert jobs == {"partition": 1, "table": 1, "train": 1}, "the data are shared"
    build(finished, *one_seed)
    assert planned(finished, *one_seed) == []

    assert planned(finished, SMOKE) == []
    after = files(finished / "results" / "partitions", "*"), files(finished / "results/data", "*")
    assert before[1] == after[1] and before[0].items() < after[0].items()
    assert {name.split("/")[0] for name in after[0]} - {"digits"} == {
        load_study_folder(finished, "mine/other.yaml")
    }
    table = (finished / "results/tables/other/accuracy.md").read_text(encoding="utf-8")
    again = "snakemake --cores 1 --configfile=mine/other.yaml --config 'seeds=[0]' --force results/"
    assert f"One cell again: `{again}" in table

    (finished / "mine" / "second.yaml").write_text(OTHER.replace("rounds: 2", "rounds: 3"))
    shown = snakemake(finished, "--configfile=mine/second.yaml")
    assert shown.returncode == 2
    assert "mine/second.yaml: study: 'other' is the name of the study in mine/other.yaml" in (
        shown.stderr
    )


def load_study_folder(project, file):
    """The folder of a study's partition of the digits."""
    command = [
        sys.executable,
        "-c",
        "import sys; from fedgloss.study.study import load_study;"
        "print(load_study(sys.argv[1]).partition_folder('digits', 'natural'))",
        file,
    ]
    shown = subprocess.run(
        command, cwd=project, env=environment(project), capture_output=True, text=True, check=True
    )
    return shown.stdout.strip()


# Import of finished cells


def imported(project, results):
    command = ["fedgloss", "import", str(results), "config/smoke.yaml"]
    shown = subprocess.run(
        command, cwd=project, env=environment(project), capture_output=True, text=True
    )
    nothing = "0 imported, 0 here already" in shown.stderr
    assert shown.returncode == (2 if nothing else 0), shown.stderr
    return shown.stdout.split(), shown.stderr


def trained(project):
    return [
        values.removeprefix("smoke/digits/0/smallcnn/")
        for rule, values in planned(project, SMOKE)
        if rule.startswith("train")
    ]


def test_imported_cells_need_no_training_until_something_changes(built, fresh, tmp_path):
    theirs = tmp_path / "theirs"
    shutil.copytree(built / "results", theirs)
    harmed = theirs / CELLS.removeprefix("results/") / "fedavg" / "seed-1" / "metrics.csv"
    harmed.write_text("harmed")
    targets, said = imported(fresh, theirs)
    assert targets == [] and said.count("is not here yet") == 4, "inputs come first"
    build(fresh, PARTITION, SMOKE)
    targets, said = imported(fresh, theirs)
    whole = ["fedavg/seed-0", "fedgloss/seed-0", "fedgloss/seed-1"]
    assert targets == [f"{CELLS}/{cell}/metrics.csv" for cell in whole]
    assert "fedavg/seed-1: metrics.csv is not the file" in said
    assert trained(fresh) == ["fedavg/1"]

    # Snakemake has no record of how they came to be: it says so, and misses another rho.
    assert "missing provenance" in build(fresh, "--dry-run", "only_fedgloss", SMOKE)
    build(fresh, "--touch", "--force", *targets, SMOKE)
    assert "missing provenance" not in build(fresh, "--dry-run", "only_fedgloss", SMOKE)
    assert trained(fresh) == ["fedavg/1"]
    for cell in whole:
        assert files(fresh / CELLS / cell, "*") == files(built / CELLS / cell, "*")
    edit(fresh / "config" / "smoke.yaml", "T_s: 3", "T_s: 3, rho: 0.123")
    assert trained(fresh) == ["fedavg/1", "smoke/digits/alpha-0/smallcnn/fedgloss"]
    targets, said = imported(fresh, theirs)
    assert targets == [] and said.count("rho is 0.05 in the run, 0.123 here") == 2


def test_cells_imported_without_models_are_trained_only_where_something_needs_a_model(
    built, fresh, tmp_path
):
    archive = tmp_path / "smoke.zip"
    command = ["fedgloss", "collect", "config/smoke.yaml", "--out", str(archive)]
    subprocess.run(command, cwd=built, env=environment(built), check=True, capture_output=True)
    imported(fresh, archive)
    assert rules(planned(fresh, SMOKE)) == {"figure": 1, "report": 1, "table": 1}
    build(fresh, SMOKE)
    assert planned(fresh, SMOKE) == [], "nor are the models missed afterwards"
    (fresh / "results/analysis/smoke/digits/alpha-0/smallcnn/fedavg/seed-1/hessian.json").unlink()
    assert "fedavg/1" in trained(fresh)


def test_a_study_that_grows_after_an_import_trains_what_is_new_alone(built, fresh, tmp_path):
    """Its images must be made before: in one build Snakemake would take them for changed."""
    archive, smoke = tmp_path / "smoke.zip", fresh / "config" / "smoke.yaml"
    command = ["fedgloss", "collect", "config/smoke.yaml", "--out", str(archive)]
    subprocess.run(command, cwd=built, env=environment(built), check=True, capture_output=True)
    edit(smoke, "seeds: [0, 1]", "seeds: [0, 1, 2]")
    imported(fresh, archive)
    line = (
        "results/data/digits/data.safetensors: not there, and this build would train 4 finished"
        " cells again; before it: snakemake --configfile=config/smoke.yaml --"
        " results/data/digits/data.safetensors"
    )
    assert f"\n{line}\n" in build(fresh, "--dry-run", SMOKE)
    shown = snakemake(fresh, SMOKE)
    assert shown.returncode == 2 and f"fedgloss: error: {line}" in shown.stderr
    assert not (fresh / "results/data/digits/data.safetensors").exists()
    asked_for = ["--force", f"{CELLS}/fedavg/seed-0/metrics.csv", SMOKE]
    assert line not in build(fresh, "--dry-run", *asked_for), "one that is asked for is trained"

    build(fresh, "results/data/digits/data.safetensors", SMOKE)
    assert trained(fresh) == ["fedavg/2", "fedgloss/2"]
    build(fresh, f"{CELLS}/fedavg/seed-2/metrics.csv", SMOKE)
    assert trained(fresh) == ["fedgloss/2"]


def test_a_run_that_came_in_anothers_place_is_not_trained_again(built, fresh, tmp_path):
    """What Snakemake has noted is of the run that was there before."""
    archive, smoke = tmp_path / "smoke.zip", fresh / "config" / "smoke.yaml"
    command = ["fedgloss", "collect", "config/smoke.yaml", "--out", str(archive)]
    subprocess.run(command, cwd=built, env=environment(built), check=True, capture_output=True)
    edit(smoke, "T_s: 3", "T_s: 3, rho: 0.123")
    build(fresh, f"{CELLS}/fedgloss/seed-0/metrics.csv", SMOKE)
    edit(smoke, "T_s: 3, rho: 0.123", "T_s: 3")
    assert "smoke/digits/alpha-0/smallcnn/fedgloss" in trained(fresh)
    assert "replaced: digits/alpha-0/smallcnn/fedgloss/seed-0" in imported(fresh, archive)[1]
    assert trained(fresh) == []


def test_partitions_that_are_made_again_keep_the_runs(built, fresh):
    """In another build: in the same one Snakemake would take them for changed."""
    shutil.copytree(built / "results", fresh / "results")
    shutil.copytree(built / ".snakemake", fresh / ".snakemake")
    shutil.rmtree(fresh / "results" / "partitions")
    edit(fresh / "config" / "smoke.yaml", "seeds: [0, 1]", "seeds: [0, 1, 2]")
    shown = snakemake(fresh, SMOKE)
    line = f"{PARTITION}: not there, and this build would train 4 finished cells again; before it:"
    assert shown.returncode == 2 and line in shown.stderr
    build(fresh, PARTITION, SMOKE)
    assert trained(fresh) == ["fedavg/2", "fedgloss/2"]


def test_runs_of_code_that_the_study_accepts_stay(built, fresh):
    shutil.copytree(built / "results", fresh / "results")
    shutil.copytree(built / ".snakemake", fresh / ".snakemake")
    assert trained(fresh) == []
    with open(fresh / "src/fedgloss/engine/rounds.py", "a", encoding="utf-8") as source:
        source.write("\n\n_EDITED = 1\n")
    assert len(trained(fresh)) == 2, "all seeds of each method"
    manifests = [json.loads(m) for m in files(fresh / CELLS, "manifest.json").values()]
    accepted = "".join(f"  {m['code']}: a constant more\n" for m in manifests[::2])
    edit(fresh / "config" / "smoke.yaml", "seeds: [0, 1]", f"same_code:\n{accepted}seeds: [0, 1]")
    assert trained(fresh) == []
    edit(fresh / "config" / "smoke.yaml", "T_s: 3", "T_s: 3, rho: 0.123")
    assert trained(fresh) == ["smoke/digits/alpha-0/smallcnn/fedgloss"], "a change is still seen"


def test_what_an_archive_lacks_is_prepared_and_a_failure_leaves_what_it_has(built, fresh, tmp_path):
    """An archive has the manifest of the images, without the images."""
    archive, smoke = tmp_path / "smoke.zip", "config/smoke.yaml"
    command = ["fedgloss", "collect", smoke, "--weights", "--out", str(archive)]
    subprocess.run(command, cwd=built, env=environment(built), check=True, capture_output=True)
    targets, said = imported(fresh, archive)
    images = "results/data/digits/data.safetensors"
    given = "snakemake --configfile=config/smoke.yaml --"
    assert f"to train other cells beside these, {given} {images} before that" in said
    shutil.rmtree(fresh / CELLS / "fedgloss" / "seed-1")
    targets = [target for target in targets if "fedgloss/seed-1" not in target]
    assert ("prepare", "digits") in planned(fresh, SMOKE)

    manifest = (fresh / "results/data/digits/manifest.json").read_bytes()
    digits = fresh / "src/fedgloss/data/sources/digits.py"
    whole = digits.read_text(encoding="utf-8")
    edit(digits, "table = _table(_original())", 'raise InputError("gone")')
    assert "failed: prepare digits: gone" in snakemake(fresh, images, SMOKE).stderr
    assert files(fresh / "results/data/digits", "*") == {"manifest.json": manifest}

    digits.write_text(whole, encoding="utf-8")
    build(fresh, images, SMOKE)
    build(fresh, "--touch", "--force", *targets, SMOKE)
    assert trained(fresh) == ["fedgloss/1"]


def test_a_build_without_a_split_is_refused_before_any_job(fresh):
    study = "--configfile=config/reproduction.yaml"
    line = "data/official_splits/cifar10: missing, must hold the split at alpha 0"
    assert f"\n{line}, see docs/data.md (cifar10" in build(fresh, "--dry-run", study)
    shown = snakemake(fresh, study)
    assert shown.returncode == 2 and "MissingInput" not in shown.stdout + shown.stderr
    assert f"fedgloss: error: config/reproduction.yaml: {line}, see docs" in shown.stderr
    assert not (fresh / "results/data").exists()
