"""One training run from files to files: what it writes, what it refuses, what it needs."""

import csv
import io
import json
import math
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alone import without_other_packages
from cells import (
    OUTPUTS,
    cell_settings,
    contents,
    job_file,
    prepare_inputs,
    train_cell,
    tree,
)
from fedgloss.cli import main
from fedgloss.data.dataset import load
from fedgloss.engine.start import initial_model
from fedgloss.errors import InputError
from fedgloss.files import read_json, sha256
from fedgloss.jobs.results import mean_accuracy
from fedgloss.study.settings import Settings
from fedgloss.tensors import load_metadata, load_tensors, save_tensors
from refusal import refused


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def run(inputs):
    def run(out, given, **options):
        where = {**inputs, "out": out, "code": "code", "device": "cpu"}
        return train_cell(given, **{**where, **options})

    return run


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """A finished cell: its folder and settings."""
    out, given = tmp_path_factory.mktemp("trained") / "cell", cell_settings()
    run(out, given)
    return out, given


def rows(folder):
    text = (folder / "metrics.csv").read_text(encoding="utf-8")
    return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(io.StringIO(text))]


def test_a_run_leaves_its_results_and_nothing_else(trained):
    out, _ = trained
    assert sorted(os.listdir(out)) == sorted([*OUTPUTS, "manifest.json"])


def test_metrics_have_a_row_for_each_evaluated_round(trained):
    """Every third round, and each of the last four."""
    out, _ = trained
    assert [row["round"] for row in rows(out)] == [3, 6, 9, 10, 11, 12]
    assert all(math.isfinite(value) for row in rows(out) for value in row.values())
    assert (out / "metrics.csv").read_bytes().count(b"\r") == 0


def test_an_accuracy_is_the_mean_of_the_evaluated_rounds_among_the_last():
    evaluated = [{"round": t, "accuracy": float(t)} for t in (2, 4, 6, 8, 10, 12)]
    run = SimpleNamespace(metrics=evaluated, diverged_in=None)
    assert mean_accuracy(run, until=12, last=4) == 11.0  # of rounds 9 to 12
    assert mean_accuracy(run, until=6, last=4) == 5.0
    assert mean_accuracy(run, until=1, last=1) is None
    assert mean_accuracy(SimpleNamespace(metrics=evaluated, diverged_in=13), 12, 4) is None


def test_the_manifest_says_what_was_run_and_what_came_out(trained, inputs):
    out, given = trained
    manifest = read_json(out / "manifest.json")
    assert manifest["settings"] == given
    assert (manifest["status"], manifest["diverged_in"]) == ("completed", None)
    assert manifest["outputs"] == {name: sha256(out / name) for name in OUTPUTS}
    data, partition = (
        sha256(path) for path in (inputs["data"] / "data.safetensors", inputs["partition"])
    )
    assert manifest["inputs"] == {"data": data, "partition": partition}
    last = [row["accuracy"] for row in rows(out) if row["round"] > 8]
    assert manifest["accuracy"] == pytest.approx(sum(last) / 4)
    by_class = manifest["accuracy_by_class"]
    labels = load(inputs["data"]).test_labels
    share = [float((labels == k).float().mean()) for k in range(10)]
    of_all = sum(a * p for a, p in zip(by_class, share, strict=True))
    assert of_all == pytest.approx(rows(out)[-1]["accuracy"])
    half = [row["accuracy"] for row in rows(out) if 2 < row["round"] <= 6]
    assert manifest["accuracy_at_half"] == pytest.approx(sum(half) / 2)
    assert manifest["parameters"] == sum(
        t.numel() for t in load_tensors(out / "final.safetensors").values()
    )
    # A message each way for each client: w, and FedGloSS sends nothing more (paper, Table 2).
    assert manifest["bytes_down"] == manifest["bytes_up"] == 12 * 3 * 4 * manifest["parameters"]
    assert manifest["code"] == "code" and manifest["device"] == "cpu"


def test_models_have_the_parameters_names_and_shapes(trained, inputs):
    out, given = trained
    expected = dict(initial_model("smallcnn", load(inputs["data"]), 0).named_parameters())
    for name in ("final", "average"):
        tensors = load_tensors(out / f"{name}.safetensors")
        assert {k: t.shape for k, t in tensors.items()} == {k: t.shape for k, t in expected.items()}
    local = load_tensors(out / "locals.safetensors")
    assert len(set(local.pop("clients").tolist())) == given["training"]["clients_per_round"]
    assert {k: t.shape for k, t in local.items()} == {
        f"model.{k}": (3, *t.shape) for k, t in expected.items()
    }


