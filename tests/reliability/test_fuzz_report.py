"""What tables, figures and the report read, damaged: metrics, manifests, eigenvalues, surfaces."""

import itertools
import json
import shutil

import matplotlib.pyplot as plt
import pytest

from fedgloss.files import sha256, write_json
from fedgloss.report import figures
from fedgloss.study import outdated
from reliability.hostile import Damage, accepted, at_random, bytes_at_random, fedgloss, key_by_key
from reliability.toy import CELL


@pytest.fixture
def project(project, monkeypatch):
    """A copy that a test may damage, and be in; figures are drawn as PNG alone."""
    monkeypatch.setattr(figures, "METADATA", {"png": figures.METADATA["png"]})
    return project


def reading(project, kind, name, *command, good=None, every=1):
    """A file of the cell, and a command that reads it."""
    file = project / "results" / kind / "toy" / CELL / name
    out = project / "results" / WRITES[command[0]]
    return Damage(file, [*command, "--results", "results"], out, good, every)


AROUND = "landscape-average-all-within-1.csv"
WRITES = {"table": "tables", "figure": "figures", "report": "report", "status": "none"}
USED = ("status", "diverged_in", "accuracy", "accuracy_at_half", "parameters", "bytes_down")
USED += ("bytes_up", "backend", "device", "precision", "code", "threads", "wall_seconds", "inputs")


def used_of(project):
    """What the report needs of a manifest: everything in it is checked."""
    good = json.loads((project / "results/runs/toy" / CELL / "manifest.json").read_bytes())
    used = {
        key: good[key]
        for key in (*USED, "versions", "gradients_per_step", "images_per_second", "outputs")
    }
    keys = ("algorithm", "method", "variants", "hyperparameters")
    used["settings"] = {key: good["settings"][key] for key in keys}
    keys = ("rounds", "clients_per_round", "evaluate_every", "last")
    used["settings"]["training"] = {key: good["settings"]["training"][key] for key in keys}
    return used


@pytest.mark.parametrize(
    "command",
    [
        ["table", "study.yaml", "numbers"],
        ["table", "study.yaml", "bytes"],
        ["report", "study.yaml"],
    ],
    ids=" ".join,
)
def test_manifests(project, command, every):
    used = used_of(project)
    damage = reading(project, "runs", "manifest.json", *command, good=used, every=every)
    damage(key_by_key(used, "reported", wrong=3), ["manifest.json"])
    damage(at_random(used, "reported", 60), ["manifest.json"])
    damage(bytes_at_random(json.dumps(used).encode(), "reported", 40), ["manifest.json"])


def test_every_key_that_is_dropped_is_named(project):
    for case in key_by_key(used_of(project), "dropped", wrong=0):
        free = case.what.startswith(
            ("inputs.", "outputs.", "versions.", "settings.variants.", "settings.hyper")
        )
        if "dropped" in case.what and not free:
            (project / "results/runs/toy" / CELL / "manifest.json").write_text(
                json.dumps(case.value)
            )
            code, lines = fedgloss("report", "study.yaml", "--results", "results")
            key = case.what.removesuffix(" dropped")
            assert code == 2 and f"manifest.json: {key}: missing" in lines[0], (case.what, lines)


