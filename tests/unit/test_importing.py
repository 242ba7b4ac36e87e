"""Runs of another results folder: what is taken over, and what is refused with which reason."""

import json
import shutil

import pytest

from cells import tree
from fedgloss import fingerprint
from fedgloss.cli import main
from fedgloss.files import read_json
from fedgloss.fingerprint import of_training
from fedgloss.jobs.importing import import_runs
from fedgloss.study.layout import RUN_FILES
from fedgloss.study.outdated import Expectations
from fedgloss.study.study import load_study
from finished import PARTITION, RUN, STUDY, flipped
from refusal import refused


def fates(place):
    """What becomes of each cell, by its algorithm."""
    study = load_study(place / "study.yaml")
    found = import_runs(study, place / "theirs", place / "ours")
    return {cell.algorithm: fate for cell, fate in found}


def edit(file, change):
    record = read_json(file)
    change(record)
    file.write_text(json.dumps(record), encoding="utf-8")


def test_whole_runs_of_the_same_study_are_copied_once(place):
    assert fates(place) == {"fedavg": "imported", "fedgloss": "imported"}
    assert tree(place / "ours") == tree(place / "theirs")
    before = {path: path.stat().st_mtime_ns for path in (place / "ours").rglob("*")}
    assert fates(place) == {"fedavg": "here", "fedgloss": "here"}
    assert {path: path.stat().st_mtime_ns for path in (place / "ours").rglob("*")} == before


def test_a_run_that_is_not_there_is_missing(place):
    shutil.rmtree(place / "theirs" / RUN)
    assert fates(place) == {"fedavg": "imported", "fedgloss": "missing"}


def test_a_run_that_is_nowhere_is_missing_even_if_its_data_are(place):
    for run in (place / "theirs" / RUN).parent.parent.glob("*/seed-*/manifest.json"):
        run.unlink()
    shutil.rmtree(place / "ours" / "data")
    assert fates(place) == {"fedavg": "missing", "fedgloss": "missing"}


def test_a_diverged_run_is_a_result_too(place):
    edit(place / "theirs" / RUN / "manifest.json", lambda m: m.update(status="diverged"))
    assert fates(place)["fedgloss"] == "imported"


def test_an_outdated_run_of_ones_own_is_replaced_and_said_to_be(place, capsys, monkeypatch):
    shutil.copytree(place / "theirs" / RUN, place / "ours" / RUN)
    edit(place / "ours" / RUN / "manifest.json", settings(seed=7))
    monkeypatch.chdir(place)
    assert main(["import", "theirs", "study.yaml", "--results", "ours"]) == 0
    said = capsys.readouterr().err
    assert "fedgloss/seed-0: an outdated run was here, settings.seed is 7 in the run, 0" in said
    assert "shared: 2 imported" in said
    assert tree(place / "ours" / RUN) == tree(place / "theirs" / RUN)


@pytest.mark.parametrize("stale", [False, True])
def test_a_run_that_was_edited_by_hand_stays(stale, place):
    """Nobody has it elsewhere, be it of this study or of an earlier one."""
    shutil.copytree(place / "theirs" / RUN, place / "ours" / RUN)
    if stale:
        edit(place / "ours" / RUN / "manifest.json", lambda m: m.update(code="older"))
    (place / "ours" / RUN / "metrics.csv").write_text("mine")
    before = tree(place / "ours" / RUN)
    assert "whose metrics.csv was edited; remove it first" in fates(place)["fedgloss"]
    assert tree(place / "ours" / RUN) == before


def test_a_run_without_its_models_is_completed(place):
    shutil.copytree(place / "theirs" / RUN, place / "ours" / RUN)
    (place / "ours" / RUN / "final.safetensors").unlink()
    assert fates(place)["fedgloss"] == "replaced: final.safetensors is missing"
    assert tree(place / "ours" / RUN) == tree(place / "theirs" / RUN)


