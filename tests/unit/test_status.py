"""`fedgloss status`: what of a study is done, outdated, running, interrupted or missing."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedgloss.cli import main
from fedgloss.files import sha256
from fedgloss.study.layout import RUN_FILES
from fedgloss.study.status import States
from fedgloss.study.study import load_study
from fedgloss.tensors import save_tensors

ROOT = Path(__file__).resolve().parents[2]
SMOKE = str(ROOT / "config" / "smoke.yaml")


class Looked:
    """The smoke study, and a results folder that runs are put into by hand."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys, self.study = folder, capsys, load_study(SMOKE)

    def run(self, number, status="completed", change=lambda manifest: None):
        """What a cell's run leaves, its manifest as it would be but for a change; its folder."""
        cell = self.study.cells[number]
        files = [self.write(f"runs/smoke/{cell}/{name}", name) for name in RUN_FILES]
        manifest = {"status": status, "settings": self.study.settings(cell).to_json()}
        manifest["code"] = self.study.code(cell.algorithm, cell.model)
        manifest["inputs"] = {"data": "da7a", "partition": "c0de", "weights": "5eed"}
        manifest["outputs"] = {file.name: sha256(file) for file in files}
        manifest = json.loads(json.dumps(manifest))
        change(manifest)
        return self.write(f"runs/smoke/{cell}/manifest.json", json.dumps(manifest)).parent

    def write(self, name, text):
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def begun(self, number, owner=None, checkpoint=True):
        """What a trainer leaves while it runs: the folder's owner, and checkpoints."""
        name = f"checkpoints/smoke/{self.study.cells[number]}"
        written = [self.write(f"{name}.owner", owner)] if owner else []
        if checkpoint:
            written.append(self.write(f"{name}/round-0000003.safetensors", ""))
        return written

    def __call__(self, config=SMOKE):
        assert main(["status", str(config), "--results", str(self.folder)]) == 0
        return self.capsys.readouterr().out


@pytest.fixture
def looked(tmp_path, capsys):
    return Looked(tmp_path, capsys)


def test_status_tells_the_states_apart(looked):
    looked.run(0)
    looked.run(1, "diverged")
    looked.run(2, change=lambda manifest: manifest["settings"]["training"].update(rounds=7))
    text = looked()
    for words in ("1 done", "1 diverged", "1 outdated", "0 running", "1 missing", "4 cells"):
        assert words in text
    for marks in ("0 ✓", "1 ✗", "0 ≠", "1 ·"):
        assert marks in text


