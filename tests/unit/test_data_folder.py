"""Folder-per-class datasets and Landmarks, on small images the tests make in the same formats."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

from fedgloss.data import folder, store
from fedgloss.data.datasets import load, prepare
from fedgloss.data.facts import names
from fedgloss.data.partitions import load_partition, make_partition
from fedgloss.tensors import load_tensors
from fedgloss.torchvision_compat import torchvision
from refusal import refused

Image = pytest.importorskip("PIL.Image")


def picture(seed, height=6, width=6, channels=3):
    shape = (height, width, channels) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def pets(tmp_path):
    """Two classes, 3 training and 2 test images each, PNG."""
    root = tmp_path / "pets"
    for seed in range(10):
        part, index = ("train", seed // 2) if seed < 6 else ("test", seed // 2)
        save(root / part / ("cat", "dog")[seed % 2] / f"{index}.png", picture(seed))
    return root


def test_a_folder_per_class_becomes_tensors_without_loss(pets, tmp_path):
    prepare("folder", tmp_path / "out", root=pets)
    data = load(tmp_path / "out", verify=True)
    assert (data.name, data.classes) == ("pets", ("cat", "dog"))
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test_labels.tolist() == [0, 0, 1, 1]
    assert names(data.train_names)[:2] == ["cat/0.png", "cat/1.png"]
    for image, name in zip(data.train_images, names(data.train_names), strict=True):
        original = np.asarray(Image.open(pets / "train" / name))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), original)
    values = data.train_images.double() / 255
    assert data.mean == pytest.approx(values.mean(dim=(0, 2, 3)).tolist())
    assert data.std == pytest.approx(values.std(dim=(0, 2, 3), correction=0).tolist())


def test_grey_images_keep_one_channel(tmp_path):
    for seed, file in enumerate(("train/a/0.png", "train/b/0.png", "test/a/0.png")):
        save(tmp_path / "grey" / file, picture(seed, channels=1))
    prepare("folder", tmp_path / "out", root=tmp_path / "grey", name="mine")
    data = load(tmp_path / "out")
    assert (data.name, tuple(data.train_images.shape)) == ("mine", (2, 1, 6, 6))
    assert np.array_equal(data.train_images[1, 0].numpy(), picture(1, channels=1))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (33, 57), (16, 40), (24, 24)])
def test_resizing_is_torchvisions_resize_and_center_crop(tmp_path, height, width):
    save(tmp_path / "image.png", picture(0, height, width))
    transforms = torchvision("transforms")
    theirs = transforms.Compose([transforms.Resize(24), transforms.CenterCrop(24)])(
        Image.open(tmp_path / "image.png")
    )
    ours = folder.decode(tmp_path / "image.png", "RGB", 24)
    assert np.array_equal(ours.transpose(1, 2, 0), np.asarray(theirs))


def test_the_store_is_safetensors_to_the_formats_own_library(pets, tmp_path):
    prepare("folder", tmp_path / "out", root=pets)
    theirs = safetensors.torch.load_file(tmp_path / "out/data.safetensors")
    ours = load_tensors(tmp_path / "out/data.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)


def test_cifar100_as_png_folders_takes_the_official_split_by_file_name(shared, tmp_path):
    """A corner of the official split (alpha = 0: each client holds one class), as PNG files."""
    file = shared / "data/official_splits/cifar100/federated_train_alpha_0.00.json"
    users = json.loads(file.read_text())["users_data"]
    some = {user: {key: users[user][key][:5] for key in ("x", "y")} for user in ("1", "12", "3")}
    label = sorted({y for user in some.values() for y in user["y"]})
    for user in some.values():
        for name, y in zip(user["x"], user["y"], strict=True):
            save(tmp_path / f"png/train/{y:03d}" / name, picture(len(name)))
            save(tmp_path / f"png/test/{y:03d}" / "any.png", picture(0))
        user["y"] = [label.index(y) for y in user["y"]]
    split = {"users": [12, 3, 1], "users_data": some}
    (tmp_path / "split.json").write_text(json.dumps(split))
    prepare("folder", tmp_path / "out", root=tmp_path / "png")
    data = load(tmp_path / "out")
    make_partition(
        data,
        tmp_path / "p.json",
        scheme="file",
        clients=3,
        alpha="0",
        seed=0,
        file=tmp_path / "split.json",
    )
    partition = load_partition(tmp_path / "p.json", data)
    assert partition.manifest["users"] == ["1", "3", "12"]
    for user, indices in zip(("1", "3", "12"), partition.clients, strict=True):
        found = {names(data.train_names)[i].split("/")[1] for i in indices}
        assert found == set(some[user]["x"])
        assert data.train_labels[indices].tolist() == some[user]["y"]


# Bad folders


def nothing_written(out):
    return not (out / "manifest.json").exists() and not (out / "data.safetensors").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "test").rename(root / "tset"), ["pets/test", "no such folder"]),
        (lambda root: (root / "train/emu").mkdir(), ["pets/train/emu", "no images"]),
        (lambda root: (root / "test/emu").mkdir(), ["pets/test/emu", "train/ does not have"]),
        (
            lambda root: (root / "train/dog/1.png").write_bytes(b"not an image"),
            ["pets/train/dog/1.png", "cannot be decoded"],
        ),
        (
            lambda root: (root / "train/cat/0.png").write_bytes(b"not an image"),
            ["pets/train/cat/0.png", "cannot be decoded"],
        ),
        (
            lambda root: (root / "test/dog/3.png").write_bytes(
                (root / "test/dog/3.png").read_bytes()[:60]
            ),
            ["pets/test/dog/3.png", "cannot be decoded"],
        ),
        (
            lambda root: save(root / "train/dog/2.png", picture(0, 7, 6)),
            ["pets/train/dog/2.png", "(3, 7, 6)", "(3, 6, 6)"],
        ),
    ],
)
def test_a_bad_folder_is_refused_in_one_line(pets, tmp_path, damage, words):
    damage(pets)
    with refused(*words):
        prepare("folder", tmp_path / "out", root=pets)
    assert nothing_written(tmp_path / "out")


def test_a_source_without_a_folder_is_refused(tmp_path):
    for source in ("folder", "landmarks"):
        with refused(source, "root"):
            prepare(source, tmp_path / "out")


# Interruptions


class Decoder:
    """Decodes the number in a file's name, and counts the calls."""

    def __init__(self, broken=()):
        self.calls, self.broken = [], set(broken)

    def __call__(self, file):
        self.calls.append(int(file.name))
        if int(file.name) in self.broken:
            raise OSError("broken data stream")
        return np.full((1, 2, 2), int(file.name) % 251, dtype=np.uint8)


