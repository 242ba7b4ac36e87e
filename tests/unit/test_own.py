"""A study's own models and folders of images are tried before any job."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedgloss.cli import main
from fedgloss.study.own import ORIGINALS, check_data, check_own, missing_data, missing_splits
from fedgloss.study.study import check_study
from fedgloss.torchvision_compat import torchvision
from refusal import refused
from studies import DIGITS, ROOT

NETS = """\
import torch
from torch import nn
def net(shape, classes):
    c, h, w = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, classes))
def fails(shape, classes):
    return net(shape, classes / 0)
def small(shape, classes):
    assert shape == (1, 8, 8) and classes == 10
    return net(shape, classes)
def wide(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))
def narrow(shape, classes): return net(shape, classes - 1)
def flat(shape, classes): return nn.Identity()
def nothing(shape, classes): ...
def one(shape): ...
"""
TRAINING = {"rounds": 2, "clients": 4, "clients_per_round": 2, "epochs": 1, "batch_size": 2}
TRAINING |= {"lr": 0.1, "weight_decay": 0.0, "augmentation": "none", "evaluate_every": 1, "last": 1}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Try a model of one's own on a data set, in a folder with images; nothing is prepared."""
    (tmp_path / "ownnets.py").write_text(NETS)
    (tmp_path / "owndivides.py").write_text("1 / 0\n")
    for part in ("train", "test"):
        (tmp_path / "pets" / part).mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def study(model="ownnets:net", label="mine", **pets):
        partition = {"scheme": "iid", "clients": 4}
        folder = {} if "source" in pets else {"source": "folder", "root": "pets"}
        dataset = {"partition": partition, **folder, **pets}
        alone = {"dataset": "pets", "alphas": ["iid"], "model": label, "algorithms": ["fedavg"]}
        config = {"study": "own", "seeds": [0], "training": TRAINING, "grid": [alone]}
        config["models"] = {"mine": {"model": model}}
        return check_study(config | {"datasets": {"pets": dataset}}, "own.yaml")

    return study


def prepare(study, shape, classes):
    """What preparing the data set would leave for this check."""
    file = Path("results/data") / study.data_folder("pets") / "manifest.json"
    file.parent.mkdir(parents=True)
    file.with_name("data.safetensors").touch()
    tensors = {"train_images": ["uint8", 6, *shape]}
    file.write_text(json.dumps({"tensors": tensors, "classes": ["x"] * classes}))


@pytest.mark.parametrize("model", ["ownnets:net", "ownnets:small"])
def test_a_model_that_can_be_built_passes(model, own):
    check_own(own(model, source="digits"))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("ownnets:nope", ["cannot be imported", "nope"]),
        ("torch:zeros", ["not a function of (shape, classes)"]),
        ("ownnets:torch", ["not a function of (shape, classes)"]),
        ("ownnets:one", ["not a function of (shape, classes)"]),
        ("owndivides:net", ["cannot be imported", "ZeroDivisionError: division by zero"]),
    ],
)
def test_what_is_no_model_is_refused_before_the_data_are_there(model, words, own):
    with refused("own.yaml: models.mine.model: ", model, *words):
        check_own(own(model))
    with refused("own.yaml: grid[0].model: ", model, *words):
        check_own(own(label=model))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("ownnets:fails", ["(1, 8, 8)", "10 classes", "ZeroDivisionError", "ownnets.py line 7"]),
        ("ownnets:nothing", ["NoneType", "torch.nn.Module"]),
        ("ownnets:wide", ["(1, 8, 8) do not pass", "RuntimeError", "2x64 and 784x10"]),
        ("ownnets:narrow", ["returns [2, 9] for two images, expected [2, 10]"]),
        ("ownnets:flat", ["returns [2, 1, 8, 8]"]),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(model, words, own):
    with refused("own.yaml: models.mine.model: ", model, *words):
        check_own(own(model, source="digits"))


def test_the_shape_of_images_of_ones_own_is_known_once_they_are_prepared(own):
    study = own("ownnets:small")
    check_own(study)
    prepare(study, (3, 5, 6), 7)
    with refused("models.mine.model", "(3, 5, 6)", "7 classes", "AssertionError"):
        check_own(study)


