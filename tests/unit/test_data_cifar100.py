"""CIFAR-100 and its official splits, on generated images that bear the splits' names and labels.

The generated files have the published layout (Python 2 pickles with the file names inside). Every
image shows its own position in its first pixels, so that it can be told from every other.
"""

import hashlib
import json
import os
import pickle
import runpy
import struct
from collections import Counter

import numpy as np
import pytest
import torch

from fedgloss.data.dataset import load, prepare
from fedgloss.data.partition.partition import load_partition, make_partition
from fedgloss.data.sources import cifar
from fedgloss.torchvision_compat import torchvision
from refusal import refused

ALPHAS = {"0": "0.00", "0.5": "0.50", "1000": "1000.00"}
# Each of these names stands for images of two classes (35 and 2, girl and baby).
TWICE_IN_TRAINING, TWICE_IN_TEST = "baby_s_000333.png", "baby_s_000223.png"
IN_BOTH = {"baby_s_000222.png", "baby_s_000354.png"}


def listed(file):
    """The (name, label) pairs of a split file, sorted."""
    users = json.loads(file.read_text())["users_data"].values()
    return sorted((n, y) for user in users for n, y in zip(user["x"], user["y"], strict=True))


def batch(script, pairs, mark):
    """A batch file: {"filenames", "fine_labels", "data"} as Python 2 would pickle it."""
    images = np.zeros((len(pairs), 3072), dtype=np.uint8)
    images[:, 0], images[:, 1:4] = mark, np.arange(len(pairs))[:, None] >> [0, 8, 16] & 255
    p = script["Pickler2"]()
    p.raw(b"}")
    p.put()
    p.raw(b"(")
    p.text("filenames")
    p.items([name for name, _ in pairs], p.text)
    p.text("fine_labels")
    p.items([label for _, label in pairs], p.integer)
    p.text("data")
    p.raw(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R")
    p.raw(b"(K\x01")
    p.integer(len(images))
    p.integer(3072)
    p.raw(b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R")
    p.raw(b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
    p.raw(b"T" + struct.pack("<i", images.size), images.tobytes(), b"tbu.")
    return b"".join(p.out)


def meta(script):
    p = script["Pickler2"]()
    p.raw(b"}(")
    p.text("fine_label_names")
    p.items([f"class {i:02d}" for i in range(100)], p.text)
    p.raw(b"u.")
    return b"".join(p.out)


@pytest.fixture(scope="module")
def root(shared, tmp_path_factory):
    script = runpy.run_path(str(shared / "data" / "unpack_cifar10.py"))
    splits = shared / "data/official_splits/cifar100"
    train = listed(splits / "federated_train_alpha_0.50.json")
    test = [*listed(splits / "test.json"), ("unlisted_s_000001.png", 7)]
    order = np.random.default_rng(0).permutation(len(train))
    folder = tmp_path_factory.mktemp("cifar100") / "cifar-100-python"
    folder.mkdir()
    (folder / "train").write_bytes(batch(script, [train[i] for i in order], 1))
    (folder / "test").write_bytes(batch(script, test, 2))
    (folder / "meta").write_bytes(meta(script))
    return folder.parent


@pytest.fixture(scope="module")
def prepared(root, tmp_path_factory):
    known = torchvision("datasets").CIFAR100
    md5 = {f.name: hashlib.md5(f.read_bytes()).hexdigest() for f in root.rglob("*") if f.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "train_list", [["train", md5["train"]]])
        patch.setattr(known, "test_list", [["test", md5["test"]]])
        patch.setattr(known, "meta", {**known.meta, "md5": md5["meta"]})
        folders = {}
        for images in ("clean", "official_overlap"):
            folders[images] = tmp_path_factory.mktemp(images)
            prepare("cifar100", folders[images], root=root, images=images)
    return folders


@pytest.fixture(scope="module")
def partitions(shared, prepared, tmp_path_factory):
    data, made = load(prepared["clean"]), {}
    for alpha, text in ALPHAS.items():
        file = shared / "data/official_splits/cifar100" / f"federated_train_alpha_{text}.json"
        path = tmp_path_factory.mktemp("split") / "partition.json"
        make_partition(data, path, scheme="file", clients=100, alpha=alpha, seed=0, file=file)
        made[alpha] = load_partition(path, data)
    return made


def test_official_splits_are_imported_by_file_name(shared, prepared, partitions):
    data = load(prepared["clean"])
    name = bytes(data.train_names.numpy()).decode().split("\n")
    for alpha, text in ALPHAS.items():
        file = shared / "data/official_splits/cifar100" / f"federated_train_alpha_{text}.json"
        users = json.loads(file.read_text())["users_data"]
        for client, indices in enumerate(partitions[alpha].clients):
            user = users[str(client)]
            expected = sorted(zip(user["x"], user["y"], strict=True))
            labels = data.train_labels[indices].tolist()
            found = sorted(zip((name[i] for i in indices), labels, strict=True))
            assert found == expected


@pytest.mark.parametrize(("alpha", "classes"), [("0", 1.0), ("0.5", 5.13), ("1000", 98.82)])
def test_official_splits_have_the_known_sizes_and_classes(partitions, alpha, classes):
    partition = partitions[alpha]
    assert [len(client) for client in partition.clients] == [500] * 100
    assert torch.cat(partition.clients).sort().values.equal(torch.arange(50_000))
    assert len(partition.test) == 9_999
    assert partition.manifest["statistics"]["classes_per_client"] == pytest.approx(classes)


def test_one_name_stands_for_two_images_and_the_label_decides(shared, prepared, partitions):
    file = shared / "data/official_splits/cifar100/federated_train_alpha_0.50.json"
    twice = [pair for pair in listed(file) if pair[0] == TWICE_IN_TRAINING]
    assert twice == [(TWICE_IN_TRAINING, 2), (TWICE_IN_TRAINING, 35)]
    counts = Counter(name for name, _ in listed(file.with_name("test.json")))
    assert [name for name, count in counts.items() if count > 1] == [TWICE_IN_TEST]


def test_overlap_has_two_training_images_replaced_by_test_images(shared, prepared):
    splits = shared / "data/official_splits/cifar100"
    train = {name for name, _ in listed(splits / "federated_train_alpha_0.50.json")}
    assert train & {name for name, _ in listed(splits / "test.json")} == IN_BOTH

    clean, overlap = load(prepared["clean"]), load(prepared["official_overlap"])
    name = bytes(clean.train_names.numpy()).decode().split("\n")
    changed = (clean.train_images != overlap.train_images).flatten(1).any(1).nonzero().flatten()
    from_test = [i for i in changed.tolist() if overlap.train_images[i, 0, 0, 0] == 2]
    assert {name[i] for i in from_test} == IN_BOTH and len(from_test) == 2
    # Besides, the training name that occurs twice shows its second image twice.
    from_training = [i for i in changed.tolist() if i not in from_test]
    assert [name[i] for i in from_training] == [TWICE_IN_TRAINING]
    second = max(i for i, n in enumerate(name) if n == TWICE_IN_TRAINING)
    assert overlap.train_images[from_training[0]].equal(clean.train_images[second])

    manifest = json.loads((prepared["official_overlap"] / "manifest.json").read_text())
    assert manifest["train_images_replaced_by_test_images"] == from_test
    assert manifest["train_images_replaced_by_train_images"] == from_training
    assert manifest["train_images_in_test"] == 2
    manifest = json.loads((prepared["clean"] / "manifest.json").read_text())
    assert manifest["train_images_in_test"] == 0


def test_a_replaced_image_keeps_its_own_label(shared, prepared):
    """The released code takes labels from the split file, so the girl's file shows a baby."""
    clean, overlap = load(prepared["clean"]), load(prepared["official_overlap"])
    assert clean.train_labels.equal(overlap.train_labels)


def test_names_are_read_without_running_code_in_the_file(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'exploded'}",)

    (tmp_path / "train").write_bytes(pickle.dumps({"filenames": Bomb()}, protocol=2))
    with pytest.raises(pickle.UnpicklingError, match="system"):
        cifar._unpickle(tmp_path / "train")
    assert not (tmp_path / "exploded").exists()


def test_a_missing_folder_says_how_to_get_it(tmp_path):
    with refused(tmp_path / "cifar-100-python" / "train", "not found", "https://"):
        prepare("cifar100", tmp_path / "out", root=tmp_path)