def run_stream(path, decoder, root, count=1000):
    files = [root / str(i) for i in range(count)]
    small = {"train_labels": torch.arange(count - 100)}
    store.stream(path, files[:-100], files[-100:], decoder, (1, 2, 2), small)


def test_what_was_decoded_before_a_broken_image_is_kept(tmp_path):
    path = tmp_path / "data.safetensors"
    with refused("600", "cannot be decoded (broken data stream)"):
        run_stream(path, Decoder(broken={600, 700}), tmp_path)
    assert not path.exists()
    second = Decoder()
    run_stream(path, second, tmp_path)
    assert sorted(second.calls) == list(range(600, 1000))

    run_stream(tmp_path / "whole", Decoder(), tmp_path)
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.safetensors", "whole"]


def test_other_files_are_not_continued(tmp_path):
    path = tmp_path / "data.safetensors"
    with refused("600"):
        run_stream(path, Decoder(broken={600}), tmp_path)
    other = Decoder()
    run_stream(path, other, tmp_path / "elsewhere")
    assert len(other.calls) == 1000
    values = load_tensors(path)
    assert values["train_images"][:, 0, 0, 0].tolist() == [i % 251 for i in range(900)]
    assert values["test_images"][:, 0, 0, 0].tolist() == [i % 251 for i in range(900, 1000)]