METHODS = """\
from typing import Literal
from fedgloss.algorithms.core import Algorithm, Named, mean
def method(*, sent: Literal["record", "dict"] = "record"):
    def broadcast(w, s, h):
        return Named(w=w) if sent == "record" else {"w": w}
    def direction(grad, W, down, c, h):
        return grad(W), c
    def aggregate(w, down, up, s, h):
        return w + h.step * mean(up.w - down.w, h.p), s
    return Algorithm("mine", direction, aggregate, broadcast, hyperparameters={"step": 1.0})
def layered():
    def aggregate(w, down, up, s, h):
        return mean(up.w, h.p)[..., :650] + w.split([640, 10], dim=-1)[0].mean(), s
    return Algorithm("layered", lambda grad, W, down, c, h: (grad(W), c), aggregate)
def renamed():
    return Algorithm("renamed", print, print, reciprocals=("tau", "rate"))
"""


def with_methods(tmp_path, monkeypatch, **entries):
    (tmp_path / "ownmethods.py").write_text(METHODS)
    monkeypatch.syspath_prepend(tmp_path)
    block = {"dataset": "digits", "alphas": ["0"], "model": "smallcnn", "algorithms": [*entries]}
    training = {**TRAINING, "clients": 50}
    config = {"study": "own", "seeds": [0], "training": training, "grid": [block]}
    config |= {"datasets": {"digits": DIGITS}, "algorithms": entries}
    return check_study(config, "own.yaml")


def test_a_method_of_ones_own_is_rehearsed_before_any_job(tmp_path, monkeypatch):
    entry = {"method": "ownmethods:method"}
    right = {"a": entry, "b": {**entry, "hyperparameters": {"step": -0.5}}}
    check_own(with_methods(tmp_path, monkeypatch, **right))
    wrong = {**right, "c": {"like": "b", "variants": {"sent": "dict"}}}
    with refused(
        "own.yaml: algorithms.c: method 'mine': broadcast returns a value of type dict as the"
        " message, expected Named(w=...), from fedgloss.algorithms.core (ownmethods.py, line 4)"
    ):
        check_own(with_methods(tmp_path, monkeypatch, **wrong))


def test_what_it_declares_is_refused_before_it_is_looked_at(tmp_path, monkeypatch):
    with refused("own.yaml", "method 'ownmethods:renamed': reciprocals: expected other names by"):
        with_methods(tmp_path, monkeypatch, a={"method": "ownmethods:renamed"})


def test_a_method_that_needs_the_models_layers_is_left_to_the_job(tmp_path, monkeypatch):
    check_own(with_methods(tmp_path, monkeypatch, a={"method": "ownmethods:layered"}))


def test_without_methods_and_models_of_ones_own_torch_is_not_waited_for():
    code = (
        "import sys; from fedgloss.study.own import check_own;"
        "from fedgloss.study.study import load_study;"
        f"check_own(load_study({str(ROOT / 'config' / 'quickstart.yaml')!r}));"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("key", "found", "words"),
    [
        ("name", "cifar10", ["source 'cifar10'", "datasets.digits.source is 'digits'"]),
        ("source", "one folder per class", ["source 'folder'", "datasets.digits.source"]),
        ("images", "official_overlap", ["images 'official_overlap'", "datasets.digits.images"]),
        ("size", 32, ["size 32", "datasets.digits.size is None"]),
    ],
)
def test_prepared_images_of_another_definition_are_refused(key, found, words, tmp_path):
    grid = {"dataset": "digits", "alphas": ["0"], "model": "smallcnn", "algorithms": ["fedavg"]}
    study = check_study({"study": "own", "seeds": [0], "grid": [grid]}, "own.yaml")
    check_data(study, tmp_path)  # there is none yet
    folder = tmp_path / "data" / "digits"
    folder.mkdir(parents=True)
    manifest = {"name": "digits", "source": "scikit-learn", "images": "clean"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    check_data(study, tmp_path)
    (folder / "manifest.json").write_text(json.dumps(manifest | {key: found}))
    with refused(f"{folder}: holds a data set with {words[0]}", *words, "delete the folder"):
        check_own(study, tmp_path)


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("absent", ["'absent'", "there is no such folder"]),
        ("ownnets.py", ["'ownnets.py'", "is not a folder"]),
        ("pets/train", ["'pets/train'", "has no folder train/"]),
    ],
)
def test_a_folder_without_images_is_refused_unless_they_are_prepared(root, words, own):
    study = own(root=root)
    with refused("own.yaml: datasets.pets.root: ", *words):
        check_own(study)
    prepare(study, (1, 8, 8), 10)
    check_own(study)


