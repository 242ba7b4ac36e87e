"""Where data sets come from, damaged: folders of images, Landmarks' CSV files, command lines."""

import os
import random
import shutil
import struct
import zlib

import pytest

from fedgloss.data.dataset import load
from reliability.hostile import Damage, accepted, at_random, bytes_at_random, fedgloss, snapshot
from reliability.toy import picture

FOLDER = ["prepare", "folder", "--root", "pets", "--out", "out"]


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Twelve images in two classes, prepared before: that must survive every refusal."""
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        part = "train" if number < 8 else "test"
        picture(tmp_path / "pets" / part / "ab"[number % 2] / f"{number}.png", number)
    assert accepted("good", FOLDER, tmp_path / "nowhere")
    return tmp_path


def bomb(width, height):
    """A PNG file that says it has so many pixels and holds one row of zeros."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


ODD_NAMES = [
    "a\nb",
    "\udcff",
    "$(touch pwned)",
    "<script>",
    r"\input{x}",
    "-x",
    " ",
    "é",
    "x" * 200,
]
ODD_NAMES += [".ipynb_checkpoints", "__MACOSX", "._a.png", "x.heic", "x.jfif", "x.txt"]
ODD_NAMES += ["`id`.png", "a\nb.png", "\udcff.png", ".png", "x.PNG", "$x$.png", "a;b.png", "🦊.jpg"]


