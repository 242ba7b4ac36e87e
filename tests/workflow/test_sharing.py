"""Checkouts that share: prepared data through Snakemake's cache, finished cells by import."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from workflow.project import (
    CONSTANTS,
    SMOKE,
    build,
    copy_project,
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


# The cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(log):
    """The outputs that jobs made, which then went to the cache."""
    return sorted(re.findall(r"^Moving output file results/(\S+) to cache", log, flags=re.M))


def taken(log):
    """The outputs that came from the cache without a job's command."""
    found = set(re.findall(r"^Symlinking output file results/(\S+) from cache", log, flags=re.M))
    return sorted(found - set(made(log)))


DATA = ["data/digits/data.safetensors", "data/digits/manifest.json"]
CUT = [f"partitions/digits/alpha-0/partition.{kind}" for kind in ("json", "png")]


def test_the_next_checkout_takes_data_and_partitions_from_the_cache(source, tmp_path, cache):
    one = copy_project(tmp_path / "one", source)
    assert made(build(one, PARTITION, SMOKE, "--cache")) == [*DATA, *CUT]
    other = copy_project(tmp_path / "another" / "place", source)
    log = build(other, PARTITION, SMOKE, "--cache")
    assert (made(log), taken(log)) == ([], [*DATA, *CUT])
    assert files(other / "results", "*.*[!g]") == files(one / "results", "*.*[!g]")
    assert planned(other, PARTITION, SMOKE) == []

    # Another seed of the partition: the data are the same, and are hashed before they are cut.
    edit(
        other / CONSTANTS / "methods.yaml",
        "clients: 50, seed: 0",
        "clients: 50, seed: 1",
    )
    stored = (other / "results" / DATA[0]).resolve()
    content = stored.read_bytes()
    stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert snakemake(other, PARTITION, SMOKE, "--cache").returncode != 0
    said = (other / "results/logs/partition/digits/alpha-0.log").read_text(encoding="utf-8")
    assert "data.safetensors: SHA-256 differs" in said
    stored.write_bytes(content)
    log = build(other, PARTITION, SMOKE, "--cache")
    assert (made(log), taken(log)) == (CUT, [])

    # Another code: everything is made.
    with open(other / "src/fedgloss/data/digits.py", "a", encoding="utf-8") as code:
        code.write("\n_EDITED = 1\n")
    assert made(build(other, PARTITION, SMOKE, "--cache")) == [*DATA, *CUT]


def test_images_of_ones_own_are_never_taken_from_the_cache(fresh, cache):
    """Two checkouts may have different images in folders of the same name."""
    definition = "{source: folder, root: images, partition: {scheme: iid, clients: 50, seed: 0}}"
    study = fresh / "config" / "smoke.yaml"
    edit(study, "\ngrid:", f"\ndatasets:\n  mine: {definition}\n\ngrid:")
    training = "epochs: 1, batch_size: 8, lr: 0.1, weight_decay: 0, augmentation: none, record: []"
    edit(study, "last: 2}", f"last: 2, clients: 50, clients_per_round: 2, {training}}}")
    block = '  - {dataset: mine, alphas: ["iid"], model: cnn, algorithms: [fedavg]}\n'
    edit(study, "\ntables:", f"{block}\ntables:")
    jobs = planned(fresh, SMOKE, "--cache")
    found = [(rule, re.sub(r"\+\w{8}", "+", values)) for rule, values in jobs]
    assert [job for job in found if job[0].startswith(("prepare", "partition"))] == [
        ("partition", "digits/0"),
        ("partition_uncached", "mine+/iid"),
        ("prepare", "digits"),
        ("prepare_uncached", "mine+"),
    ]
    cached = build(fresh, "--dry-run", SMOKE, "--cache")
    assert "digits" in cached and not re.search(r"results/\w+/mine\S* will be .* cache", cached)


def test_another_split_file_cuts_again_and_a_touched_one_does_not(finished):
    """The content of an imported split counts, for the cache as well as for later runs."""
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
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.split(), shown.stderr


def trained(project):
    return [
        values.removeprefix("smoke/digits/0/smallcnn/")
        for rule, values in planned(project, SMOKE)
        if rule == "train"
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
    assert trained(fresh) == ["fedavg/1", "fedgloss/0", "fedgloss/1"]
    targets, said = imported(fresh, theirs)
    assert targets == [] and said.count("rho is 0.05 in the run, 0.123 here") == 2