def write(*files):
    for file in map(Path, files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")


CIFAR = {"source": "cifar10", "root": "data/cifar10", "partition": DIGITS["partition"]}


def lacking(*others, **changes):
    """What is said of a data set of CIFAR-10 with changes, and of others beside it."""
    datasets = {"mine": {**CIFAR, **changes}, **{name: CIFAR for name in others}}
    block = {"dataset": "mine", "alphas": ["0"], "model": "cnn", "algorithms": ["fedavg"]}
    config = {"study": "s", "seeds": [0], "datasets": datasets, "grid": [block]}
    config["training"] = {**TRAINING, "clients": 50}
    return [*missing_data(check_study(config, "s.yaml"), datasets)]


def test_data_that_are_missing_are_named_with_the_place_where_they_must_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = "data/cifar10: missing, must hold cifar-10-batches-py, see docs/data.md"
    assert lacking() == [f"{where} (mine)"]
    assert lacking("same") == [f"{where} (mine, same)"], "one folder, one line"
    assert lacking(download=True) == ["data/cifar10: missing, will be downloaded (mine)"]
    write("data/cifar10/cifar-10-batches-py/data_batch_1")
    assert lacking() == []
    write("here/test.csv")
    assert lacking(source="landmarks", root="here", size=8) == [
        "here: missing, must hold federated_train.csv, see docs/data.md (mine)"
    ]


def test_cifar_100_may_lie_there_as_class_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lacking(source="cifar100", root="here")
    write("here/train/apple/apple_s_000022.png")
    assert lacking(source="cifar100", root="here") == []


def test_prepared_data_need_their_originals_no_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lacking()
    monkeypatch.setattr("fedgloss.study.study.Study.data_folder", lambda *_: "mine+2cf1d0a9")
    write("results/data/mine+2cf1d0a9/manifest.json")
    assert lacking(), "an import brings the manifest alone"
    write("results/data/mine+2cf1d0a9/data.safetensors")
    assert lacking() == []


def test_the_folders_of_cifar_are_torchvisions():
    datasets = torchvision("datasets")
    for source in ("cifar10", "cifar100"):
        assert ORIGINALS[source] == (getattr(datasets, source.upper()).base_folder,)


def pinned(*alphas, file="data/splits"):
    """A study whose splits are named by their content, so that it can be read without them."""
    content = {alpha: [f"{alpha}{'a' * 63}"] for alpha in alphas}
    split = {"scheme": "file", "file": file, "clients": 4, "sha256": content}
    block = {"dataset": "mine", "alphas": [*alphas], "model": "cnn", "algorithms": ["fedavg"]}
    config = {"study": "s", "seeds": [0], "datasets": {"mine": {**CIFAR, "partition": split}}}
    return check_study(config | {"grid": [block], "training": TRAINING}, "s.yaml")


def without(study):
    return [*missing_splits(study, dict.fromkeys((c.dataset, c.alpha) for c in study.cells))]


def test_splits_that_are_missing_are_named_until_they_are_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = pinned("0", "5")
    where = "data/splits: missing, must hold the split at alpha"
    assert without(study) == [f"{where} 0, 5, see docs/data.md (mine)"]
    write("data/splits/test.json", "data/splits/federated_train_alpha_5.00.json")
    assert without(study) == [f"{where} 0, see docs/data.md (mine)"]
    write(f"results/partitions/{study.partition_folder('mine', '0')}/alpha-0/partition.json")
    assert without(study) == []


def test_checking_a_study_names_its_missing_splits_and_passes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check", str(ROOT / "config" / "reproduction.yaml")]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    where = (
        "data/official_splits/cifar10: missing, must hold the split at alpha 0, see docs/data.md"
    )
    assert last == f"{where} (cifar10, cifar10-official-overlap)"


def test_checking_a_study_says_what_data_are_missing_and_passes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check", str(ROOT / "config" / "paper.yaml")]) == 0
    valid, *missing = capsys.readouterr().out.splitlines()
    assert valid.endswith("a valid study of 459 cells") and len(missing) == 3
    assert missing[0].endswith("(cifar10, cifar10-official-overlap)")
    assert missing[1].startswith("data/cifar100: missing, must hold cifar-100-python, see docs")
