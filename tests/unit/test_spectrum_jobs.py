"""What the jobs of a run's spectrum write: methods, images, errors, and the local models."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from cells import cell_settings, prepare_inputs, train_cell
from fedgloss.data.dataset import load
from fedgloss.data.partition.partition import load_partition
from fedgloss.files import read_json, sha256, write_json
from fedgloss.jobs.measured import training_objective
from fedgloss.jobs.spectrum import hessian, locals_of_last_round
from fedgloss.progress import Products
from fedgloss.sharpness.eigenvalues import top_eigenvalues
from fedgloss.study.jobfile import HessianJob, LocalsJob
from refusal import refused


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Where a small run's files are, and what it left."""
    folder = tmp_path_factory.mktemp("run")
    inputs = prepare_inputs(folder)
    settings = cell_settings(rounds=4, last=2, evaluate_every=2)
    result = train_cell(settings, **inputs, out=folder / "run", code="code", device="cpu")
    return {**inputs, "run": folder / "run"}, result


def hessian_of(run, tmp_path, **asked):
    job = HessianJob(
        **run[0],
        out=tmp_path / "hessian.json",
        choices=("paper",),
        count=2,
        models=("average",),
        method="lanczos",
        images="all",
        trace=None,
        density=None,
    )
    hessian(replace(job, **asked), "cpu")
    return json.loads((tmp_path / "hessian.json").read_text())


def locals_of(run, tmp_path, **asked):
    job = LocalsJob(**run[0], out=tmp_path / "locals.json", method="lanczos", images="all")
    locals_of_last_round(replace(job, **asked), "cpu")
    return json.loads((tmp_path / "locals.json").read_text())


def test_the_methods_agree_and_the_file_names_the_one_that_was_asked_for(run, tmp_path):
    found = {
        name: hessian_of(run, tmp_path, method=name, count=1, images=200)
        for name in ("lanczos", "eigsh", "pyhessian")
    }
    for name, record in found.items():
        assert (record["method"], record["converged"]) == (name, True)
        assert record["eigenvalues"] == pytest.approx(found["lanczos"]["eigenvalues"], rel=0.01)


def test_all_images_have_no_sampling_error_and_are_counted(run, tmp_path):
    record = hessian_of(run, tmp_path)
    images = sum(map(len, load_partition(run[0]["partition"]).clients))
    assert record["images"] == "all"
    assert record["samples"] == record["population"] == images
    assert record["sampling_error"] == 0
    assert "elsewhere" not in record


def test_a_small_subsets_own_direction_is_sharper_there_than_elsewhere(run, tmp_path):
    """That is why lambda_1 of a few images is too large."""
    whole = hessian_of(run, tmp_path)
    for images in (20, 60):
        part = hessian_of(run, tmp_path, images=images)
        assert part["elsewhere"]["samples"] == images
        assert part["elsewhere"]["curvature"] < part["lambda1"]
        assert whole["lambda1"] < part["lambda1"]
    large = hessian_of(run, tmp_path, images=whole["samples"] - 100)
    assert large["elsewhere"]["samples"] == 100


def test_a_subset_is_stated_with_its_error_which_holds_what_all_images_give(run, tmp_path):
    whole = hessian_of(run, tmp_path)
    part = hessian_of(run, tmp_path, images=500)
    assert (part["images"], part["samples"]) == (500, 500)
    assert part["population"] == whole["samples"]
    assert 0 < part["sampling_error"] < 0.2 * part["lambda1"]
    assert abs(part["lambda1"] - whole["lambda1"]) < 4 * part["sampling_error"]
    assert hessian_of(run, tmp_path, images=500) == part, "the subset follows from a seed"


def test_auto_takes_all_of_a_small_data_set(run, tmp_path):
    record = hessian_of(run, tmp_path, images="auto")
    assert record["samples"] == record["population"] and record["images"] == "auto"


def test_on_a_processor_auto_takes_a_part_of_a_large_one(run, tmp_path, monkeypatch):
    monkeypatch.setattr("fedgloss.jobs.measured.AUTO", 300)
    assert hessian_of(run, tmp_path, images="auto")["samples"] == 300


def test_both_choices_stand_side_by_side_the_first_on_top(run, tmp_path):
    both = hessian_of(run, tmp_path, choices=("paper", "official_code"))
    alone = [hessian_of(run, tmp_path, choices=(name,)) for name in ("paper", "official_code")]
    asked = {"status", "data", "model", "method", "images", "sha256"}
    assert both["data"] == "paper" and both["lambda1"] == alone[0]["lambda1"]
    assert both["official_code"] == {k: v for k, v in alone[1].items() if k not in asked}
    assert both["official_code"]["samples"] == len(load(run[0]["data"]).test_labels)


