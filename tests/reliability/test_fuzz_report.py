"""What tables, figures and the report read, damaged: metrics, manifests, eigenvalues, surfaces."""

import html
import itertools
import json
import re
import shutil

import matplotlib.pyplot as plt
import pytest

from fedgloss.files import sha256, write_json
from fedgloss.report import figures
from fedgloss.study import outdated
from reliability.hostile import (
    Case,
    Damage,
    accepted,
    as_json,
    at_random,
    bytes_at_random,
    fedgloss,
    key_by_key,
)
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
CURVES = ["figure", "study.yaml", "curves"]
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


def left_out(project, kind, name, command, cases, every):
    """Damage a file of the cell: what is made of the others says what is wrong, if anything is.

    Returns the reasons, one for each case in which the file could not be read.
    """
    file = project / "results" / kind / "toy" / CELL / name
    out = project / "results" / WRITES[command[0]]
    good, reasons = file.read_bytes(), []
    for case in itertools.islice(cases, 0, None, every):
        file.write_bytes(case.value if isinstance(case.value, bytes) else as_json(case.value))
        assert accepted(case.what, [*command, "--results", "results"], project / "none"), case.what
        (made,) = (path for path in out.rglob("*") if path.suffix in (".md", ".html"))
        text = html.unescape(made.read_text(encoding="utf-8")).replace("\u00a0", " ")
        found = re.search(rf"{re.escape(name)}: [^\n]*", text)
        reasons += [found[0]] if found else []
        shutil.rmtree(out)
    file.write_bytes(good)
    return reasons


@pytest.mark.parametrize(
    "command",
    [
        ["table", "study.yaml", "numbers"],
        ["table", "study.yaml", "bytes"],
        ["report", "study.yaml"],
    ],
    ids=" ".join,
)
def test_a_run_whose_manifest_is_damaged_is_left_out_and_named(project, command, every):
    used = used_of(project)
    cases = [*key_by_key(used, "reported", wrong=3), *at_random(used, "reported", 60)]
    cases += bytes_at_random(json.dumps(used).encode(), "reported", 40)
    reasons = left_out(project, "runs", "manifest.json", command, cases, every)
    assert len(reasons) > len(cases) / every / 3, "hardly anything is noticed"
    assert all("delete its folder" in reason for reason in reasons)


def test_every_key_that_is_dropped_is_named(project):
    for case in key_by_key(used_of(project), "dropped", wrong=0):
        free = case.what.startswith(
            ("inputs.", "outputs.", "versions.", "settings.variants.", "settings.hyper")
        )
        if "dropped" in case.what and not free:
            command = ["report", "study.yaml"]
            (reason,) = left_out(project, "runs", "manifest.json", command, [case], 1)
            key = case.what.removesuffix(" dropped")
            assert reason.startswith(f"manifest.json: {key}: missing"), case.what


@pytest.mark.parametrize("command", [["table", "study.yaml", "numbers"], ["report", "study.yaml"]])
def test_eigenvalues_that_are_damaged_are_left_out_and_named(project, command, every):
    file = project / "results/analysis/toy" / CELL / "hessian.json"
    good = {key: json.loads(file.read_bytes())[key] for key in ("data", "lambda1")}
    cases = [*key_by_key(good, "sharp", wrong=15), *at_random(good, "sharp", 30)]
    cases += bytes_at_random(file.read_bytes(), "hessian.json", 60)
    reasons = left_out(project, "analysis", "hessian.json", command, cases, every)
    assert len(reasons) > len(cases) / every / 3, "hardly anything is noticed"
    assert all("delete it to have it made again" in reason for reason in reasons)


def test_surfaces_that_are_damaged_are_left_out_and_named(project, every):
    file = project / "results/analysis/toy" / CELL / AROUND
    cases = [*bytes_at_random(file.read_bytes(), "surface", 60)]
    reasons = left_out(project, "analysis", AROUND, ["report", "study.yaml"], cases, every)
    assert len(reasons) > len(cases) / every / 3, "hardly anything is noticed"
    command = ["figure", "study.yaml", "surfaces", "--results", "results"]
    file.write_bytes(b"")
    assert accepted("drawn without it", command, project / "none")
    plt.close("all")


