"""Archives of finished runs: small, the same bytes from the same results, and whole again."""

import hashlib
import json
import shutil
import zipfile

import pytest

from cells import tree
from fedgloss.cli import main
from fedgloss.files import read_json, sha256, write_json
from fedgloss.jobs.collecting import collect
from fedgloss.jobs.importing import import_runs
from fedgloss.report.results import Results
from fedgloss.study.layout import RUN_FILES, Layout
from fedgloss.study.study import load_study
from finished import PARTITION, RUN, flipped
from refusal import refused

HESSIAN = RUN.replace("runs", "analysis") + "/hessian.json"


@pytest.fixture
def study(place):
    return load_study(place / "study.yaml")


def packed(place, study, **options):
    """An archive of `theirs`."""
    collect(study, place / "theirs", place / "all.zip", **options)
    return place / "all.zip"


def fates(study, archive, results):
    return {cell.algorithm: fate for cell, fate in import_runs(study, archive, results)}


def test_an_archive_has_metrics_manifests_and_what_was_measured(place, study):
    (place / "theirs" / HESSIAN).parent.mkdir(parents=True)
    (place / "theirs" / HESSIAN).write_text("{}")
    (place / "theirs" / HESSIAN).with_name(".line.csv.kept").touch()  # by a killed job
    names = zipfile.ZipFile(packed(place, study)).namelist()
    assert names[0] == "archive.json" and HESSIAN in names
    ours = {f"{RUN}/manifest.json", f"{RUN}/metrics.csv"}
    assert {name for name in names if name.startswith(RUN)} == ours
    assert {PARTITION, "data/digits/manifest.json"} < {*names}
    assert not any(name.endswith(".kept") for name in names)


def test_the_same_results_make_the_same_bytes(place, study):
    first = packed(place, study).read_bytes()
    for file in (place / "theirs").rglob("*"):
        file.touch()
    assert packed(place, study).read_bytes() == first


def test_with_weights_all_comes_back(place, study):
    archive, fresh = packed(place, study, weights=True), place / "fresh"
    assert fates(study, archive, fresh) == {"fedavg": "imported", "fedgloss": "imported"}
    theirs = tree(place / "theirs")
    theirs.pop("data/digits/data.safetensors")
    assert tree(fresh) == theirs
    assert fates(study, archive, fresh) == {"fedavg": "here", "fedgloss": "here"}


def test_without_weights_it_serves_the_tables(place, study):
    fresh = place / "fresh"
    assert {*fates(study, packed(place, study), fresh).values()} == {"imported"}
    assert not [*fresh.rglob("*.safetensors")]
    here, there = Results(study, fresh), Results(study, place / "theirs")
    for cell in study.cells:
        assert here.metrics(cell) == there.metrics(cell) and here.status(cell) == "completed"
    again = place / "again.zip"
    collect(study, fresh, again)
    assert again.read_bytes() == (place / "all.zip").read_bytes()


@pytest.mark.parametrize("same", [False, True])
def test_of_a_run_that_is_replaced_only_what_is_of_the_new_one_stays(same, place, study):
    """Its models, and what was measured on them: tables would show them as the new run's."""
    ours = place / "ours" / RUN
    shutil.copytree(place / "theirs" / RUN, ours)
    write_json(place / "ours" / HESSIAN, {"lambda1": 1.0})
    manifest = read_json(ours / "manifest.json")
    if same:
        (ours / "metrics.csv").unlink()
    else:
        (ours / "final.safetensors").write_bytes(b"another")
        manifest["outputs"]["final.safetensors"] = sha256(ours / "final.safetensors")
        manifest["settings"]["seed"] = 7
        write_json(ours / "manifest.json", manifest)
    models = {file.name for file in ours.glob("*.safetensors")}
    assert fates(study, packed(place, study), place / "ours")["fedgloss"].startswith("replaced: ")
    left = {file.name for file in ours.glob("*.safetensors")}
    assert left == (models if same else models - {"final.safetensors"})
    assert (place / "ours" / HESSIAN).exists() == same


