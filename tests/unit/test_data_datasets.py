"""Prepared datasets: what is in the folder, and what is refused. Shown on the digits."""

import gzip
import json
import os

import numpy as np
import pytest
import safetensors.torch
import torch

from fedgloss.data import dataset as datasets
from fedgloss.data import facts
from fedgloss.data.dataset import load, prepare
from fedgloss.data.sources import digits
from fedgloss.tensors import load_tensors, safetensors_layout
from refusal import refused

DIGITS_SHA256 = "1d94cc85dd3f599dbda965e768a26b704c91f1157cabb02790704eeb6d41d05b"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("digits")
    prepare("digits", folder)
    return folder


@pytest.fixture
def copy(prepared, tmp_path):
    """A copy that a test may damage."""
    for file in prepared.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_preparing_the_digits_gives_the_same_bytes_everywhere(prepared):
    assert load(prepared, verify=True).sha256 == DIGITS_SHA256


def test_the_digits_are_split_140_of_each_class_for_training(prepared):
    digits = load(prepared)
    assert torch.bincount(digits.train_labels).tolist() == [140] * 10
    assert (len(digits.train_labels), len(digits.test_labels)) == (1400, 397)


def test_the_digits_are_scikit_learns_and_invertible(prepared):
    from sklearn.datasets import load_digits

    digits, source = load(prepared), load_digits()
    ours = torch.cat([digits.train_images, digits.test_images])[:, 0].double() / 15
    labels = torch.cat([digits.train_labels, digits.test_labels])

    def rows(images, labels):
        return sorted(map(tuple, np.column_stack([images.reshape(-1, 64), labels]).tolist()))

    assert rows(ours.numpy(), labels.numpy()) == rows(source.images, source.target)


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"no gzip", lambda b: b[:5]])
def test_a_broken_file_of_scikit_learns_is_refused(tmp_path, monkeypatch, damage):
    file = tmp_path / "digits.csv.gz"
    file.write_bytes(damage(digits._original().read_bytes()))
    monkeypatch.setattr(digits, "_original", lambda: file)
    with refused(file, "cannot be read"):
        prepare("digits", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [("0,", "1,"), (",0\n", ",nan\n"), (",0\n", ",10\n")])
def test_other_digits_than_the_published_ones_are_refused(tmp_path, monkeypatch, change):
    """Jobs trust that the digits are the same on every machine."""
    file = tmp_path / "digits.csv"
    with gzip.open(digits._original(), "rt") as published:
        file.write_text(published.read().replace(*change, 1))
    monkeypatch.setattr(digits, "_original", lambda: file)
    with refused(file):
        prepare("digits", tmp_path / "out")


def test_the_file_is_safetensors_to_the_formats_own_library(prepared):
    theirs = safetensors.torch.load_file(prepared / "data.safetensors")
    assert torch.equal(theirs["train_images"], load(prepared).train_images)


def test_the_manifest_states_sizes_classes_source_and_hash(prepared):
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert manifest["train"] == {"images": 1400, "per_class": [140] * 10}
    assert manifest["test"]["images"] == 397
    assert manifest["classes"] == [str(digit) for digit in range(10)]
    assert "scikit-learn" in manifest["source"]
    assert manifest["sha256"] == DIGITS_SHA256
    assert manifest["tensors"]["train_images"] == ["uint8", 1400, 1, 8, 8]


def test_mean_and_std_are_those_of_the_training_images(prepared):
    digits = load(prepared)
    values = digits.train_images.double() / 255
    assert digits.mean == pytest.approx([values.mean().item()], rel=1e-12)
    assert digits.std == pytest.approx([values.std(correction=0).item()], rel=1e-12)


def test_a_truncated_file_is_refused(copy):
    data = copy / "data.safetensors"
    data.write_bytes(data.read_bytes()[:-10])
    with refused(data):
        load(copy)


def test_a_changed_byte_is_found_by_verify(copy):
    data = copy / "data.safetensors"
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    load(copy)
    with refused(data, "SHA-256"):
        load(copy, verify=True)


