"""What reproduction/README.md says is what the runs in it left."""

import csv
import hashlib
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "reproduction" / "cifar10-cnn-alpha-0"
RUNS = sorted(path.parent for path in FOLDER.glob("*/manifest.json"))
README = (FOLDER.parent / "README.md").read_text(encoding="utf-8")


def test_there_are_runs():
    assert len(RUNS) == 5


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_runs_figures_follow_from_its_metrics(run):
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    metrics = (run / "metrics.csv").read_bytes()
    assert hashlib.sha256(metrics).hexdigest() == manifest["outputs"]["metrics.csv"]
    rows = [*csv.DictReader(metrics.decode().splitlines())]
    if manifest["status"] == "diverged":
        assert f"{manifest['diverged_in']:,}" in README
        assert f"({float(rows[-1]['accuracy']):.1f} at {int(rows[-1]['round']):,})" in README
        return
    for key, until in (("accuracy", 10_000), ("accuracy_at_half", 5_000)):
        values = [float(r["accuracy"]) for r in rows if until - 100 < int(r["round"]) <= until]
        assert manifest[key] == pytest.approx(sum(values) / len(values))
        assert f"| {manifest[key]:.2f} |" in README


def test_the_eigenvalues_are_those_measured():
    found = json.loads((FOLDER / "sharpness.json").read_text(encoding="utf-8"))["cells"]["lambda1"]
    assert len(found) == 3
    for cell in found.values():
        assert cell["converged"]
        assert any(f"| {cell['lambda1']:.{digits}f} |" in README for digits in (1, 2))