CHANGES = {
    "a hyperparameter": (
        lambda m: m["settings"]["hyperparameters"].update(rho=9),
        "settings.hyperparameters.rho is 9 in the run, 0.05 here",
    ),
    "a variant": (lambda m: m["settings"]["variants"].update(deviation="x"), "variants.deviation"),
    "the learning rate": (lambda m: m["settings"]["training"].update(lr=9), "training.lr is 9"),
    "the precision": (lambda m: m["settings"].update(precision="tf32"), "precision is 'tf32'"),
    "the partition's seed": (lambda m: m["settings"]["partition"].update(seed=1), "partition.seed"),
    "the data": (lambda m: m["settings"]["data"].update(images="official_overlap"), "data.images"),
    "the weights": (lambda m: m["settings"].update(weights="5eed"), "settings.weights"),
    "the method": (lambda m: m["settings"].update(method="fedavg"), "settings.method"),
    "an older version": (lambda m: m["settings"].pop("data"), "settings.data is given here alone"),
    "the code": (lambda m: m.update(code="c0de"), "its code differs"),
    "no code": (lambda m: m.pop("code"), "its code differs"),
    "no settings": (lambda m: m.pop("settings"), "settings is None in the run"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_run_with_other_settings_is_outdated_and_status_says_what_differs(what, looked):
    change, reason = CHANGES[what]
    looked.run(3, change=change)
    text = looked()
    assert "1 outdated" in text and "0 done" in text
    assert f"outdated: {looked.study.cells[3]}: " in text and reason in text


def test_a_number_written_otherwise_is_not_outdated(looked):
    looked.run(3, change=lambda m: m["settings"]["training"].update(rounds=6.0))
    assert "1 done" in looked()


def test_a_run_on_other_data_or_another_partition_is_outdated(looked):
    for number in range(4):
        looked.run(number)
    assert "4 done" in looked(), "where data and partition are not at hand, nothing is said"
    data = looked.write("data/digits/manifest.json", '{"sha256": "da7a"}')
    assert "4 done" in looked()
    data.write_text('{"sha256": "other"}')
    assert "4 outdated" in looked()
    data.write_text('{"sha256": "da7a"}')
    partition = looked.write("partitions/digits/alpha-0/partition.json", "another one")
    text = looked()
    assert "4 outdated" in text and "inputs.partition is 'c0de' in the run" in text
    assert text.count("outdated:") == 1 and "(and 3 more)" in text
    partition.unlink()
    assert "4 done" in looked()


HELPED = """from helper import scale
from fedgloss.algorithms.averaging import fedavg
"""


def test_an_edit_of_what_a_method_of_ones_own_imports_outdates_its_runs(tmp_path):
    """The method's own file is as it was; in new processes, since modules are read once in each."""
    (tmp_path / "meth.py").write_text(HELPED)
    helper = tmp_path / "helper.py"
    helper.write_text("scale = 1.0\n")
    config = {"study": "own", "seeds": [0], "algorithms": {"mine": {"method": "meth:fedavg"}}}
    row = {"dataset": "digits", "alphas": ["0"], "model": "smallcnn"}
    config["grid"] = [{**row, "algorithms": ["fedavg", "mine"]}]
    (tmp_path / "own.yaml").write_text(json.dumps(config))
    train = """if True:
        import sys, json
        from fedgloss.study.layout import RUN_FILES
        from fedgloss.files import sha256
        from fedgloss.study.study import load_study
        from pathlib import Path
        study = load_study("own.yaml")
        for cell in study.cells:
            run = Path("results/runs/own", str(cell))
            run.mkdir(parents=True)
            [(run / name).touch() for name in RUN_FILES]
            manifest = {"status": "completed", "inputs": {}}
            manifest["settings"] = study.settings(cell).to_json()
            manifest["code"] = study.code(cell.algorithm, cell.model)
            manifest["outputs"] = {name: sha256(run / name) for name in RUN_FILES}
            (run / "manifest.json").write_text(json.dumps(manifest))
        """
    look = """if True:
        import sys
        from fedgloss.cli import main
        main(["status", "own.yaml"])
        assert "torch" not in sys.modules
        """

    def done(program):
        shown = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{tmp_path}"},
        )
        assert shown.returncode == 0, shown.stderr
        return shown.stdout

    done(train)
    assert "2 done" in done(look)
    helper.write_text("# A comment.\nscale = 1.0\n")
    assert "2 done" in done(look)
    helper.write_text("scale = 2.0\n")
    text = done(look)
    assert "1 done" in text and "1 outdated" in text
    assert "outdated: digits/alpha-0/smallcnn/mine/seed-0: its code differs" in text


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_run_that_lost_a_file_is_not_done(name, looked):
    (looked.run(0) / name).unlink()
    text = looked()
    assert "0 done" in text and "1 outdated" in text
    assert f"outdated: {looked.study.cells[0]}: {name} is gone" in text


def test_a_run_without_any_models_is_done_for_what_needs_none(looked):
    """As an archive brings it. Eigenvalues that came with it need no model any more."""
    for run in (looked.run(0), looked.run(1, "diverged")):
        for name in RUN_FILES[1:]:
            (run / name).unlink()
    text = looked()
    assert "0 ○  1 ✗" in text
    assert "0 done ✓, 1 diverged ✗, 0 outdated" in text and ", 1 without models ○" in text
    assert "without models: done for tables and curves; a cell is trained again only where" in text
    assert "3 cells to train, 4 Hessians" in text, "its eigenvalues are not there"
    asked = looked.study.hessian
    measured = {"eigenvalues": [1.0] * asked.count}
    measured |= {f"lambda1_{name}_model": 1.0 for name in asked.models[1:]}
    looked.write(f"analysis/smoke/{looked.study.cells[0]}/hessian.json", json.dumps(measured))
    assert "2 cells to train, 3 Hessians" in looked()


def test_nor_is_one_whose_metrics_were_harmed(looked):
    (looked.run(0) / "metrics.csv").write_text("metrics")
    text = looked()
    assert "0 done" in text and "metrics.csv has changed since it was written" in text


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": "running"}'])
def test_a_run_with_a_broken_manifest_is_outdated_and_named_with_what_to_do(text, looked):
    looked.run(1)
    (looked.run(0) / "manifest.json").write_text(text)
    shown = looked()
    assert "1 done" in shown and "1 outdated" in shown and "0 ≠  1 ✓" in shown
    assert f"outdated: {looked.study.cells[0]}: manifest.json: " in shown
    assert "; delete its folder, or run the cell again with snakemake --force" in shown


FOREIGN = {
    "settings": lambda identity: identity["settings"]["training"].update(lr=9),
    "code": lambda identity: identity.update(code="c0de"),
    "data": lambda identity: identity.update(data="other"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_checkpoint_that_training_will_pass_over_interrupts_nothing(what, looked):
    looked.write("data/digits/manifest.json", '{"sha256": "da7a"}')
    for number in (0, 1):
        cell = looked.study.cells[number]
        identity = {
            "settings": looked.study.settings(cell).to_json(),
            "data": "da7a",
            "partition": "c0de",
        }
        identity["code"] = looked.study.code(cell.algorithm, cell.model)
        identity = json.loads(json.dumps({**identity, "device": "cpu"}))
        if number:
            FOREIGN[what](identity)
        (file,) = looked.begun(number)
        save_tensors(file, {"w": torch.zeros(3)}, {"identity": json.dumps(identity)})
        os.utime(file, (0, 0))
    states = States(looked.study, looked.folder)
    assert [states.of(cell) for cell in looked.study.cells[:2]] == ["interrupted", "missing"]
    assert [states.rounds(cell) for cell in looked.study.cells[:2]] == [3, 0]


def test_an_interrupted_run_is_not_called_running(looked):
    """The owner of the checkpoints is a process that is no more, on this machine or another."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = platform.node()
    looked.begun(0, f"{ended.pid} on {here} (5eed)")
    for file in looked.begun(1, "1 on elsewhere (5eed)"):
        os.utime(file, (0, 0))
    looked.begun(2, f"{os.getpid()} on {here} (5eed)", checkpoint=False)
    looked.begun(3, "1 on elsewhere (5eed)")  # it wrote just now
    text = looked()
    assert "2 running" in text and "2 interrupted" in text
    assert "0 !  1 !" in text and "0 …  1 …" in text


def test_what_began_and_kept_nothing_is_missing(looked):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    looked.begun(0, f"{ended.pid} on {platform.node()} (5eed)", checkpoint=False)
    (looked.folder / "checkpoints" / "smoke" / str(looked.study.cells[1])).mkdir(parents=True)
    text = looked()
    assert "0 running" in text and "1 interrupted" in text and "3 missing" in text


def test_watching_shows_each_change_once_and_ends_when_all_is_done(looked, monkeypatch):
    looked.run(0)
    looks = iter([lambda: None, lambda: looked.run(1), *[lambda: None] * 3])

    def sleep(seconds):
        assert seconds == 2
        if (look := next(looks, None)) is None:
            raise KeyboardInterrupt  # as a person would, since the study is not done
        look()

    monkeypatch.setattr("time.sleep", sleep)
    arguments = ["status", SMOKE, "--results", str(looked.folder), "--watch", "--every", "2"]
    assert main(arguments) == 0
    shown = looked.capsys.readouterr().out
    assert shown.count("alpha") == 2 * looked().count("alpha")  # two states, and no third look
    assert "\x1b" not in shown  # no terminal
