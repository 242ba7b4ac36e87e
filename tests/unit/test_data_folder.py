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

from fedgloss.data import store
from fedgloss.data.dataset import load, prepare
from fedgloss.data.facts import names
from fedgloss.data.partition.partition import load_partition, make_partition
from fedgloss.data.sources import images
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


def test_a_whole_data_set_of_another_definition_is_not_overwritten(pets, tmp_path):
    """A study would train on the wrong images under the right name."""
    out = tmp_path / "out"
    prepare("folder", out, root=pets)
    before = (out / "manifest.json").read_bytes()
    what = "delete this one first"
    with refused(f"{out}: ", "source 'folder', but the given source is 'digits'", what):
        prepare("digits", out)
    with refused(f"{out}: ", "size None, but the given size is 5", what):
        prepare("folder", out, root=pets, size=5)
    with refused(f"{out}: ", "name 'pets', but the given name is 'cats'", what):
        prepare("folder", out, root=pets, name="cats")
    assert (out / "manifest.json").read_bytes() == before
    prepare("folder", out, root=pets)
    assert (out / "manifest.json").read_bytes() == before
    (out / "data.safetensors").unlink()
    prepare("digits", out)


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
    ours = images.decode(tmp_path / "image.png", "RGB", 24)
    assert np.array_equal(ours.transpose(1, 2, 0), np.asarray(theirs))


def test_the_store_is_safetensors_to_the_formats_own_library(pets, tmp_path):
    prepare("folder", tmp_path / "out", root=pets)
    theirs = safetensors.torch.load_file(tmp_path / "out/data.safetensors")
    ours = load_tensors(tmp_path / "out/data.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)


# What a folder holds beside its images


def prepared(root, out):
    """The data set of a folder, and what its manifest says was skipped or changed."""
    prepare("folder", out, root=root)
    return load(out), json.loads((out / "manifest.json").read_text())["notes"]


def copy_to(file, *places):
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir"])
@pytest.mark.parametrize("place", ["train", "test", "train/cat"])
def test_hidden_folders_are_no_classes_and_hold_no_images(pets, tmp_path, name, place):
    copy_to(pets / "train/cat/0.png", pets / place / name / "0.png")
    data, notes = prepared(pets, tmp_path / "out")
    assert data.classes == ("cat", "dog")
    assert (len(data.train_labels), len(data.test_labels)) == (6, 4)
    assert notes == [f"skipped 1 hidden files or folders, the first is {place}/{name}"]


def test_hidden_files_are_no_images(pets, tmp_path):
    """macOS writes ._NAME beside NAME on disks that are not its own."""
    (pets / "train/cat/._0.png").write_bytes(b"Mac OS X")
    (pets / "train/.DS_Store").write_bytes(b"Bud1")
    data, notes = prepared(pets, tmp_path / "out")
    assert len(data.train_labels) == 6
    assert notes == ["skipped 2 hidden files or folders, the first is train/.DS_Store"]


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *[(".jfif", "JPEG"), (".jpe", "JPEG"), (".JPG", "JPEG"), (".apng", "PNG")],
        *[(".avif", "AVIF"), (".jp2", "JPEG2000"), (".webp", "WEBP"), (".gif", "GIF")],
        *[(".TIF", "TIFF"), (".tga", "TGA"), (".dib", "DIB"), (".pbm", "PPM"), (".pnm", "PPM")],
    ],
)
def test_images_are_read_whatever_their_usual_suffix(pets, tmp_path, suffix, kind):
    Image.fromarray(picture(0)).save(pets / f"train/cat/9{suffix}", kind)
    data, _ = prepared(pets, tmp_path / "out")
    assert names(data.train_names)[3] == f"cat/9{suffix}"


def test_photographs_that_pillow_cannot_read_are_refused(pets, tmp_path):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    (pets / "train/cat/9.HEIC").write_bytes(heic)
    with refused("pets/train/cat/9.HEIC", "cannot be decoded", "converted to PNG or JPEG"):
        prepare("folder", tmp_path / "out", root=pets)


def test_images_in_folders_within_a_class_belong_to_it(pets, tmp_path):
    copy_to(pets / "test/cat/3.png", pets / "train/cat/old/1.png", pets / "train/cat/old/a/0.png")
    data, notes = prepared(pets, tmp_path / "out")
    assert names(data.train_names)[:5] == [
        *("cat/0.png", "cat/1.png", "cat/2.png"),
        *("cat/old/1.png", "cat/old/a/0.png"),
    ]
    assert data.train_labels.tolist() == [0] * 5 + [1] * 3
    assert notes == ["2 training images are, pixel for pixel, test images too"]