def test_runs_of_earlier_code_count_where_the_study_says_so(place):
    edit(place / "theirs" / RUN / "manifest.json", lambda m: m.update(code="0" * 64))
    assert "code is '0000" in fates(place)["fedgloss"]
    with open(place / "study.yaml", "a", encoding="utf-8") as study:
        study.write(f'\nsame_code: {{"{"0" * 64}": a comment was reworded}}\n')
    assert fates(place)["fedgloss"] == "imported"
    study = load_study(place / "study.yaml")
    manifest = read_json(place / "ours" / RUN / "manifest.json")
    cell = next(cell for cell in study.cells if cell.algorithm == "fedgloss")
    expected = Expectations(study, place / "ours")
    assert expected.fault(cell, manifest) is None
    assert "code differs" in expected.fault(cell, manifest | {"code": "1" * 64})


def settings(**changes):
    return lambda manifest: manifest["settings"].update(changes)


MANIFESTS = {
    "another hyperparameter": (
        lambda m: m["settings"]["hyperparameters"].update(rho=0.5),
        "settings.hyperparameters.rho is 0.5 in the run, 0.05 here",
    ),
    "another seed": (settings(seed=7), "settings.seed is 7 in the run, 0 here"),
    "one more setting": (settings(speed=None), "settings.speed is given in the run alone"),
    "one setting less": (
        lambda m: m["settings"].pop("weights"),
        "settings.weights is given here alone",
    ),
    "other code": (lambda m: m.update(code="0" * 64), "code is '0000"),
    "other data": (lambda m: m["inputs"].update(data="0"), "inputs.data is '0' in the run"),
    "another partition": (lambda m: m["inputs"].update(partition="0"), "inputs.partition is '0'"),
    "weights": (
        lambda m: m["inputs"].update(weights="0"),
        "inputs.weights is given in the run alone",
    ),
    "no inputs": (lambda m: m.pop("inputs"), "inputs is None in the run"),
    "an odd status": (lambda m: m.update(status="running"), "status is 'running'"),
    "no outputs": (lambda m: m.pop("outputs"), "not the manifest of a run"),
    "an output less": (lambda m: m["outputs"].pop("metrics.csv"), "does not list the files"),
    "a path outside": (lambda m: m["outputs"].update({"../../x": "0"}), "does not list the files"),
    "another hash": (lambda m: m["outputs"].update({"metrics.csv": "0"}), "metrics.csv is not the"),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_manifest_that_says_otherwise_is_refused(what, place):
    change, reason = MANIFESTS[what]
    edit(place / "theirs" / RUN / "manifest.json", change)
    before = tree(place / "ours")
    found = fates(place)
    assert found["fedavg"] == "imported" and reason in found["fedgloss"]
    shutil.rmtree(place / "ours/runs")
    assert tree(place / "ours") == before


FILES = {
    "a flipped bit": (flipped, "SHA-256"),
    "a missing file": (lambda file: file.unlink(), "missing"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "missing"),
    "a truncated file": (lambda file: file.write_bytes(file.read_bytes()[:-1]), "SHA-256"),
}


@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize("name", RUN_FILES)
def test_a_file_that_is_not_the_manifests_is_refused(what, name, place):
    harm, reason = FILES[what]
    harm(place / "theirs" / RUN / name)
    found = fates(place)["fedgloss"]
    assert found.startswith(name) and reason in found
    assert not (place / "ours" / RUN).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"outputs": 5}'])
def test_a_manifest_that_is_none_is_refused(text, place):
    (place / "theirs" / RUN / "manifest.json").write_text(text)
    assert "manifest" in fates(place)["fedgloss"]
    assert not (place / "ours" / RUN).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"outputs": 5}'])
def test_a_run_of_ones_own_with_no_manifest_to_speak_of_is_replaced(text, place):
    shutil.copytree(place / "theirs" / RUN, place / "ours" / RUN)
    (place / "ours" / RUN / "manifest.json").write_text(text)
    found = fates(place)["fedgloss"]
    assert found.startswith("replaced: ") and "manifest" in found
    assert tree(place / "ours" / RUN) == tree(place / "theirs" / RUN)


