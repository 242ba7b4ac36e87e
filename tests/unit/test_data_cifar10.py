"""CIFAR-10 as published, as the authors trained on it, and their split files: the genuine data."""

import hashlib
import json
import runpy
import sys

import numpy as np
import pytest
import torch

from fedgloss.data.dataset import load, prepare
from fedgloss.data.facts import names
from fedgloss.data.partition.partition import load_partition, make_partition
from fedgloss.data.sources import cifar
from fedgloss.torchvision_compat import torchvision
from refusal import refused

SHA256 = {
    "clean": "9ff19505266d188fb0a89c1986625f03e73bc30b6ef3651f357e4418e530b330",
    "official_overlap": "0d90a2b595e4fa019c65cd124b57869074bbbbb919470fda6c196c3faf93596a",
}
PARTITION_SHA256 = {
    ("dirichlet", "0"): "8e37e767bb4d22a2e676e6eecbb15d1f722513e4db33f2f01e20bfd39ab43fc9",
    ("dirichlet", "0.05"): "39b9891a74641778d6b501e033331242cea6e5b80872cd053f7d84e58a9c9686",
    ("dirichlet", "1"): "dc37f9bbd08cf3fb9ae8199c1ec9432545f34eb786fde9b03ac9806b7f75c410",
    ("dirichlet-per-class-capped", "5"): (
        "79047a673ed0c5a71631dcad4fc473776c5d34ba126a2763cea53752465bf11e"
    ),
    ("dirichlet", "10"): "c7e7779bb2578a4f1025b3806fe1098866afde70a0d382e95cb48232a14853e3",
    ("dirichlet", "100"): "4ab1f4f9783b3b50563b7cbfd9afef50200078c7b550db5d0f7f1b51d9f6dc14",
    ("file", "0"): "aef4ec4a75677c483e860bcac0fba9e0a8848dfc96d0bf9a5864e44e66b83aab",
    ("file", "0.05"): "7c77fe71d0b3512faf3d74b85af269bdf94e6e94e218dad098082a6530985c19",
    ("file", "1"): "d5c24e40d1bf1d374c02afe01240e150582ab003495e20395d0e54f8c2b2cc68",
    ("file", "5"): "650063a1073ed6cbda56976525ba75690169e7d15b4c58f4c44d29b94a7d2e44",
    ("file", "10"): "ec1d8a8c55727cfaa8e65300f89d11b45362fbd662bab5ff29500dae6a9f94cd",
    ("file", "100"): "5b9745b7f6362a47fe9857bea10c10199efa8af5a89cb5cbb1472a074e4687ca",
}
ALPHAS = {"0": "0.00", "0.05": "0.05", "1": "1.00", "5": "5.00", "10": "10.00", "100": "100.00"}


@pytest.fixture(scope="module")
def root(shared, tmp_path_factory):
    """The published files, rebuilt."""
    folder = tmp_path_factory.mktemp("cifar")
    script = runpy.run_path(str(shared / "data" / "unpack_cifar10.py"))
    script["main"](folder)
    return folder


@pytest.fixture(scope="module")
def prepared(root, tmp_path_factory):
    folders = {images: tmp_path_factory.mktemp(images) for images in SHA256}
    for images, folder in folders.items():
        prepare("cifar10", folder, root=root, images=images)
    return {images: load(folder) for images, folder in folders.items()}, folders


