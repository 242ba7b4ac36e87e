"""CIFAR-100 as PNG files in class folders, under the images' original names."""

import json
import runpy

import numpy as np
import pytest
import torch
from PIL import Image

from fedgloss.data.dataset import load, prepare
from fedgloss.data.partition.partition import load_partition, make_partition
from fedgloss.data.sources.cifar import _digest
from refusal import refused


def pictures(folder, classes=3, each=2):
    for part in ("train", "test"):
        for label in range(classes):
            (folder / part / f"class {label}").mkdir(parents=True)
            for i in range(each):
                pixels = np.full((32, 32, 3), 20 * label + i, np.uint8)
                Image.fromarray(pixels).save(folder / part / f"class {label}" / f"{i}.png")


def test_folders_of_other_images_are_not_cifar100(tmp_path):
    pictures(tmp_path / "images")
    with refused(str(tmp_path / "images/train"), "6 images are not those of CIFAR-100"):
        prepare("cifar100", tmp_path / "out", root=tmp_path / "images")
    assert not list((tmp_path / "out").glob("*"))


def test_what_the_released_code_trains_on_needs_the_published_order(tmp_path):
    pictures(tmp_path / "images")
    with refused("official_overlap", "cifar-100-python"):
        prepare("cifar100", tmp_path / "out", root=tmp_path / "images", images="official_overlap")


def test_the_digest_knows_every_pixel_and_label_and_no_order():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 32, 32), generator=generator).to(torch.uint8)
    labels = torch.arange(5)
    digest, order = _digest(images, labels), torch.tensor([3, 1, 0, 4, 2])
    assert _digest(images[order], labels[order]) == digest
    assert _digest(images[order], labels) != digest
    images[4, 2, 31, 31] ^= 1
    assert _digest(images, labels) != digest


@pytest.mark.slow
def test_genuine_images_and_the_official_splits(shared, tmp_path):
    unpacked = runpy.run_path(str(shared / "data" / "unpack_cifar100.py"))
    unpacked["main"](str(tmp_path / "images"))
    prepare("cifar100", tmp_path / "data", root=tmp_path / "images")
    data = load(tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["train"] == {"images": 50_000, "per_class": [500] * 100}
    assert manifest["test"] == {"images": 10_000, "per_class": [100] * 100}
    assert len(manifest["classes"]) == 100
    pixels = data.train_images.double() / 255  # the paper's constants are this data's
    assert pixels.mean((0, 2, 3)).numpy() == pytest.approx(data.mean, abs=1e-4)
    assert pixels.transpose(0, 1).flatten(1).std(1).numpy() == pytest.approx(data.std, abs=1e-4)

    classes = {"0": 1.0, "0.5": 5.13, "1000": 98.82}  # of a client, as docs/data.md has them
    for alpha, expected in classes.items():
        name = f"federated_train_alpha_{float(alpha):.2f}.json"
        split = shared / "data/official_splits/cifar100" / name
        path = tmp_path / alpha / "partition.json"
        make_partition(data, path, scheme="file", clients=100, alpha=alpha, seed=0, file=split)
        partition = load_partition(path, data)
        held = torch.cat(list(partition.clients))
        assert len(held) == len(held.unique()) == 50_000
        assert len(partition.test) == 9_999
        found = np.mean([len(data.train_labels[own].unique()) for own in partition.clients])
        assert found == pytest.approx(expected, abs=0.005)