def test_what_is_not_read_is_counted_and_said(pets, tmp_path, capsys):
    for file in ("cat/notes.txt", "cat/Thumbs.db", "dog/a.txt", "dog/more/photo", "dog/x.nef"):
        (pets / "train" / file).parent.mkdir(exist_ok=True)
        (pets / "train" / file).write_bytes(b"no image")
    copy_to(pets / "train/cat/0.png", pets / "train/loose.png", pets / "val/cat/0.png")
    data, notes = prepared(pets, tmp_path / "out")
    assert len(data.train_labels) == 6
    assert notes == [
        "skipped 5 files that are not named as images are (2 .txt, 1 .db, 1 .nef, 1 no suffix), "
        "the first is train/cat/Thumbs.db",
        "skipped 1 files outside the classes' folders, the first is train/loose.png",
        "skipped 1 folders other than train and test, the first is val",
    ]
    assert [f"pets: {note}" for note in notes] == capsys.readouterr().err.splitlines()[1:]


def test_nothing_is_said_where_nothing_was_skipped_or_changed(pets, tmp_path, capsys):
    _, notes = prepared(pets, tmp_path / "out")
    assert notes == []
    assert capsys.readouterr().err.count("\n") == 1  # how many images were decoded


def test_names_that_do_not_print_are_escaped_in_what_is_said(pets, tmp_path, capsys):
    (pets / "train/cat/\x1b[2J.txt").write_text("clear the screen")
    prepared(pets, tmp_path / "out")
    assert r"the first is train/cat/\x1b[2J.txt" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["..", "../cat", "../../train", "../dog"])
def test_a_folder_that_a_link_reaches_again_is_refused(pets, tmp_path, to):
    """The images of one folder would be counted twice, or without an end."""
    (pets / "train/cat/link").symlink_to(to)
    with refused("pets/train/", "is the same folder as"):
        prepare("folder", tmp_path / "out", root=pets)


def test_links_to_other_folders_and_images_are_followed(pets, tmp_path):
    (pets / "train/dog").rename(tmp_path / "elsewhere")
    (pets / "train/dog").symlink_to(tmp_path / "elsewhere")
    (pets / "train/cat/9.png").symlink_to(tmp_path / "elsewhere/0.png")
    data, _ = prepared(pets, tmp_path / "out")
    assert data.train_labels.tolist() == [0, 0, 0, 0, 1, 1, 1]


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
        (
            lambda root: (
                (root / "train/emu").mkdir(),
                (root / "train/emu/1.npy").touch(),
            ),
            ["pets/train/emu", "no images (1 .npy)"],
        ),
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
            ["pets/train/dog/2.png", "6 x 7 pixels", "the first image 6 x 6", "1 of 10 differ"],
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


def test_what_was_decoded_otherwise_is_not_continued(tmp_path, monkeypatch):
    """By a version that, for example, did not turn photographs upright."""
    path = tmp_path / "data.safetensors"
    with refused("600"):
        run_stream(path, Decoder(broken={600}), tmp_path)
    monkeypatch.setattr(store, "DECODING", store.DECODING + 1)
    second = Decoder()
    run_stream(path, second, tmp_path)
    assert len(second.calls) == 1000


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


@pytest.mark.parametrize("name", ["federated_train.csv", "test.csv"])
def test_the_lists_may_begin_with_a_byte_order_mark(landmarks, tmp_path, name):
    """As Excel writes them."""
    file = landmarks / name
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    prepare("landmarks", tmp_path / "out", root=landmarks, size=16)
    data = load(tmp_path / "out")
    assert data.train_users.tolist() == [i % 5 for i in range(24)]
    assert names(data.test_names) == IDS[24:]


def test_a_photograph_of_landmarks_is_upright(landmarks, tmp_path):
    file = landmarks / "train/3/e/0" / f"{IDS[0]}.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    left_dark = np.repeat(np.array([[0] * 20 + [255] * 20], dtype=np.uint8), 40, axis=0)
    Image.fromarray(left_dark).save(file, exif=exif)
    prepare("landmarks", tmp_path / "out", root=landmarks, size=16)
    image = load(tmp_path / "out").train_images[0].float()
    assert image[:, :6].mean() < 20 and image[:, 10:].mean() > 235  # turned right: dark on top


def test_landmarks_photographs_in_training_and_in_test_are_counted(landmarks, tmp_path, capsys):
    rows = [(IDS[0], 0), *((image, i % 4) for i, image in enumerate(IDS[24:]))]
    write_csv(landmarks / "test.csv", "image_id,class", rows)
    prepare("landmarks", tmp_path / "out", root=landmarks, size=16)
    said = "landmarks: 1 training images are, pixel for pixel, test images too"
    assert said in capsys.readouterr().err


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
            lambda r: write_csv(r / "test.csv", "image_id,class,class", [(IDS[24], 1, 2)]),
            ["gld/test.csv", "two columns 'class'"],
        ),
        (
            lambda r: write_csv(r / "test.csv", "image_id,class", [(IDS[24], 1), (IDS[25], 1, 2)]),
            ["gld/test.csv", "line 3", "3 cells", "has 2"],
        ),
        (
            lambda r: write_csv(r / "test.csv", "image_id,class", [(IDS[24], "nan")]),
            ["gld/test.csv", "line 2", "class is 'nan'"],
        ),
        (
            lambda r: write_csv(r / "test.csv", "image_id;class", [(IDS[24], 1)]),
            ["gld/test.csv", "no column 'image_id'"],
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
