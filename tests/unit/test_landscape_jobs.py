"""Surfaces and lines as jobs: of which model, on which data; a killed job goes on."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from cells import cell_settings, job_file, prepare_inputs, train_cell
from fedgloss.cli import main
from fedgloss.data.augment import normalize
from fedgloss.data.dataset import load
from fedgloss.data.partition.partition import load_partition
from fedgloss.engine.flat import parameter_shapes
from fedgloss.engine.start import initial_model
from fedgloss.files import read_json, sha256
from fedgloss.sharpness.objective import Objective
from fedgloss.tensors import load_tensors

Rows = list[dict[str, float]]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Path]:
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def run(inputs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train_cell(cell_settings(keep=[8]), **inputs, out=out, code="code", device="cpu")
    return out


@pytest.fixture
def made(inputs, run, tmp_path):
    """Run a job, and read what it made: the rows, and what they are of."""

    def make(kind: str = "landscape", name: str = "out", **entries) -> tuple[Rows, dict]:
        out = tmp_path / f"{name}.csv"
        job = job_file(tmp_path / "job.json", kind, run=run, **inputs, out=out, **entries)
        assert main([kind, job, "--device", "cpu"]) == 0
        with open(out, newline="") as file:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        return rows, read_json(out.with_suffix(".json"))

    return make


def loss_of(inputs, tensors: dict[str, torch.Tensor], indices: torch.Tensor) -> float:
    """The mean loss of a model over training images, by PyTorch itself."""
    data = load(inputs["data"])
    model = initial_model("smallcnn", data, 0)
    model.load_state_dict(tensors)
    images = normalize(data.train_images[indices], data.mean, data.std, torch.float32)
    with torch.no_grad():
        return cross_entropy(model(images), data.train_labels[indices]).item()


def middle(rows: Rows) -> float:
    return next(row["loss"] for row in rows if row["x"] == row["y"] == 0)


@pytest.mark.parametrize("name", ["average", "final"])
def test_the_centre_is_the_models_loss_over_all_training_images(name, made, inputs, run) -> None:
    rows, facts = made(points=3, model=name)
    everyone = torch.cat(load_partition(inputs["partition"]).clients)
    expected = loss_of(inputs, load_tensors(run / f"{name}.safetensors"), everyone)
    assert middle(rows) == pytest.approx(expected, rel=1e-5)
    assert facts == {
        "status": "completed",
        "model": name,
        "data": "all",
        "sha256": [sha256(run / f"{name}.safetensors")],
        "images": len(everyone),
        "of": len(everyone),
    }


@pytest.mark.parametrize("on", ["own", "all"])
@pytest.mark.parametrize("place", [1, 3])
def test_a_local_model_is_seen_on_its_clients_data_and_on_all(on, place, made, inputs, run) -> None:
    local = load_tensors(run / "locals.safetensors")
    client, data = int(local.pop("clients")[place - 1]), load(inputs["data"])
    held = load_partition(inputs["partition"]).clients
    rows, facts = made(points=3, model=f"local-{place}", on=on)
    tensors = {key.removeprefix("model."): stacked[place - 1] for key, stacked in local.items()}
    seen = held[client] if on == "own" else torch.cat(held)
    assert middle(rows) == pytest.approx(loss_of(inputs, tensors, seen), rel=1e-5)
    (label,) = data.train_labels[held[client]].unique()  # at alpha 0 a client has one class
    assert (facts["client"], facts["class"]) == (client, data.classes[label])
    assert facts["images"] == len(seen)


@pytest.mark.parametrize("start", ["average", "round-8"])
def test_the_line_ends_at_the_models_losses(start, made, run, inputs) -> None:
    rows, facts = made("line", other_run=run, points=5, model=start)
    assert facts["sha256"] == [sha256(run / f"{name}.safetensors") for name in (start, "final")]
    data, w = load(inputs["data"]), {}
    held = torch.cat(load_partition(inputs["partition"]).clients).sort().values
    model = initial_model("smallcnn", data, 0)
    for t, name in ((0, start), (1, "final")):
        tensors = load_tensors(run / f"{name}.safetensors")
        w[t] = torch.cat([tensors[key].reshape(-1) for key in parameter_shapes(model)])
    images = normalize(data.train_images[held], data.mean, data.std, torch.float32)
    objective = Objective(model, images, data.train_labels[held])
    for t in (0, 1):
        (row,) = [row for row in rows if row["t"] == t]
        assert (row["loss"], row["accuracy"]) == objective.loss(w[t])
    assert [row["t"] for row in rows] == [i / 4 for i in range(-1, 6)]


def test_fewer_images_are_a_balanced_draw_that_is_stated(made) -> None:
    rows, facts = made(points=3, images=100)
    again, _ = made(points=3, images=100)
    whole, _ = made(points=3, images="all")
    assert (facts["images"], facts["of"]) == (100, 1400)
    assert rows == again and middle(rows) != middle(whole)
    assert middle(rows) == pytest.approx(middle(whole), rel=0.3)


def test_a_processor_takes_fewer_images_where_it_is_left_to_the_machine(made, monkeypatch) -> None:
    monkeypatch.setattr("fedgloss.jobs.measured.AUTO", 50)
    assert made(points=2, images="auto")[1]["images"] == 50
    assert made(points=2, images="all")[1]["images"] == 1400


def test_a_processor_is_given_few_images_at_once(made, monkeypatch) -> None:
    """Which changes nothing but rounding."""
    passes, loss = set(), Objective.loss
    monkeypatch.setattr(
        Objective, "loss", lambda self, w: passes.add(self.batch_size) or loss(self, w)
    )
    whole, _ = made(points=3)
    monkeypatch.setattr("fedgloss.jobs.landscape.PASS", 300 * 4 * 64)  # 8 x 8 floats
    few, _ = made(points=3)
    assert passes == {2000, 300}
    for one, other in zip(whole, few, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("kind", ["landscape", "line"])
def test_a_killed_job_goes_on_to_the_same_bytes(kind, made, run, tmp_path, monkeypatch) -> None:
    more = {"other_run": run} if kind == "line" else {}
    made(kind, "whole", points=5, **more)
    evaluated, loss = [], Objective.loss
    die = True

    def counted(self, w):
        if die and len(evaluated) == 4:
            raise KeyboardInterrupt
        evaluated.append(w)
        return loss(self, w)

    monkeypatch.setattr(Objective, "loss", counted)
    with pytest.raises(KeyboardInterrupt):
        made(kind, "killed", points=5, **more)
    (kept,) = tmp_path.glob(".*.kept")
    with open(kept, "a") as file:
        file.write("[4, 1.5, ")  # the line that was being written
    die = False
    made(kind, "killed", points=5, **more)
    assert len(evaluated) == (25 if kind == "landscape" else 7)
    whole, killed = (tmp_path / f"{name}.csv" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    assert not [*tmp_path.glob(".*")]


@pytest.mark.slow
def test_a_job_that_is_killed_without_warning_goes_on_to_the_same_bytes(
    made, inputs, run, tmp_path, monkeypatch
) -> None:
    """SIGKILL, after which nothing of the process runs any more."""
    out, points = tmp_path / "killed.csv", 25
    made(name="whole", points=points)
    job = job_file(tmp_path / "killed.json", "landscape", run=run, **inputs, out=out, points=points)
    kept = tmp_path / ".killed.csv.kept"
    command = [sys.executable, "-m", "fedgloss", "landscape", job, "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and (not kept.exists() or kept.read_text().count("\n") < 9):
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL and not out.exists()
    values = kept.read_text().count("\n") - 1  # below the line that says what they are of
    evaluated, loss = [], Objective.loss
    monkeypatch.setattr(Objective, "loss", lambda self, w: evaluated.append(w) or loss(self, w))
    made(name="killed", points=points)
    assert 8 <= values < points**2 and len(evaluated) == points**2 - values
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_what_another_job_has_kept_is_not_used(made, tmp_path, monkeypatch) -> None:
    rows, _ = made(points=3, extent=0.5)
    kept = tmp_path / ".out.csv.kept"
    kept.write_text(json.dumps({"extent": 1.0}) + "\n[0, 7.0, 7.0]\n")
    assert made(points=3, extent=0.5)[0] == rows


def test_a_job_says_how_far_it_is(made, capsys) -> None:
    made(points=3)
    said = capsys.readouterr().err
    assert "point 9 of 9" in said and "points/s" in said


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"model": "local-4"}, ["locals.safetensors", "local-4", "local-1 to local-3"]),
        ({"model": "local-0"}, ["job.json: model", "local-1"]),
        ({"model": "round-7"}, ["round-7.safetensors"]),
        ({"model": "average", "on": "own"}, ["average", "no data of its own"]),
        ({"on": "some"}, ["job.json: on", "all, own"]),
        ({"images": 0}, ["job.json: images", "at least 1"]),
    ],
    ids=str,
)
def test_what_a_run_does_not_have_is_refused(entries, words, inputs, run, tmp_path, capsys) -> None:
    out = tmp_path / "out.csv"
    job = job_file(tmp_path / "job.json", "landscape", run=run, **inputs, out=out, **entries)
    assert main(["landscape", job, "--device", "cpu"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert all(word in said for word in words), said
    assert not out.exists()