def test_data_older_than_their_manifest_are_trusted(copy, monkeypatch):
    """They were hashed when they were prepared; gigabytes are not hashed again by every job."""
    monkeypatch.setattr(datasets, "sha256", lambda file: pytest.fail("it hashes the file"))
    manifest = (copy / "manifest.json").stat().st_mtime_ns
    os.utime(copy / "data.safetensors", ns=(manifest - 1, manifest - 1))
    load(copy, verify=True)
    monkeypatch.setattr(datasets, "sha256", lambda file: "another")
    os.utime(copy / "data.safetensors", ns=(manifest, manifest))
    with refused("data.safetensors", "SHA-256"):
        load(copy, verify=True)


def test_other_tensors_than_described_are_refused(copy):
    tensors = safetensors.torch.load_file(copy / "data.safetensors")
    tensors["train_images"] = tensors["train_images"][:-1]
    safetensors.torch.save_file(tensors, copy / "data.safetensors")
    with refused("data.safetensors", "prepare it again"):
        load(copy)


@pytest.mark.parametrize("entry", ["name", "sha256", "mean", "tensors", "format"])
def test_a_manifest_without_an_entry_is_refused(copy, entry):
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest[entry]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with refused("manifest.json", entry):
        load(copy)


def test_a_folder_without_a_manifest_is_not_a_dataset(copy):
    (copy / "manifest.json").unlink()
    with refused("manifest.json"):
        load(copy)


def test_preparing_anew_withdraws_the_manifest_first(copy, monkeypatch):
    """A crash while preparing leaves no manifest beside data it does not describe."""

    def crash(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "_writer", lambda source: crash)
    with pytest.raises(KeyboardInterrupt):
        prepare("digits", copy)
    load(copy, verify=True)  # nothing is replaced yet
    monkeypatch.undo()
    monkeypatch.setattr(datasets, "write_text", crash)
    with pytest.raises(KeyboardInterrupt):
        prepare("digits", copy)
    assert not (copy / "manifest.json").exists()


def test_unknown_sources_and_images_are_refused_with_what_is_allowed(tmp_path):
    with refused("source", "mnist", "digits, cifar10, cifar100, folder, landmarks"):
        prepare("mnist", tmp_path)
    with refused("images", "dirty", "clean, official_overlap"):
        prepare("digits", tmp_path, images="dirty")
    with refused("images", "cifar10 and cifar100 only"):
        prepare("digits", tmp_path, images="official_overlap")
    for source, size in (("digits", 8), ("folder", 0), ("landmarks", 10**12)):
        with refused("size", source):
            prepare(source, tmp_path, size=size)
    with refused("name", "'mine'", "digits"):
        prepare("digits", tmp_path, name="mine")
    assert list(tmp_path.iterdir()) == []


def test_names_survive_encoding():
    names = ["a/b.png", "ü.png", "c d.png"]
    assert facts.names(facts.encode_names(names)) == names
    assert facts.names(None) == []


def test_shared_images_are_counted_pixel_for_pixel():
    images = torch.randint(0, 256, (9, 3, 5, 5), dtype=torch.uint8)
    almost = images[:1].clone()
    almost[0, 2, 4, 4] ^= 1
    test = torch.cat([images[[3, 7]], almost])
    assert facts.shared_images(images, test) == 2


def test_measure_refuses_a_constant_channel():
    with refused("constant"):
        facts.measure(torch.full((4, 1, 3, 3), 7, dtype=torch.uint8))


def test_a_store_larger_than_memory_can_be_mapped(tmp_path):
    """Half a terabyte of which nothing was written: only the pages touched are ever read."""
    header, _, size = safetensors_layout({"images": (torch.uint8, (2**22, 3, 200, 200))})
    with open(tmp_path / "large", "wb") as file:
        file.write(header)
        file.truncate(size)
    images = load_tensors(tmp_path / "large")["images"]
    assert images[[0, -1]].sum() == 0
    images[5, 0, 0, 0] = 7  # writes stay in memory
    assert load_tensors(tmp_path / "large")["images"][5, 0, 0, 0] == 0