@pytest.fixture(scope="module")
def partitions(shared, prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("partitions")
    data, made = prepared[0]["official_overlap"], {}
    for alpha in ALPHAS:
        path = out / f"{alpha}.json"
        folder = shared / "data/official_splits/cifar10"
        make_partition(data, path, scheme="file", clients=100, alpha=alpha, seed=0, file=folder)
        made[alpha] = load_partition(path, data)
    return made


def split_names(file):
    users = json.loads(file.read_text())["users_data"].values()
    return {name for user in users for name in user["x"]}


def test_torchvision_accepts_the_folder_and_agrees_on_every_image(root, prepared):
    data = prepared[0]["clean"]
    for train in (True, False):
        theirs = torchvision("datasets").CIFAR10(root, train=train)
        images, labels = (
            (data.train_images, data.train_labels)
            if train
            else (data.test_images, data.test_labels)
        )
        assert np.array_equal(theirs.data, images.permute(0, 2, 3, 1).numpy())
        assert theirs.targets == labels.tolist()
    assert data.classes == tuple(theirs.classes)


@pytest.mark.parametrize("images", SHA256)
def test_prepared_tensors_have_the_recorded_hash(prepared, images):
    assert load(prepared[1][images], verify=True).sha256 == SHA256[images]


def test_channel_statistics_are_the_known_ones_to_four_digits(prepared):
    channels = prepared[0]["clean"].train_images.transpose(0, 1).numpy()
    mean = [channel.mean(dtype=np.float64) / 255 for channel in channels]
    std = [channel.std(dtype=np.float64) / 255 for channel in channels]
    assert np.round(mean, 4).tolist() == [0.4914, 0.4822, 0.4465]
    assert np.round(std, 4).tolist() == [0.2470, 0.2435, 0.2616]


def test_normalisation_uses_the_released_codes_constants(prepared):
    data = prepared[0]["clean"]
    assert data.mean == (0.4914, 0.4822, 0.4465)
    assert data.std == (0.2470, 0.2434, 0.2616)  # the second one cut, not rounded, by the authors


def test_no_training_image_is_a_test_image_in_clean_and_1006_are_in_official_overlap(prepared):
    for images, expected in (("clean", 0), ("official_overlap", 1006)):
        manifest = json.loads((prepared[1][images] / "manifest.json").read_text())
        assert manifest["train_images_in_test"] == expected
        data = prepared[0][images]
        test = {hashlib.sha256(image.numpy()).digest() for image in data.test_images}
        train = [hashlib.sha256(image.numpy()).digest() for image in data.train_images]
        assert sum(digest in test for digest in train) == expected


def test_the_replaced_images_are_those_the_name_lists_share(shared, prepared):
    folder = shared / "data/official_splits/cifar10"
    test = split_names(folder / "test.json")
    manifest = json.loads((prepared[1]["official_overlap"] / "manifest.json").read_text())
    replaced = manifest["train_images_replaced_by_test_images"]
    for text in ALPHAS.values():
        both = split_names(folder / f"federated_train_alpha_{text}.json") & test
        assert sorted(int(name.split("_")[1]) for name in both) == replaced
    clean, overlap = prepared[0]["clean"], prepared[0]["official_overlap"]
    assert torch.equal(overlap.train_images[replaced], clean.test_images[replaced])
    assert torch.equal(clean.train_labels[replaced], clean.test_labels[replaced])
    kept = np.setdiff1d(np.arange(50_000), replaced)
    assert torch.equal(overlap.train_images[kept], clean.train_images[kept])
    assert torch.equal(overlap.test_images, clean.test_images)


def test_official_splits_hold_49999_and_9999_images(partitions):
    for alpha, partition in partitions.items():
        train = torch.cat(partition.clients)
        assert len(partition.clients) == 100
        assert sorted(set(range(50_000)) - set(train.tolist())) == [10_100], alpha
        assert len(train) == len(train.unique()) == 49_999
        assert sorted(set(range(10_000)) - set(partition.test.tolist())) == [5852], alpha


def test_partitions_have_the_recorded_hashes(prepared, partitions, tmp_path):
    for (scheme, alpha), expected in PARTITION_SHA256.items():
        if scheme == "file":
            assert partitions[alpha].manifest["sha256"] == expected
            continue
        path, data = tmp_path / "p.json", prepared[0]["clean"]
        make_partition(data, path, scheme=scheme, clients=100, alpha=alpha, seed=0)
        partition = load_partition(path, data)
        assert partition.manifest["sha256"] == expected, (scheme, alpha)
        assert torch.cat(partition.clients).sort().values.equal(torch.arange(50_000))


@pytest.mark.parametrize(
    ("alpha", "sizes", "classes"),
    [
        ("0", (499, 500), 1.00),
        ("0.05", (499, 500), 1.32),
        ("1", (499, 500), 4.78),
        ("5", (391, 576), 9.70),
        ("10", (499, 500), 9.28),
        ("100", (499, 500), 9.90),
    ],
)
def test_official_splits_have_the_known_sizes_and_classes(partitions, alpha, sizes, classes):
    statistics = partitions[alpha].manifest["statistics"]
    assert (statistics["smallest"], statistics["largest"]) == sizes
    assert statistics["classes_per_client"] == pytest.approx(classes)


def test_official_splits_name_all_1006_shared_images_in_training_and_test(prepared, partitions):
    manifest = json.loads((prepared[1]["official_overlap"] / "manifest.json").read_text())
    replaced = set(manifest["train_images_replaced_by_test_images"])
    for partition in partitions.values():
        assert replaced <= set(torch.cat(partition.clients).tolist())
        assert replaced <= set(partition.test.tolist())
        touched = sum(bool(replaced & set(client.tolist())) for client in partition.clients)
        assert touched == 100


def test_official_splits_agree_with_the_data_on_every_label(shared, prepared, partitions):
    data = prepared[0]["clean"]
    file = shared / "data/official_splits/cifar10/federated_train_alpha_1.00.json"
    users = json.loads(file.read_text())["users_data"]
    order = names(data.train_names)
    for client, indices in enumerate(partitions["1"].clients):
        user = users[partitions["1"].manifest["users"][client]]
        assert sorted(user["x"]) == sorted(order[i] for i in indices)
        assert sorted(user["y"]) == sorted(data.train_labels[indices].tolist())


def test_a_split_of_other_data_is_refused_and_leaves_nothing(shared, prepared, tmp_path):
    file = shared / "data/official_splits/cifar100/federated_train_alpha_0.50.json"
    with refused(file, "user 0", ".png with label"):
        make_partition(
            prepared[0]["clean"],
            tmp_path / "p.json",
            scheme="file",
            clients=None,
            alpha="0.5",
            seed=0,
            file=file,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_partition_is_refused_with_the_other_images(shared, prepared, tmp_path):
    make_partition(
        prepared[0]["clean"], tmp_path / "p.json", scheme="iid", clients=9, alpha=None, seed=0
    )
    with refused("other data", "cifar10, clean", "official_overlap"):
        load_partition(tmp_path / "p.json", prepared[0]["official_overlap"])


# Files that are not there, or not right


def test_a_missing_folder_says_which_and_how_to_get_it(tmp_path):
    with refused(tmp_path / "cifar-10-batches-py", "not found", "https://", "download"):
        prepare("cifar10", tmp_path / "out", root=tmp_path)
    with refused("root"):
        prepare("cifar10", tmp_path / "out")
    assert not (tmp_path / "out" / "data.safetensors").exists()


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_batch_is_named(root, tmp_path, damage):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in (root / "cifar-10-batches-py").iterdir():
        (folder / file.name).symlink_to(file)
    broken = folder / "data_batch_3"
    content = bytearray(broken.read_bytes())
    broken.unlink()
    content[-100] ^= 1
    if damage != "missing":
        broken.write_bytes(content if damage == "altered" else content[:1000])
    with refused(broken, "not found" if damage == "missing" else "MD5"):
        prepare("cifar10", tmp_path / "out", root=tmp_path)
    assert not (tmp_path / "out" / "data.safetensors").exists()


def test_a_failing_download_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision("datasets").CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    with refused("cifar10", "download", tmp_path):
        prepare("cifar10", tmp_path / "out", root=tmp_path, download=True)


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/cifar.tar.gz"
        monkeypatch.setattr(torchvision("datasets").CIFAR10, "url", url)
        monkeypatch.setattr(cifar, "TIMEOUT", 0.2)
        with refused("cifar10", "download", "timed out"):
            prepare("cifar10", tmp_path / "out", root=tmp_path, download=True)
    assert socket.getdefaulttimeout() is None


def test_importing_the_data_package_imports_neither_torchvision_nor_pil():
    import subprocess

    code = (
        "import sys, fedgloss.data.partition.partition, fedgloss.data.augment\n"
        "from fedgloss.data import dataset, store\n"
        "from fedgloss.data.partition import splits\n"
        "from fedgloss.data.sources import digits, folder, landmarks\n"
        "heavy = {'torchvision', 'PIL', 'sklearn', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