def vandalise(root, chance):
    """One random change to a folder of images; returns what it was."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    folders = sorted(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())
    if not files or not folders:
        return "nothing left"
    file, folder, name = chance.choice(files), chance.choice(folders), chance.choice(ODD_NAMES)
    how = chance.choice(
        ["bytes", "bytes", "bomb", "rename", "folder", "link", "pipe", "drop", "move", "size"]
    )
    if how == "bytes":
        (case,) = bytes_at_random(file.read_bytes(), str(chance.random()), 1)
        file.write_bytes(case.value)
    elif how == "bomb":
        file.write_bytes(
            bomb(*chance.choice([(60_000, 60_000), (2**31 - 1, 1), (0, 0), (1, 10**6)]))
        )
    elif how == "rename" and not (file.parent / name).exists():
        file.rename(file.parent / name)
    elif how == "folder":
        (folder / name).mkdir(exist_ok=True)
    elif how == "link":
        to = chance.choice(["/etc/passwd", "/dev/null", ".", "..", "nowhere", file.name])
        (folder / f"link{chance.random()}.png").symlink_to(to)
    elif how == "pipe":
        os.mkfifo(folder / f"pipe{chance.random()}.png")
    elif how == "drop":
        shutil.rmtree(folder)
    elif how == "move":
        file.rename(root / chance.choice(["train", "test"]) / file.name) if (
            root / "test"
        ).exists() else 0
    else:
        picture(file, 0)
        from PIL import Image

        with Image.open(file) as image:
            image = image.convert(chance.choice(["L", "1", "P", "RGBA", "LA", "I", "CMYK", "F"]))
            image.resize((7, 9)).save(file, "TIFF" if image.mode in ("I", "F", "CMYK") else "PNG")
    return f"{how} {file.name!r} {folder.name!r} {name[:20]!r}"


def test_folders_of_images(pets, every):
    counts = {True: 0, False: 0}
    small = ["--size", "5", "--out", "small"]  # another definition, so in a folder of its own
    assert accepted("small", [*FOLDER, *small], pets / "nowhere")
    shutil.copytree(pets / "pets", pets / "good")
    for number in range(0, 150, every):
        chance = random.Random(f"folder {number}")
        said = [vandalise(pets / "pets", chance) for _ in range(chance.randint(1, 3))]
        out, size = chance.choice([("out", []), ("small", small)])
        counts[accepted(f"{number} {said}", [*FOLDER, *size], pets / out, ["pets"])] += 1
        shutil.rmtree(pets / "pets")
        shutil.copytree(pets / "good", pets / "pets")
        load(pets / "out", verify=True)
    assert min(counts.values()) > 10 / every, counts


@pytest.mark.parametrize("name", ["a\nb.png", "\udcff.png"])
def test_names_that_a_list_of_names_cannot_hold_are_refused(pets, name):
    picture(pets / "pets/train/a" / name, 1)
    assert not accepted(repr(name), FOLDER, pets / "out", ["line break, or not in UTF-8"])


def test_images_that_are_all_one_colour_leave_nothing(pets):
    """Their mean and deviation are known last of all, after the tensors are written."""
    (pets / "black.png").write_bytes(black())
    for file in (pets / "pets").rglob("*.png"):
        shutil.copy(pets / "black.png", file)
    assert not accepted("black", FOLDER, pets / "out", ["constant"])
    assert sorted(os.listdir(pets / "out")) == ["data.safetensors", "manifest.json"]
    load(pets / "out", verify=True)


def black():
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["pipe", "broken link"])
def test_what_is_no_file_is_neither_read_nor_passed_over(pets, kind):
    odd = pets / "pets/train/a/odd.png"
    {"pipe": os.mkfifo, "broken link": lambda path: path.symlink_to("nowhere")}[kind](odd)
    assert not accepted(kind, FOLDER, pets / "out", ["odd.png: is not a file"])


def test_a_first_image_that_is_a_decompression_bomb_is_refused(pets):
    (pets / "pets/train/a/0.png").write_bytes(bomb(60_000, 60_000))
    assert not accepted("bomb", FOLDER, pets / "out", ["0.png"])


def test_an_image_that_is_still_broken_is_refused_again(pets):
    """The second attempt goes on where the first one stopped, and decodes no image at all."""
    file = pets / "pets/train/a/6.png"
    file.write_bytes(file.read_bytes()[:60])
    for attempt in ("first", "second"):
        assert not accepted(attempt, FOLDER, pets / "out", ["6.png: cannot be decoded"])


def test_a_broken_record_of_progress_is_no_obstacle(pets):
    file = pets / "pets/train/a/2.png"
    file.write_bytes(file.read_bytes()[:60])  # its header is whole
    assert not accepted("broken", FOLDER, pets / "out", ["2.png"])
    (record,) = (pets / "out").glob(".*progress.json")
    picture(pets / "pets/train/a/2.png", 2)
    for content in ("", "[]", '{"done": 5}', '{"fingerprint": 1}', "null", "\0"):
        record.write_text(content)
        assert accepted(content, FOLDER, pets / "out")


# Landmarks

IDS = [f"{i:016x}" for i in range(0x3E0A3DD44B426720, 0x3E0A3DD44B426720 + 12)]
TRAIN = "user_id,image_id,class\n" + "".join(f"{i % 3},{IDS[i]},{i % 4}\n" for i in range(8))
TEST = "image_id,class\n" + "".join(f"{IDS[i]},{i % 4}\n" for i in range(8, 12))
LANDMARKS = ["prepare", "landmarks", "--root", "gld", "--size", "4", "--out", "out"]


@pytest.fixture
def landmarks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(IDS):
        picture(tmp_path / "gld/train" / "/".join(name[:3]) / f"{name}.jpg", number)
    (tmp_path / "gld/federated_train.csv").write_text(TRAIN)
    (tmp_path / "gld/test.csv").write_text(TEST)
    assert accepted("good", LANDMARKS, tmp_path / "nowhere")
    return tmp_path


@pytest.mark.parametrize("name", ["federated_train.csv", "test.csv"])
def test_landmarks_lists(landmarks, name):
    file = landmarks / "gld" / name
    good = file.read_bytes()
    for case in bytes_at_random(good, name, 120):
        file.write_bytes(case.value)
        accepted(case.what, LANDMARKS, landmarks / "out", [".csv"])


def test_landmarks_cells(landmarks):
    """Every cell of a row replaced by what is no number, no id, or too large for one."""
    file = landmarks / "gld/federated_train.csv"
    values = ["", "x", "-1", "1.5", "nan", "1e3", "²", "٣", "0x1", "9" * 18, "9" * 19, "9" * 5000]
    values += ["../../x", "/etc/passwd", "a\0b", '"a\nb"', "a" * 300, "..", "$(id)", "x" * 200_000]
    rows = [line.split(",") for line in TRAIN.splitlines()]
    for column, head in enumerate(rows[0]):
        for value in values:
            row = [*rows[2]]
            row[column] = value
            file.write_text("\n".join(",".join(r) for r in [*rows[:2], row, *rows[3:]]) + "\n")
            what = f"{head} = {value[:20]!r}"
            fate = accepted(what, LANDMARKS, landmarks / "out", ["federated_train.csv"])
            assert not fate or (head == "user_id" and value == "9" * 18), what


# Command lines

GOOD = [
    [*FOLDER, "--size", "8", "--name", "x", "--images", "clean"],
    ["partition", "--data", "out", "--scheme", "iid", "--clients", "3", "--out", "p.json"],
    [
        "partition",
        "--data",
        "out",
        "--scheme",
        "dirichlet",
        "--alpha",
        "1",
        "--clients",
        "3",
        "--out",
        "p",
    ],
    ["landscape", "l.json", "--threads", "1", "--device", "cpu"],
    ["hessian", "a.json", "b.json", "--threads", "1"],
    ["train", "a.json", "b.json", "--backend", "auto", "--checkpoint-rounds", "5"],
    ["job", "study.yaml", "pets/alpha-iid/cnn/fedavg/seed-0", "train", "--results", "r"],
    ["status", "study.yaml", "--results", "r"],
    ["cells", "study.yaml"],
]


def test_command_lines(pets):
    """Words lost, swapped, doubled, replaced: done, or one line; never more than was asked for."""
    (pets / "work").mkdir()
    for kind, good in enumerate(GOOD):
        for case in at_random(good, f"words {kind}", 40):
            words = [word for word in case.value if isinstance(word, str) and "\0" not in word]
            words = [word for word in words if word not in ("-h", "--help", "--version")]
            before = snapshot(pets / "pets")
            code, lines = fedgloss(*(word[:300] for word in words))
            assert code in (0, 2) and (code == 0 or len(lines) == 1), f"{case.what}: {code} {lines}"
            assert snapshot(pets / "pets") == before


def test_damaged_bytes_of_a_split_through_the_folder(pets):
    """A folder in the place of a file is refused as such."""
    (pets / "split.json").mkdir()
    command = [
        "partition",
        "--data",
        "out",
        "--scheme",
        "file",
        "--file",
        "split.json",
        "--out",
        "new/p",
    ]
    assert not accepted("a folder", command, pets / "new", ["split.json"])
    command[6] = "other.json"
    good = b'{"clients": [[0, 1], [2]]}'
    split = Damage(pets / "other.json", command, pets / "new", good)
    split(bytes_at_random(good, "other", 60))