def test_a_killed_preparation_goes_on_where_it_was(tmp_path):
    code = (
        "import os, signal, sys, pathlib\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_data_folder import Decoder, run_stream\n"
        "class Deadly(Decoder):\n"
        "    def __call__(self, file):\n"
        "        if file.name == '800':\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().__call__(file)\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "run_stream(root / 'data.safetensors', Deadly(), root)\n"
    )
    here = os.path.dirname(__file__)
    died = subprocess.run([sys.executable, "-c", code, tmp_path, here], capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    path = tmp_path / "data.safetensors"
    assert not path.exists()
    second = Decoder()
    run_stream(path, second, tmp_path)
    assert sorted(second.calls) == list(range(768, 1000))  # three chunks of 256 were complete
    run_stream(tmp_path / "whole", Decoder(), tmp_path)
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_progress_is_told_in_a_log_about_ten_times(tmp_path, capsys):
    run_stream(tmp_path / "data.safetensors", Decoder(), tmp_path, count=10_000)
    lines = capsys.readouterr().err.splitlines()
    assert 10 <= len(lines) <= 12
    assert lines[-1].startswith("decoded 10,000 of 10,000 images")


def test_two_processes_do_not_write_one_file(tmp_path):
    path = tmp_path / "data.safetensors"

    def inner(file):
        run_stream(path, Decoder(), tmp_path, count=110)

    with refused(path, "another process"):
        run_stream(path, inner, tmp_path, count=110)


# Landmarks

IDS = [f"{i:016x}" for i in range(0x3E0A3DD44B426720, 0x3E0A3DD44B426720 + 30)]


@pytest.fixture
def landmarks(tmp_path):
    """24 training images of 5 users in 4 classes, 6 test images, sizes as they come."""
    root = tmp_path / "gld"
    rows = [(i % 5, image, i % 4) for i, image in enumerate(IDS[:24])]
    write_csv(root / "federated_train.csv", "user_id,image_id,class", rows)
    write_csv(
        root / "test.csv", "image_id,class", [(image, i % 4) for i, image in enumerate(IDS[24:])]
    )
    for seed, image in enumerate(IDS):
        file = root / "train" / image[0] / image[1] / image[2] / f"{image}.jpg"
        save(file, picture(seed, 20 + seed, 50 - seed))
    return root


def write_csv(file, header, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def test_landmarks_become_resized_tensors_with_users(landmarks, tmp_path):
    prepare("landmarks", tmp_path / "out", root=landmarks, size=16)
    data = load(tmp_path / "out", verify=True)
    assert tuple(data.train_images.shape) == (24, 3, 16, 16)
    assert tuple(data.test_images.shape) == (6, 3, 16, 16)
    assert data.train_users.tolist() == [i % 5 for i in range(24)]
    assert data.train_labels.tolist() == [i % 4 for i in range(24)]
    assert names(data.test_names) == IDS[24:]
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's
    transforms = torchvision("transforms")
    shrink = transforms.Compose([transforms.Resize(16), transforms.CenterCrop(16)])
    for image, name in zip(data.train_images, IDS, strict=False):
        jpeg = Image.open(landmarks / "train/3/e/0" / f"{name}.jpg").convert("RGB")
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(shrink(jpeg)))


def test_images_may_lie_in_the_root_itself(landmarks, tmp_path):
    (landmarks / "train/3").rename(landmarks / "3")
    (landmarks / "train").rmdir()
    prepare("landmarks", tmp_path / "out", root=landmarks, size=16)
    assert len(load(tmp_path / "out").train_labels) == 24


def test_the_natural_partition_is_by_user(landmarks, tmp_path):
    prepare("landmarks", tmp_path / "out", root=landmarks, size=16)
    data = load(tmp_path / "out")
    path = tmp_path / "p.json"
    make_partition(data, path, scheme="natural", clients=None, alpha="natural", seed=0)
    clients = load_partition(path, data).clients
    assert [client.tolist() for client in clients] == [list(range(u, 24, 5)) for u in range(5)]
    with refused("natural", "7 clients", "5"):
        make_partition(data, path, scheme="natural", clients=7, alpha="natural", seed=0)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda r: (r / "test.csv").unlink(), ["gld/test.csv", "cannot be read"]),
        (
            lambda r: write_csv(r / "federated_train.csv", "user_id,image_id", [(0, IDS[0])]),
            ["gld/federated_train.csv", "'class'", "user_id, image_id, class"],
        ),
        (
            lambda r: write_csv(r / "test.csv", "image_id,class", [(IDS[0], 1), (IDS[1], "x")]),
            ["gld/test.csv", "line 3", "'x'"],
        ),
        (lambda r: write_csv(r / "test.csv", "image_id,class", []), ["test.csv", "no rows"]),
        (lambda r: (r / "test.csv").write_bytes(b"\xff\xfe"), ["test.csv", "not a CSV file"]),
        (
            lambda r: write_csv(r / "test.csv", "image_id,class", [(IDS[0], 5)]),
            ["federated_train.csv", "class 4", "no images"],
        ),
        (
            lambda r: write_csv(r / "test.csv", "image_id,class", [(IDS[0], 1)] * 2),
            ["test.csv", "occurs twice"],
        ),
        (
            lambda r: (r / "train/3/e/0" / f"{IDS[3]}.jpg").unlink(),
            ["federated_train.csv", "1 of 24 images are absent", IDS[3]],
        ),
        (
            lambda r: (r / "train/3/e/0" / f"{IDS[25]}.jpg").write_bytes(b"\xff\xd8\xff broken"),
            [f"{IDS[25]}.jpg", "cannot be decoded"],
        ),
    ],
)
def test_bad_landmarks_are_refused_in_one_line(landmarks, tmp_path, damage, words):
    damage(landmarks)
    with refused(*words):
        prepare("landmarks", tmp_path / "out", root=landmarks, size=16)
    assert nothing_written(tmp_path / "out")