def test_the_average_is_that_of_the_last_models(run, tmp_path):
    """With last = 1 it is the final model; in general the mean over the last rounds."""
    finals = []
    for rounds in (3, 4):
        given = cell_settings(rounds=rounds, last=1)
        run(tmp_path / str(rounds), given)
        final, average = (
            load_tensors(tmp_path / str(rounds) / f"{name}.safetensors")
            for name in ("final", "average")
        )
        assert all(torch.equal(final[k], average[k]) for k in final)
        finals.append(final)
    run(tmp_path / "two", cell_settings(rounds=4, last=2))
    average = load_tensors(tmp_path / "two" / "average.safetensors")
    for k in average:
        torch.testing.assert_close(average[k], (finals[0][k] + finals[1][k]) / 2)


def test_the_same_cell_twice_gives_the_same_bytes(trained, run, tmp_path):
    out, given = trained
    torch.manual_seed(1)  # global generators decide nothing
    run(tmp_path / "again", given)
    assert contents(tmp_path / "again") == contents(out)


def test_a_fresh_interpreter_gives_the_same_bytes(trained, inputs, tmp_path):
    out, given = trained
    job = job_file(tmp_path / "job.json", settings=given, **inputs, run=tmp_path / "out")
    command = [sys.executable, "-m", "fedgloss", "train", job, "--device", "cpu"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (0, "")
    assert contents(tmp_path / "out") == contents(out)


def test_another_seed_gives_another_run(trained, run, tmp_path):
    out, given = trained
    run(tmp_path / "out", given | {"seed": 1})
    ours, theirs = contents(tmp_path / "out"), contents(out)
    assert all(ours[name] != theirs[name] for name in OUTPUTS)


def test_recording_changes_no_number(trained, run, tmp_path):
    out, given = trained
    training = given["training"]
    for record in ([], ["norms", "communication", "delta_epsilon", "consistency", "sharpness"]):
        run(tmp_path / "out", given | {"training": training | {"record": record}})
        for name in OUTPUTS[1:]:
            assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes()
        for ours, theirs in zip(rows(tmp_path / "out"), rows(out), strict=True):
            assert (ours["accuracy"], ours["loss"]) == (theirs["accuracy"], theirs["loss"])


def test_models_of_named_rounds_are_kept_and_change_no_number(trained, run, tmp_path):
    out, given = trained
    for keep in ([5], [9, 2]):  # the second in the folder of the first
        run(tmp_path / "out", given | {"training": given["training"] | {"keep": keep}})
    kept = ["round-2.safetensors", "round-9.safetensors"]
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*OUTPUTS, *kept, "manifest.json"])
    outputs = read_json(tmp_path / "out/manifest.json")["outputs"]
    assert all(outputs[name] == sha256(tmp_path / "out" / name) for name in kept)
    for name in OUTPUTS:
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes()
    for t in (2, 9):  # it is the model that a run of so many rounds ends with
        run(tmp_path / f"{t}", cell_settings(rounds=t))
        final = (tmp_path / f"{t}/final.safetensors").read_bytes()
        assert final == (tmp_path / f"out/round-{t}.safetensors").read_bytes()


def test_an_old_manifest_never_stands_beside_new_results(run, trained, tmp_path, monkeypatch):
    """A run killed while writing leaves no manifest, so nothing takes its files for whole."""
    from fedgloss.jobs import results

    run(tmp_path, cell_settings())
    monkeypatch.setattr(results, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, cell_settings(rounds=5))
    assert not (tmp_path / "manifest.json").exists()


# Divergence is a result


@pytest.fixture(scope="module")
def diverged(inputs, tmp_path_factory):
    """A cell at a learning rate beyond reason, through the command."""
    out = tmp_path_factory.mktemp("diverged") / "cell"
    given = cell_settings("fedavg", lr=1e6, evaluate_every=1)
    told = {**inputs, "run": out, "settings": given, "checkpoints": out.parent / "checkpoints"}
    code = main(["train", job_file(out.parent / "job.json", **told), "--device", "cpu"])
    return out, code


