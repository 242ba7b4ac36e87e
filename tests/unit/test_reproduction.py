"""What reproduction/REPRODUCTION.md says is what the runs in the archives beside it left."""

import csv
import importlib.util
import io
import json
import re
import statistics
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "reproduction"
PAGE = (FOLDER / "REPRODUCTION.md").read_text(encoding="utf-8")
SEEDS = (0, 42, 200299)


@pytest.fixture(scope="module")
def archive():
    with zipfile.ZipFile(FOLDER / "cifar10.zip") as packed:
        return {name: packed.read(name) for name in packed.namelist()}


@pytest.fixture(scope="module")
def runs(archive):
    """Manifest, rows of metrics and lambda_1 of each run, by method and seed."""
    found = {}
    for name in archive:
        if part := re.fullmatch(r"runs/(.*/alpha-0/cnn/([^/]*)/seed-(\d+))/manifest.json", name):
            metrics = archive[name.replace("manifest.json", "metrics.csv")].decode()
            measured = json.loads(archive[f"analysis/{part[1]}/hessian.json"])
            rows = list(csv.DictReader(io.StringIO(metrics)))
            manifest = json.loads(archive[name])
            found[part[2], int(part[3])] = (manifest, rows, measured["lambda1"])
    return found


def test_the_page_is_what_the_archives_make(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(FOLDER.parent)  # the build does, too
    spec = importlib.util.spec_from_file_location("build_reproduction", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.build(tmp_path)
    said = f"wrote {tmp_path}/REPRODUCTION.md and the figures in {tmp_path}/figures\n"
    assert capsys.readouterr().out == said
    assert (tmp_path / "REPRODUCTION.md").read_text(encoding="utf-8") == PAGE
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {path.name for path in (FOLDER / "figures").iterdir()}
    assert drawn == set(re.findall(r"\(figures/([^)]*)\)", PAGE))


def test_accuracies_follow_from_the_metrics(runs):
    for (method, seed), (manifest, rows, lambda1) in runs.items():
        if manifest["status"] == "diverged":
            assert float(rows[-1]["round"]) < manifest["diverged_in"]
            assert f"diverged in {manifest['diverged_in']:,}" in PAGE
            continue
        for key, until in (("accuracy", 10_000), ("accuracy_at_half", 5_000)):
            last = [float(r["accuracy"]) for r in rows if until - 100 < int(r["round"]) <= until]
            assert manifest[key] == pytest.approx(statistics.fmean(last)), (method, seed)
            assert f"| {manifest[key]:.2f} |" in PAGE
        assert f"| {lambda1:.3g} |" in PAGE


def test_early_accuracies_stand_beside_the_released_codes_after_the_same_rounds():
    released = json.loads((FOLDER / "released.json").read_text())["accuracy"]
    folder = "runs/cifar10-early/cifar10-official-overlap/alpha-1/cnn"
    ours = {}
    with zipfile.ZipFile(FOLDER / "early.zip") as packed:
        for label in ("fedavg", "fedgloss-ramp-2000"):
            rows = packed.read(f"{folder}/{label}/seed-0/metrics.csv").decode()
            ours[label] = {r["round"]: r["accuracy"] for r in csv.DictReader(io.StringIO(rows))}
    for round in ("100", "200", "300", "400"):
        cells = []
        for label, method in (("fedavg", "fedavg"), ("fedgloss-ramp-2000", "fedgloss")):
            theirs = released[method].get(round)
            cells += [f"{float(ours[label][round]):.1f}"]
            cells += ["not run" if theirs is None else f"{theirs:.1f}"]
        assert f"| {round} | {' | '.join(cells)} |\n" in PAGE


@pytest.mark.parametrize("method", ["fedgloss", "fedgloss-sgd", "fedavg", "fedsam"])
def test_the_means_over_seeds_are_those_of_the_runs(runs, method):
    accuracies = [runs[method, seed][0]["accuracy"] for seed in SEEDS]
    lambda1 = [runs[method, seed][2] for seed in SEEDS]
    for values, digits in ((accuracies, 1), (lambda1, 2)):
        mean, std = statistics.fmean(values), statistics.stdev(values)
        assert f"{mean:.{digits}f} ± {std:.{digits}f}" in PAGE


def test_the_readme_says_the_same():
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    section = readme.split("## What has been reproduced")[1].split("\n## ")[0]
    numbers = re.findall(r"\d[\d.,]* ± [\d.]+", section)
    assert len(numbers) == 21
    for number in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", PAGE), number
