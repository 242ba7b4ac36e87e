"""Every example runs as its first lines say, and shows what they promise."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from fedgloss.data.dataset import load, prepare
from fedgloss.data.partition.partition import load_partition, make_partition
from fedgloss.study.study import load_study

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(file.name for file in EXAMPLES.glob("*.py") if file.name != "digits.py")
STUDIES = sorted(file.name for file in EXAMPLES.glob("*.yaml"))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example in an empty folder; returns what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    before = {*sys.modules}
    with matplotlib.rc_context({"backend": "agg"}):

        def run(name: str) -> str:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
            return capsys.readouterr().out

        yield run
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")
    for name in {*sys.modules} - before:
        if EXAMPLES in Path(getattr(sys.modules[name], "__file__", None) or ".").parents:
            del sys.modules[name]


SHOWN = {
    "compare.py": r"fedavg: [\d.]+ %\nfedsam: [\d.]+ %\nfedgloss: [\d.]+ %",
    "measure_sharpness.py": r"(?s)fedavg\n.*Spectrum\(.*fedsam\n.*Spectrum\(",
    "own_images.py": r"300 images in data/own-images",
    "own_model.py": r"[\d.]+ % after 30 rounds",
    "own_split.py": r"data/own-split.json: \[150, 130, ",
    "resume.py": r"stopped after round 8\nbit-equal: True\naccuracy: [\d.]+ % after round 20",
    "server_momentum.py": r"momentum 0.0: [\d.]+ %\nmomentum 0.9: [\d.]+ %",
}


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_runs(name: str, run, tmp_path) -> None:
    assert re.search(SHOWN[name], run(name)), name
    promised = re.search(r"Leaves: (\w+\.png)", (EXAMPLES / name).read_text())
    if promised:
        assert (tmp_path / promised[1]).stat().st_size > 5000


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_says_what_it_shows_and_how_to_run_it(name: str) -> None:
    first, *rest = (EXAMPLES / name).read_text().splitlines()
    assert first.startswith('"""') and first.endswith(".")
    assert f"Run:    python examples/{name}" in rest
    assert f"`{name}`" in (EXAMPLES / "README.md").read_text()


def test_the_comparison_takes_fifteen_lines() -> None:
    code = (EXAMPLES / "compare.py").read_text().split('"""')[2]
    assert len(code[code.index("clients, test") :].splitlines()) <= 15


def test_ones_own_images_become_a_data_set_with_a_split(run, tmp_path) -> None:
    run("own_images.py")
    (definition,) = load_study(EXAMPLES / "own_images.yaml").config["datasets"].values()
    prepare("folder", tmp_path / "prepared", root=Path(definition["root"]))
    dataset = load(tmp_path / "prepared")
    assert list(dataset.classes) == ["one", "two", "zero"]
    options = {"scheme": definition["partition"]["scheme"], "clients": 10, "alpha": "0.5"}
    make_partition(dataset, tmp_path / "p.json", **options)
    clients = load_partition(tmp_path / "p.json", dataset).clients
    assert sorted(i for client in clients for i in client.tolist()) == [*range(240)]


def test_ones_own_split_is_what_clients_get(run, tmp_path) -> None:
    run("own_split.py")
    partition = load_study(EXAMPLES / "own_split.yaml").config["datasets"]["digits"]["partition"]
    dataset = load(Path("results/data/digits"))
    make_partition(dataset, tmp_path / "p.json", scheme="file", file=Path(partition["file"]))
    clients = load_partition(tmp_path / "p.json", dataset).clients
    kinds = [{label >= 5 for label in dataset.train_labels[c].tolist()} for c in clients]
    assert kinds == [{False}, {True}] * 5


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_built(name: str, tmp_path) -> None:
    for part in ("Snakefile", "workflow", "config", "profiles", "envs", "src", "examples"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, tmp_path / part)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    study = EXAMPLES / name
    for command in (
        [sys.executable, f"examples/{study.stem}.py"],
        ["snakemake", "--cores", "2", f"--configfile=examples/{name}"],
    ):
        shown = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert shown.returncode == 0, shown.stdout + shown.stderr
    table = (tmp_path / f"results/tables/{study.stem.replace('_', '-')}/accuracy.md").read_text()
    assert re.search(r"FedAvg .*\d ± \d.*\(n=2\)", table)
    assert re.search(r"FedSAM .*\d ± \d.*\(n=2\)", table)