def test_what_differs_here_is_refused_too(place):
    """The study, the code, the data or the partition of this place are others."""
    edit(place / "ours" / PARTITION, lambda record: record.update(seed=1))
    assert all("inputs.partition" in fate for fate in fates(place).values())
    (place / "ours" / PARTITION).unlink()
    assert all("partition.json is not here yet" in fate for fate in fates(place).values())
    edit(place / "ours/data/digits/manifest.json", lambda record: record.update(sha256="0"))
    shutil.copy(place / "theirs" / PARTITION, place / "ours" / PARTITION)
    assert all("inputs.data" in fate for fate in fates(place).values())
    assert not (place / "ours/runs").exists()


def test_runs_on_data_of_the_studys_own_are_looked_for_where_these_lie(place):
    """Nothing is taken over that was trained on what is called `digits` elsewhere."""
    own = "{source: digits, partition: {scheme: iid, clients: 50}}"
    file = place / "study.yaml"
    file.write_text(STUDY.replace("grid:", f"datasets: {{digits: {own}}}\ngrid:"), encoding="utf-8")
    assert all(
        "partitions/digits+" in fate and "not here yet" in fate for fate in fates(place).values()
    )


def test_another_constant_of_the_study_refuses_its_own_cells_alone(place):
    file = place / "study.yaml"
    file.write_text(STUDY.replace("rho: 0.05", "rho: 0.5"), encoding="utf-8")
    found = fates(place)
    assert found["fedavg"] == "imported" and "rho is 0.05 in the run, 0.5 here" in found["fedgloss"]


def test_an_edited_method_refuses_its_runs(place, monkeypatch):
    def edited(method, *rest):
        return "edited" if method == "fedgloss" else of_training(method, *rest)

    monkeypatch.setattr(fingerprint, "of_training", edited)
    found = fates(place)
    assert found["fedavg"] == "imported" and "in the run, 'edited' here" in found["fedgloss"]


def test_a_copy_that_went_wrong_has_no_manifest(place, monkeypatch):
    shutil.copytree(place / "theirs" / RUN, place / "ours" / RUN)
    edit(place / "ours" / RUN / "manifest.json", lambda m: m.update(code="older"))
    copyfile = shutil.copyfile

    def harmed(source, target):
        copyfile(source, target)
        if source.name == "average.safetensors":
            flipped(target)

    monkeypatch.setattr(shutil, "copyfile", harmed)
    assert all("changed while it was copied" in fate for fate in fates(place).values())
    assert not [*(place / "ours").rglob("runs/**/manifest.json")]
    assert not [*(place / "ours").rglob("*.tmp")]


def test_the_command_prints_targets_and_refusals_apart(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    flipped(place / "theirs" / RUN / "metrics.csv")
    assert main(["import", "theirs", "study.yaml", "--results", "ours"]) == 0
    shown = capsys.readouterr()
    fedavg = "digits/alpha-0/smallcnn/fedavg/seed-0"
    assert shown.out == f"ours/runs/shared/{fedavg}/metrics.csv\n"
    assert f"refused: {fedavg.replace('fedavg', 'fedgloss')}: metrics.csv is not" in shown.err
    assert "shared: 1 imported, 0 here already, 0 not there, 1 refused" in shown.err


def test_a_folder_without_the_study_is_refused(place, tmp_path):
    study = load_study(place / "study.yaml")
    with refused("elsewhere", "no runs of the study 'shared'"):
        (tmp_path / "elsewhere").mkdir()
        next(import_runs(study, tmp_path / "elsewhere", place / "ours"))
    with refused("nowhere", "no such archive or results folder"):
        next(import_runs(study, tmp_path / "nowhere", place / "ours"))