def test_whole_runs_are_not_replaced_by_runs_without_weights(place, study):
    shutil.copytree(place / "theirs" / RUN, place / "ours" / RUN)
    before = tree(place / "ours" / RUN)
    assert fates(study, packed(place, study), place / "ours")["fedgloss"] == "here"
    assert tree(place / "ours" / RUN) == before


def test_another_result_of_the_same_cell_is_a_conflict(place, study):
    archive, ours = packed(place, study), place / "theirs" / RUN
    (ours / "metrics.csv").write_text("round,accuracy,loss\n2,50.0,1.0\n")
    manifest = read_json(ours / "manifest.json")
    manifest["outputs"]["metrics.csv"] = sha256(ours / "metrics.csv")
    (ours / "manifest.json").write_text(json.dumps(manifest))
    before = tree(ours)
    found = fates(study, archive, place / "theirs")
    assert found["fedavg"] == "here" and "another run of this cell is here" in found["fedgloss"]
    assert tree(ours) == before


def test_runs_that_are_not_the_studys_are_left_out(place, study):
    flipped(place / "theirs" / RUN / "metrics.csv")
    found = {c.algorithm: f for c, f in collect(study, place / "theirs", place / "x.zip").items()}
    assert found["fedavg"] == "collected" and "SHA-256" in found["fedgloss"]
    assert not [name for name in zipfile.ZipFile(place / "x.zip").namelist() if RUN in name]


def test_models_are_asked_for_only_where_they_are_packed(place, study):
    for name in RUN_FILES[1:]:
        (place / "theirs" / RUN / name).unlink()
    for weights, expected in ((False, "collected"), (True, "final.safetensors is gone")):
        found = collect(study, place / "theirs", place / "x.zip", weights)
        assert {c.algorithm: fate for c, fate in found.items()}["fedgloss"] == expected


def test_nothing_to_collect_leaves_no_archive(place, study):
    with refused("ours", "no finished run of the study 'shared'"):
        collect(study, place / "ours", place / "x.zip")
    assert not (place / "x.zip").exists()


def rewritten(archive, change):
    """Write an archive again with its entries changed."""
    with zipfile.ZipFile(archive) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    change(entries)
    with zipfile.ZipFile(archive, "w") as new:
        for name, content in entries.items():
            new.writestr(name, content)


def indexed(name, content=b""):
    """Add a file that the index lists, with its right SHA-256."""

    def change(entries):
        index = json.loads(entries["archive.json"])
        index["files"][name] = hashlib.sha256(content).hexdigest()
        entries |= {name: content, "archive.json": json.dumps(index).encode()}

    return change