def test_a_diverging_run_is_a_result(diverged):
    out, code = diverged
    manifest = read_json(out / "manifest.json")
    assert code == 0
    assert manifest["status"] == "diverged"
    assert manifest["accuracy"] is None
    assert 1 <= manifest["diverged_in"] <= 12
    assert sorted(os.listdir(out)) == sorted([*OUTPUTS, "manifest.json"])
    assert not (out.parent / "checkpoints").exists()


def test_only_the_rounds_before_divergence_are_kept(diverged):
    out, _ = diverged
    found = rows(out)
    assert [row["round"] for row in found] == [
        *range(1, read_json(out / "manifest.json")["diverged_in"])
    ]
    assert all(math.isfinite(value) for row in found for value in row.values())


def test_a_diverged_run_has_no_sharpness_and_no_surface(diverged, inputs, tmp_path):
    out, _ = diverged
    for kind, more in (("hessian", {}), ("landscape", {}), ("line", {"other_run": out})):
        told = {"run": out, **inputs, "out": tmp_path / kind, **more}
        job = job_file(tmp_path / f"{kind}-job", kind, **told)
        assert main([kind, job, "--device", "cpu"]) == 0
    assert read_json(tmp_path / "hessian")["lambda1"] is None
    assert (tmp_path / "landscape").read_text() == "x,y,loss,accuracy\n"
    assert (tmp_path / "line").read_text() == "t,loss,accuracy\n"
    assert read_json(tmp_path / "line.json")["status"] == "diverged"


def test_divergence_in_the_first_round_is_a_result_too(run, tmp_path):
    result = run(tmp_path, cell_settings("fedavg", lr=1e30))
    assert (result.status, result.diverged_in, result.metrics) == ("diverged", 1, [])
    assert (tmp_path / "metrics.csv").read_text().startswith("round,")


# Pretrained weights


@pytest.fixture(scope="module")
def warm(inputs, tmp_path_factory):
    """Weights in a file, and settings that name it by its hash."""
    file = tmp_path_factory.mktemp("warm") / "weights.safetensors"
    save_tensors(file, initial_model("smallcnn", load(inputs["data"]), 77).state_dict())
    return file, cell_settings(rounds=2, last=1, evaluate_every=1) | {"weights": sha256(file)}


def test_a_run_starts_from_its_weights(run, warm, tmp_path):
    """With steps too small to change a float, it also ends there."""
    file, given = warm
    still = given | {"training": given["training"] | {"lr": 1e-30}}
    run(tmp_path / "warm", still, weights=file)
    final, pretrained = load_tensors(tmp_path / "warm" / "final.safetensors"), load_tensors(file)
    assert all(torch.equal(final[name], pretrained[name]) for name in final)
    assert any(tensor.any() for tensor in final.values())
    run(tmp_path / "cold", still | {"weights": None})
    assert contents(tmp_path / "cold") != contents(tmp_path / "warm")


def test_a_checkpoint_of_other_weights_is_passed_over(run, warm, inputs, tmp_path, capsys):
    """The weights' hash is in the manifest, and in the identity of a checkpoint."""
    file, given = warm
    store = {"checkpoints": tmp_path / "checkpoints", "checkpoint_rounds": 1}

    def killed(label, rounds, images):
        def on_round(t, row):
            if t == 2:
                raise KeyboardInterrupt

        return on_round

    three = given | {"training": given["training"] | {"rounds": 3}}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", three, weights=file, watch=killed, **store)
    (checkpoint,) = store["checkpoints"].iterdir()
    identity = json.loads(load_metadata(checkpoint)["identity"])
    assert identity["weights"] == sha256(file)

    other = tmp_path / "other.safetensors"
    save_tensors(other, initial_model("smallcnn", load(inputs["data"]), 78).state_dict())
    capsys.readouterr()
    run(tmp_path / "other", three | {"weights": sha256(other)}, weights=other, **store)
    assert "another run (settings, weights differ)" in capsys.readouterr().err
    manifest = read_json(tmp_path / "other" / "manifest.json")
    assert manifest["inputs"]["weights"] == manifest["settings"]["weights"] == sha256(other)

    run(tmp_path / "alone", three | {"weights": sha256(other)}, weights=other)
    assert contents(tmp_path / "other") == contents(tmp_path / "alone")