def test_trace_and_density_are_written_with_their_errors(run, tmp_path):
    record = hessian_of(run, tmp_path, trace=30, density={"starts": 3, "steps": 10})
    trace, density = record["trace"], record["density"]
    assert trace["products"] <= 30 and 0 < trace["standard_error"] < trace["interval"]
    assert trace["trace"] > record["lambda1"]
    assert len(density["nodes"]) == len(density["weights"]) == 3
    assert sum(density["weights"][0]) == pytest.approx(1)
    assert max(max(nodes) for nodes in density["nodes"]) <= record["lambda1"] * 1.001


def test_each_local_model_is_measured_on_its_own_data_and_on_all(run, tmp_path):
    record = locals_of(run, tmp_path)
    where, result = run
    dataset, parts = load(where["data"]), load_partition(where["partition"]).clients
    assert [row["client"] for row in record["locals"]] == list(result.participants)
    for row, w in zip(record["locals"], result.locals, strict=True):
        index = parts[row["client"]]
        for key, images in (("local", index), ("global", torch.cat(parts).sort().values)):
            objective = training_objective(dataset, result.model, images, torch.device("cpu"))
            expected = top_eigenvalues(objective, w, count=1).eigenvalues[0]
            assert row[key]["lambda1"] == pytest.approx(expected, rel=1e-4)
            assert row[key]["converged"] and row[key]["sampling_error"] == 0
        labels = dataset.train_labels[index]
        majority = int(labels.bincount().argmax())
        assert row["class"] == dataset.classes[majority]
        assert row["share"] == pytest.approx(float((labels == majority).double().mean()))
        assert row["images"] == len(index)


def test_of_all_data_local_models_take_the_subset_that_is_stated(run, tmp_path):
    record = locals_of(run, tmp_path, images=400)
    assert record["samples"] == 400 < record["population"]
    assert all(row["global"]["sampling_error"] > 0 for row in record["locals"])
    assert all(row["local"]["sampling_error"] == 0 for row in record["locals"])


def test_a_diverged_run_has_no_local_spectrum(run, tmp_path):
    manifest = json.loads((run[0]["run"] / "manifest.json").read_text())
    write_json(tmp_path / "run" / "manifest.json", {**manifest, "status": "diverged"})
    other = ({**run[0], "run": tmp_path / "run"}, None)
    assert locals_of(other, tmp_path)["locals"] == []
    assert hessian_of(other, tmp_path)["lambda1"] is None


def test_what_is_measured_is_known_by_the_hash_of_the_models(run, tmp_path):
    folder = run[0]["run"]
    assert locals_of(run, tmp_path)["sha256"] == [sha256(folder / "locals.safetensors")]
    both = hessian_of(run, tmp_path, count=1, models=("final", "average"))
    names = ("final.safetensors", "average.safetensors")
    assert both["sha256"] == [sha256(folder / name) for name in names]


def test_a_model_that_is_not_the_runs_is_refused(run, tmp_path):
    """An import, or a hand, may have left another run's beside the manifest."""
    folder = shutil.copytree(run[0]["run"], tmp_path / "run")
    shutil.copy(folder / "final.safetensors", folder / "average.safetensors")
    other = ({**run[0], "run": folder}, None)
    with refused("run/average.safetensors: is not the file that manifest.json describes"):
        hessian_of(other, tmp_path)


def test_local_models_of_another_kind_are_refused(run, tmp_path):
    from fedgloss.tensors import load_tensors, save_tensors

    folder = tmp_path / "run"
    folder.mkdir()
    manifest = read_json(run[0]["run"] / "manifest.json")
    tensors = load_tensors(run[0]["run"] / "locals.safetensors")
    other = ({**run[0], "run": folder}, None)

    def written(changed):
        save_tensors(folder / "locals.safetensors", changed)
        manifest["outputs"]["locals.safetensors"] = sha256(folder / "locals.safetensors")
        write_json(folder / "manifest.json", manifest)

    for changed, words in (
        ({key: t for key, t in tensors.items() if key != "clients"}, "participants"),
        ({key: t[:, :1] if t.dim() > 1 else t for key, t in tensors.items()}, "this model"),
    ):
        written(changed)
        with refused("locals.safetensors: does not hold the", words):
            locals_of(other, tmp_path)
    broken = {key: t * np.nan if key != "clients" else t for key, t in tensors.items()}
    written(broken)
    with refused("locals.safetensors", "NaN or infinite"):
        locals_of(other, tmp_path)


def test_a_log_says_at_once_what_is_computed_and_then_how_far_it_is(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    watch = Products("seed-0: average model", 150)
    for n in range(1, 5):
        now += 20.0
        watch(n, "λ₁ 3.1")
    assert capsys.readouterr().err.splitlines() == [
        "seed-0: average model: begun",
        "seed-0: average model: product 2 of 150 at most  λ₁ 3.1  49:20 left at most",
        "seed-0: average model: product 4 of 150 at most  λ₁ 3.1  48:40 left at most",
    ]