DAMAGE = {
    "a changed file": (lambda e: e.update({f"{RUN}/metrics.csv": b"x"}), "not as it was collected"),
    "a file more": (lambda e: e.update(more=b""), "does not hold the files"),
    "a file less": (lambda e: e.pop(PARTITION), "does not hold the files"),
    "no index": (lambda e: e.pop("archive.json"), "archive.json is missing or damaged"),
    "a broken index": (lambda e: e.update({"archive.json": b"{"}), "missing or damaged"),
    "a path outside": (indexed("../../x"), "not a path below a results folder"),
    "an absolute path": (indexed("/tmp/x"), "not a path below a results folder"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_an_archive_that_is_not_as_collected_is_refused(what, place, study):
    change, reason = DAMAGE[what]
    archive, before = packed(place, study), tree(place / "ours")
    rewritten(archive, change)
    with refused("all.zip", reason):
        fates(study, archive, place / "ours")
    assert tree(place / "ours") == before


def test_what_is_no_archive_is_refused(place, study):
    (place / "x.zip").write_text("no zip")
    with refused("x.zip", "no archive of runs"):
        fates(study, place / "x.zip", place / "ours")


def test_an_archive_of_another_study_is_refused(place, study):
    archive = packed(place, study)
    file = place / "study.yaml"
    file.write_text(file.read_text().replace("study: shared", "study: other"))
    with refused("all.zip", "of the study 'shared', not of 'other'"):
        fates(load_study(file), archive, place / "ours")


def test_the_command_says_what_is_in_it(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    flipped(place / "theirs" / RUN / "metrics.csv")
    assert main(["collect", "study.yaml", "--results", "theirs"]) == 0
    shown = capsys.readouterr().err
    assert "shared.zip: 1 of 2 runs, 0 not there, 1 left out" in shown
    assert "left out: digits/alpha-0/smallcnn/fedgloss/seed-0: metrics.csv has changed" in shown
    assert main(["import", "shared.zip", "study.yaml", "--results", "fresh"]) == 0
    assert "shared: 1 imported, 0 here already, 1 not there, 0 refused" in capsys.readouterr().err


def test_what_was_measured_is_a_target_of_its_own(place, capsys, monkeypatch):
    """Touched with the metrics alone, it would be older than its run, and made again."""
    monkeypatch.chdir(place)
    (place / "theirs" / HESSIAN).parent.mkdir(parents=True)
    (place / "theirs" / HESSIAN).write_text('{"status": "diverged"}')
    assert main(["collect", "study.yaml", "--results", "theirs", "--weights"]) == 0
    assert main(["import", "shared.zip", "study.yaml", "--results", "fresh"]) == 0
    shown = capsys.readouterr()
    assert {f"fresh/{RUN}/metrics.csv", f"fresh/{HESSIAN}"} < {*shown.out.split()}
    assert "next: snakemake --touch --force" in shown.err


def test_what_was_measured_is_younger_than_all_runs(place, study):
    """A line between two runs, older than one of them, would be computed again."""
    layout = Layout(place / "theirs")
    for cell in study.cells:
        file = layout.hessian(study.name, cell)
        file.parent.mkdir(parents=True)
        file.write_text('{"status": "diverged"}')
    fresh = place / "fresh"
    assert {*fates(study, packed(place, study), fresh).values()} == {"imported"}
    youngest = max(file.stat().st_mtime_ns for file in (fresh / "runs").rglob("manifest.json"))
    measured = [file.stat().st_mtime_ns for file in (fresh / "analysis").rglob("hessian.json")]
    assert len(measured) == 2 and min(measured) >= youngest


def test_eigenvalues_that_the_study_no_longer_asks_for_stay_behind(place, study):
    """Here they would count as made, and be left out of tables for ever."""
    file = place / "theirs" / HESSIAN
    file.parent.mkdir(parents=True)
    for images, is_taken in ((study.hessian.images, True), (7, False)):
        file.write_text(json.dumps({"status": "diverged", "images": images}))
        fresh = place / f"fresh-{images}"
        assert {*fates(study, packed(place, study), fresh).values()} == {"imported"}
        assert (fresh / HESSIAN).exists() == is_taken


def test_without_models_nothing_is_to_be_touched(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert main(["collect", "study.yaml", "--results", "theirs"]) == 0
    assert main(["import", "shared.zip", "study.yaml", "--results", "fresh"]) == 0
    shown = capsys.readouterr().err
    said = "without models, Snakemake trains these cells again where something new needs a model"
    assert "--touch" not in shown and said in shown


def test_where_nothing_can_be_taken_the_command_fails(place, monkeypatch):
    monkeypatch.chdir(place)
    assert main(["collect", "study.yaml", "--results", "theirs"]) == 0
    file = place / "study.yaml"
    file.write_text(file.read_text().replace("rounds: 2", "rounds: 3"))
    assert main(["import", "shared.zip", "study.yaml", "--results", "fresh"]) == 2


def test_why_nothing_can_be_collected_is_said(place):
    file = place / "study.yaml"
    file.write_text(file.read_text().replace("rounds: 2", "rounds: 3"))
    with refused("no finished run", "2 are left out, first", "rounds is 2 in the run, 3 here"):
        collect(load_study(file), place / "theirs", place / "x.zip")