def test_sharpness_needs_the_run_alone_not_the_weights_file(run, warm, inputs, tmp_path):
    file, given = warm
    shutil.copy(file, tmp_path / "gone.safetensors")
    run(tmp_path / "run", given, weights=tmp_path / "gone.safetensors")
    (tmp_path / "gone.safetensors").unlink()
    told = {"run": tmp_path / "run", **inputs}
    for kind in ("hessian", "landscape"):
        out = tmp_path / kind
        job = job_file(tmp_path / f"{kind}.json", kind, **told, out=out)
        assert main([kind, job]) == 0 and out.stat().st_size > 0


def test_a_file_that_does_not_fit_the_model_is_refused(run, warm, tmp_path):
    _, given = warm
    save_tensors(tmp_path / "w.safetensors", {"0.weight": torch.zeros(2)})
    named = given | {"weights": sha256(tmp_path / "w.safetensors")}
    with refused("w.safetensors", "'0.weight'", "(2,)", "(16, 1, 3, 3)"):
        run(tmp_path / "out", named, weights=tmp_path / "w.safetensors")
    assert not (tmp_path / "out").exists()


# Bad settings

KEYS = ["dataset", "alpha", "data", "partition", "model", "weights", "algorithm", "method"]
KEYS += ["variants", "hyperparameters", "training", "precision", "seed"]


def test_every_key_must_be_there_and_no_other():
    given = cell_settings()
    assert [*given] == KEYS
    for key in given:
        with refused(f"settings.{key}", "missing"):
            Settings.from_json({k: v for k, v in given.items() if k != key})
    for key in given["training"]:
        left = {k: v for k, v in given["training"].items() if k != key}
        with refused(f"settings.training.{key}", "missing"):
            Settings.from_json(given | {"training": left})
    with refused("settings.sede", "did you mean 'seed'"):
        Settings.from_json(given | {"sede": 1})
    with refused("settings.training.round", "did you mean 'rounds'"):
        Settings.from_json(given | {"training": given["training"] | {"round": 1}})


@pytest.mark.parametrize("whole", [None, [], "text", 5])
def test_settings_that_are_no_mapping_are_refused(whole):
    with refused("settings"):
        Settings.from_json(whole)
    with refused("settings.training"):
        Settings.from_json(cell_settings() | {"training": whole})


WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 0),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_any_other_value_trains_or_is_refused_in_one_line(run, tmp_path, data):
    """Never another exception, and nothing is written by a refused run."""
    given = cell_settings("fedgloss", rounds=1, evaluate_every=1, last=1)
    holder = data.draw(st.sampled_from([given, given["training"], given["hyperparameters"]]))
    holder[data.draw(st.sampled_from([*holder]))] = data.draw(WRONG)
    try:
        run(tmp_path / "out", given)
    except InputError as error:
        assert "\n" not in str(error)
        assert tree(tmp_path) == {}
    else:
        for path in (tmp_path / "out").iterdir():
            path.unlink()
        (tmp_path / "out").rmdir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": "6"}, ["rounds", "'6'", "integer"]),
        ({"rounds": True}, ["rounds", "True", "integer"]),
        ({"rounds": -1}, ["rounds", "-1"]),
        ({"lr": "fast"}, ["lr", "'fast'", "number"]),
        ({"lr": float("nan")}, ["lr", "nan"]),
        ({"keep": [3, 12]}, ["settings.training.keep", "12", "1 to 11"]),
        ({"keep": ["3"]}, ["settings.training.keep", "'3'", "1 to 11"]),
        ({"record": ["norm"]}, ["record", "'norm'", "norms"]),
        ({"record": "norms"}, ["record", "'norms'", "list"]),
        ({"augmentation": "flip"}, ["augmentation", "flip", "batch_aug"]),
        ({"clients": 40}, ["clients", "50", "40"]),
        ({"clients_per_round": 51}, ["clients_per_round", "51", "50"]),
        ({"batch_size": 0}, ["batch_size", "0"]),
    ],
)
def test_refusals_name_the_key(change, words, run, tmp_path):
    given = cell_settings()
    with refused(*words):
        run(tmp_path / "out", given | {"training": given["training"] | change})
    assert tree(tmp_path) == {}