@pytest.mark.parametrize("command", [["table", "study.yaml", "bytes"], CURVES], ids=" ".join)
@pytest.mark.filterwarnings("ignore:More than 20 figures", "ignore:Attempt to set non-positive")
def test_metrics_that_a_run_wrote_so_are_refused(project, command, every, monkeypatch):
    monkeypatch.setattr(outdated, "harm", lambda *_: None)  # else it is outdated, and left out
    damage = reading(project, "runs", "metrics.csv", *command, every=every)
    count = 100 if command[0] == "table" else 30
    damage(bytes_at_random(damage.good, f"metrics.csv {command}", count), ["metrics.csv"])
    plt.close("all")


METRICS = "round,accuracy,loss\n"
SURFACE = "x,y,loss,accuracy\n"
TWO = "0,0,1,5\n0,1,1,5\n1,0,1,5\n1,1,1,5\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("loss\n1\n", "'round'"),
        (METRICS + "1,nan,1\n", "accuracy"),
        (METRICS + "1,5,-1e400\n", "loss"),
        (METRICS + "1,5\n", "line 2"),
        (METRICS + "77,5,1\n", "round"),
        (METRICS + "x" * 200_000 + ",1,1\n", "not a CSV file"),
        (METRICS + "\udcff,1,1\n", "not a CSV file"),
    ],
)
def test_metrics_that_were_not_refused_in_one_line(project, text, word):
    file = project / "results/runs/toy" / CELL / "metrics.csv"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    manifest = json.loads((file.parent / "manifest.json").read_bytes())
    manifest["outputs"]["metrics.csv"] = sha256(file)  # as if the run had written it
    write_json(file.parent / "manifest.json", manifest)
    command = [*CURVES, "--results", "results"]
    assert not accepted(text[:60], command, project / "results" / "figures", [word])
    plt.close("all")


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        (AROUND, "x,y\n0,0\n", "'loss'"),
        (AROUND, SURFACE + "0,0,1,5\n", "grid"),
        (AROUND, SURFACE + "0,0,1,5\n0,1,1,5\n1,0,1,5\n", "grid"),
        (AROUND, SURFACE + "0,0,1,5\n1,0,1,5\n0,1,1,5\n1,1,1,5\n", "grid"),
        (AROUND, SURFACE + TWO.replace("1,1,1", "1,nan,1"), "grid"),
        (AROUND, SURFACE + TWO.replace("1,1,1", "1,1,1e300"), "bounds"),
        ("hessian.json", '{"data": "paper", "lambda1": 1e308}', "lambda1"),
        ("hessian.json", '{"data": "paper", "lambda1": NaN}', "lambda1"),
    ],
)
def test_measurements_that_were_not_left_out(project, name, text, word):
    case = Case(text[:60], "", text.encode())
    (reason,) = left_out(project, "analysis", name, ["report", "study.yaml"], [case], 1)
    assert word in reason


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
    for name, word in (("figures/toy/curves.png", "PNG"), ("tables/toy/numbers.md", "give now")):
        file = project / "results" / name
        good = file.read_bytes()
        for damage in (b"", b"\xff\xfe\0", good[:20], good[:-1] if word != "PNG" else b"\x89PN"):
            file.write_bytes(damage)
            command = ["report", "study.yaml", "--results", "results"]
            assert not accepted(name, command, project / "results" / "report", [word])
        file.write_bytes(good)


def test_status_and_import_of_damaged_runs(project, every):
    """`import` refuses run by run; whatever the other folder holds, nothing else comes over."""
    file = project / "results/runs/toy" / CELL / "manifest.json"
    command = ["status", "study.yaml", "--results", "results"]
    whole = file.read_bytes()
    for case in itertools.islice(bytes_at_random(whole, "status", 40), 0, None, every):
        file.write_bytes(case.value)
        assert accepted(case.what, command, project / "none"), case.what
    good = json.loads(whole)
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