@pytest.mark.parametrize(
    ("kind", "name", "command"),
    [
        ("runs", "metrics.csv", ["table", "study.yaml", "bytes"]),
        ("runs", "metrics.csv", ["figure", "study.yaml", "curves"]),
        ("analysis", "hessian.json", ["table", "study.yaml", "numbers"]),
        ("analysis", "hessian.json", ["figure", "study.yaml", "bars"]),
        ("analysis", AROUND, ["figure", "study.yaml", "surfaces"]),
    ],
    ids=lambda value: f"{value}"[:40],
)
@pytest.mark.filterwarnings("ignore:More than 20 figures", "ignore:Attempt to set non-positive")
def test_other_results(project, kind, name, command, every, monkeypatch):
    if name == "metrics.csv":  # as if the run had written it: else it is outdated, and left out
        monkeypatch.setattr(outdated, "harm", lambda *_: None)
    damage = reading(project, kind, name, *command, every=every)
    count = 100 if command[0] == "table" else 30
    damage(bytes_at_random(damage.good, f"{name} {command}", count), [name])
    if name == "hessian.json":
        good = {key: json.loads(damage.good)[key] for key in ("data", "lambda1")}
        damage(key_by_key(good, "sharp", wrong=count // 5), ["hessian.json"])
        damage(at_random(good, "sharp", count // 2), ["hessian.json"])
    plt.close("all")


METRICS = "round,accuracy,loss\n"
SURFACE = "x,y,loss,accuracy\n"
TWO = "0,0,1,5\n0,1,1,5\n1,0,1,5\n1,1,1,5\n"


@pytest.mark.parametrize(
    ("kind", "name", "text", "word"),
    [
        ("runs", "metrics.csv", "loss\n1\n", "'round'"),
        ("runs", "metrics.csv", METRICS + "1,nan,1\n", "accuracy"),
        ("runs", "metrics.csv", METRICS + "1,5,1e400\n", "loss"),
        ("runs", "metrics.csv", METRICS + "1,5\n", "line 2"),
        ("runs", "metrics.csv", METRICS + "77,5,1\n", "round"),
        ("runs", "metrics.csv", METRICS + "x" * 200_000 + ",1,1\n", "not a CSV file"),
        ("runs", "metrics.csv", METRICS + "\udcff,1,1\n", "not a CSV file"),
        ("analysis", AROUND, "x,y\n0,0\n", "'loss'"),
        ("analysis", AROUND, SURFACE + "0,0,1,5\n", "grid"),
        (
            "analysis",
            AROUND,
            SURFACE + "0,0,1,5\n0,1,1,5\n1,0,1,5\n",
            "grid",
        ),
        (
            "analysis",
            AROUND,
            SURFACE + "0,0,1,5\n1,0,1,5\n0,1,1,5\n1,1,1,5\n",
            "grid",
        ),
        (
            "analysis",
            AROUND,
            SURFACE + TWO.replace("1,1,1", "1,nan,1"),
            "grid",
        ),
        (
            "analysis",
            AROUND,
            SURFACE + TWO.replace("1,1,1", "1,1,1e300"),
            "bounds",
        ),
        ("analysis", "hessian.json", '{"data": "paper", "lambda1": 1e308}', "lambda1"),
        ("analysis", "hessian.json", '{"data": "paper", "lambda1": NaN}', "lambda1"),
    ],
)
def test_results_that_were_not_refused_in_one_line(project, kind, name, text, word):
    drawn = {
        "metrics.csv": "curves",
        AROUND: "surfaces",
        "hessian.json": "bars",
    }[name]
    file = project / "results" / kind / "toy" / CELL / name
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    if name == "metrics.csv":  # as if the run had written it
        manifest = json.loads((file.parent / "manifest.json").read_bytes())
        manifest["outputs"][name] = sha256(file)
        write_json(file.parent / "manifest.json", manifest)
    command = ["figure", "study.yaml", drawn, "--results", "results"]
    assert not accepted(text[:60], command, project / "results" / "figures", [word])
    plt.close("all")


@pytest.mark.parametrize("rows", ["", TWO.replace(",1,5", ",nan,5"), TWO.replace(",1,5", ",inf,5")])
def test_a_surface_without_a_finite_loss_is_left_out(project, rows):
    """A diverged run's surface is a file without rows, and must not stop the figure."""
    for file in (project / "results/analysis/toy").rglob(AROUND):
        file.write_text(SURFACE + rows)
        command = ["figure", "study.yaml", "surfaces", "--results", "results"]
        assert accepted(str(file), command, project / "results" / "figures")


def test_figures_and_tables_that_the_report_finds_broken(project):
    for command in (["table", "study.yaml", "numbers"], ["figure", "study.yaml", "curves"]):
        assert accepted("made", [*command, "--results", "results"], project / "none")
    for name, word in (("figures/toy/curves.png", "PNG"), ("tables/toy/numbers.md", "older")):
        file = project / "results" / name
        good = file.read_bytes()
        for damage in (b"", b"\xff\xfe\0", good[:20], good[:-1] if word == "older" else b"\x89PN"):
            file.write_bytes(damage)
            command = ["report", "study.yaml", "--results", "results"]
            assert not accepted(name, command, project / "results" / "report", [word])
        file.write_bytes(good)


def test_status_and_import_of_damaged_runs(project, every):
    """`import` refuses run by run; whatever the other folder holds, nothing else comes over."""
    file = project / "results/runs/toy" / CELL / "manifest.json"
    command = ["status", "study.yaml", "--results", "results"]
    status = Damage(file, command, project / "none", every=every)
    status(bytes_at_random(file.read_bytes(), "status", 40))
    good = json.loads(file.read_bytes())
    (project / "ours/data").mkdir(parents=True)
    shutil.copytree(project / "data", project / "ours/data/pets")
    partition = project / "ours/partitions/pets/alpha-iid/partition.json"
    partition.parent.mkdir(parents=True)
    shutil.copy(project / "partition.json", partition)
    for case in itertools.islice(at_random(good, "import", 25), 0, None, every):
        file.write_text(json.dumps(case.value))
        code, lines = fedgloss("import", "results", "study.yaml", "--results", "ours")
        nothing = any(" 0 imported, 0 here already" in line for line in lines)
        assert code == (2 if nothing else 0), (case.what, lines)
        assert all(line.isprintable() for line in lines), (case.what, lines)
        assert not [line for line in lines if "Traceback" in line]
        allowed = {"metrics.csv", "manifest.json", *(f"{n}.safetensors" for n in NAMES)}
        assert {f.name for f in (project / "ours/runs").rglob("*") if f.is_file()} <= allowed
        shutil.rmtree(project / "ours/runs", ignore_errors=True)


NAMES = ("final", "average", "locals")