def test_a_model_that_does_not_fit_its_data_is_named_with_them(run, tmp_path, monkeypatch):
    text = """from torch import nn
def wide(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(99, classes))
"""
    (tmp_path / "misfits.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with refused("model misfits:wide on digits: clients: inputs [1, 8, 8]", "do not pass"):
        run(tmp_path / "out", cell_settings() | {"model": "misfits:wide"})


def test_data_and_partition_must_fit(run, inputs, tmp_path):
    record = json.loads(inputs["partition"].read_text())
    record["dataset"]["sha256"] = "0" * 64
    (tmp_path / "foreign.json").write_text(json.dumps(record))
    with refused("foreign.json", "other data"):
        run(tmp_path / "out", cell_settings(), partition=tmp_path / "foreign.json")
    given = cell_settings()
    given["data"] = {**given["data"], "source": "cifar10"}
    with refused(inputs["data"], "source 'digits'", "settings.data.source is 'cifar10'"):
        run(tmp_path / "out", given)
    for wrong in ({"data": tmp_path}, {"partition": tmp_path / "absent.json"}):
        with refused(*wrong.values(), "cannot be read"):
            run(tmp_path / "out", cell_settings(), **wrong)
    for wrong in ({"device": "gpu"}, {"backend": "fast"}):
        with refused(*wrong, *wrong.values(), "allowed"):
            run(tmp_path / "out", cell_settings(), **wrong)
    assert not (tmp_path / "out").exists()


# What the trainer needs


def test_training_and_analysis_need_torch_and_numpy_alone(trained, inputs, tmp_path):
    """From prepared files to metrics and eigenvalues, with every other package refused."""
    out, given = trained
    job_file(tmp_path / "train", settings=given, **inputs, run="out")
    job_file(tmp_path / "hessian", "hessian", run="out", **inputs, out="hessian.json")
    job_file(tmp_path / "landscape", "landscape", run="out", **inputs, out="landscape.csv")
    code = """
from fedgloss.cli import main
for command in ("train", "hessian", "landscape"):
    assert main([command, command, "--device", "cpu"]) == 0
"""
    shown = without_other_packages(code, ["torch", "numpy"], tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert contents(tmp_path / "out") == contents(out)
    assert read_json(tmp_path / "hessian.json")["lambda1"] > 0


@pytest.mark.slow
def test_every_model_and_method_needs_torch_torchvision_and_numpy_alone(tmp_path):
    code = """
import torch, fedgloss
from fedgloss.algorithms import METHODS, build_algorithm
from fedgloss.models import build_model
for name in METHODS:
    build_algorithm(name)
for name in ("cnn", "resnet18", "mobilenetv2"):
    build_model(name, (3, 32, 32), 10)
clients = [(torch.randn(4, 3), torch.randint(2, (4,))) for _ in range(2)]
fedgloss.train(torch.nn.Linear(3, 2), clients, "fedavg", rounds=1)
"""
    shown = without_other_packages(code, ["torch", "torchvision", "numpy"], tmp_path)
    assert shown.returncode == 0, shown.stderr


def test_the_refusal_works(tmp_path):
    shown = without_other_packages("import yaml", ["torch"], tmp_path)
    assert "No module named 'yaml'" in shown.stderr


@pytest.mark.parametrize("backend", ["stacked", "autograd"])
def test_bfloat16_is_near_float32_and_recorded(run, tmp_path, backend):
    models = []
    for precision in ("float32", "bfloat16"):
        settings = {**cell_settings(rounds=1, last=1), "precision": precision}
        run(tmp_path / precision, settings, backend=backend)
        manifest = json.loads((tmp_path / precision / "manifest.json").read_text())
        assert manifest["precision"] == precision
        tensors = load_tensors(tmp_path / precision / "locals.safetensors")
        models.append(torch.cat([v.flatten() for k, v in tensors.items() if k != "clients"]))
    assert models[1].dtype == torch.float32
    gap = torch.linalg.vector_norm(models[0] - models[1]) / torch.linalg.vector_norm(models[0])
    assert 1e-6 < gap < 1e-2  # another arithmetic, the same model


def test_tf32_is_refused_where_there_is_none(run, tmp_path):
    with pytest.raises(InputError, match="precision: 'tf32' is for CUDA devices, this is cpu"):
        run(tmp_path / "cell", {**cell_settings(), "precision": "tf32"})
    with pytest.raises(InputError, match="precision: 'half' is unknown; allowed: float32, tf32"):
        run(tmp_path / "cell", {**cell_settings(), "precision": "half"})
