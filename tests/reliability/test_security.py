"""Files, names and configuration from strangers: nothing in them is run, and nothing escapes."""

import ast
import contextlib
import io
import os
import pickle
import shlex
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from fedgloss.data.dataset import prepare
from fedgloss.data.sources import cifar
from fedgloss.engine.checkpoint import Checkpoints
from fedgloss.errors import InputError
from fedgloss.models import build_model
from fedgloss.models.weights import read
from fedgloss.study import outdated
from fedgloss.tensors import load_metadata, load_tensors
from fedgloss.torchvision_compat import torchvision
from reliability.hostile import fedgloss
from reliability.toy import CELL, INPUTS, picture
from unit.cells import job_file

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


pytestmark = pytest.mark.usefixtures("nothing_is_run")


# What the source may not call

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open"),
    *("torch.load", "torch.jit.load", "torch.hub.load", "torch.package", "joblib.load"),
    *("np.load", "numpy.load", "np.fromfile", "pd.read_pickle"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader"),
    *("yaml.UnsafeLoader", "yaml.FullLoader", "yaml.CLoader"),
    *("os.system", "os.popen", "os.execv", "os.spawnl", "subprocess.run", "subprocess.Popen"),
    *("subprocess.call", "subprocess.check_output", "subprocess.check_call"),
    *("tarfile.extractall", "shutil.unpack_archive", "zipfile.ZipFile", "markupsafe.Markup"),
}
ALLOWED = {
    ("jobs/collecting.py", "zipfile.ZipFile"),  # entry by entry, each path and SHA-256 checked
    ("data/sources/cifar.py", "pickle.Unpickler"),  # the base of one, see below
    ("report/html.py", "markupsafe.Markup"),  # around text that has been escaped, see below
}


def spelled(node):
    """The dotted name of an expression, as far as it is one."""
    if isinstance(node, ast.Attribute):
        return f"{spelled(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def used(text):
    """Every dotted name in a source, what it imports, and some methods by their last part."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Name, ast.Attribute)):
            yield spelled(node)
            if isinstance(node, ast.Attribute) and node.attr in ("extractall", "extract"):
                yield "tarfile.extractall"
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell"):
            yield node.arg


def test_the_source_unpickles_evaluates_and_starts_nothing():
    found = {
        (str(file.relative_to(ROOT / "src" / "fedgloss")), name)
        for file in SOURCES
        for name in used(file.read_text(encoding="utf-8"))
        if name in FORBIDDEN or name in ("allow_pickle", "shell")
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        *("from pickle import loads", "torch.load(f)", "x = eval", "archive.extractall(p)"),
        *("np.load(f, allow_pickle=True)", "subprocess.run('ls', shell=True)"),
        "yaml.load(t, Loader)",
    ],
)
def test_which_the_test_would_see(line):
    assert {*used(line)} & {*FORBIDDEN, "allow_pickle", "shell"}


# Pickles under every name


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {shlex.quote(str(self.marker))}",)


@pytest.fixture
def bombs(tmp_path):
    """Pickles, also inside torch's zip files, that leave a marker when they are loaded."""
    bomb = Bomb(tmp_path / "pwned")
    buffer = io.BytesIO()
    torch.save({"w": bomb}, buffer)
    made = [pickle.dumps(bomb, protocol) for protocol in (0, 2, 5)]
    made += [pickle.dumps({"filenames": bomb, b"data": bomb}), buffer.getvalue()]
    size = len(made[1]).to_bytes(8, "little")
    return [*made, size + made[1], b"\x80\x02}" + made[1]]


def test_the_bombs_work(bombs, tmp_path):
    for content in bombs[:4]:
        with contextlib.suppress(Exception):
            pickle.loads(content)
        assert (tmp_path / "pwned").exists()
        (tmp_path / "pwned").unlink()


def test_a_pickle_in_the_place_of_any_file_is_refused_or_left_out_and_named(
    bombs, project, monkeypatch
):
    monkeypatch.setattr(outdated, "harm", lambda *_: None)  # else such metrics are left out
    run = Path("results/runs/toy") / CELL
    train = ["train", "job.json"]
    draw = ["landscape", job_file(project / "draw.json", "landscape", **INPUTS, run=run, out="new")]
    from_file = ["--scheme", "file", "--file", "split.json"]
    commands = {
        "data/data.safetensors": train,
        "data/manifest.json": train,
        "partition.json": train,
        "job.json": train,
        "split.json": ["partition", "--data", "data", "--out", "p", *from_file],
        "study.yaml": ["check", "study.yaml"],
        str(run / "average.safetensors"): draw,
        str(run / "manifest.json"): draw,
        str(run / "metrics.csv"): ["figure", "study.yaml", "curves", "--results", "results"],
    }
    for name, command in commands.items():
        good = Path(name).read_bytes() if Path(name).exists() else b""
        for content in bombs:
            Path(name).write_bytes(content)
            code, lines = fedgloss(*command)
            assert code == 2 and len(lines) == 1, (name, code, lines)
        Path(name).write_bytes(good)
    assert not Path("new").exists()
    for content in bombs:
        Path("results/analysis/toy", CELL, "hessian.json").write_bytes(content)
        assert fedgloss("table", "study.yaml", "numbers") == (0, [])
        shown = Path("results/tables/toy/numbers.md").read_text(encoding="utf-8")
        assert "hessian.json" in shown, shown


def test_pickles_as_weights_and_checkpoints(bombs, tmp_path):
    store = Checkpoints(tmp_path / "c", {"a": 1}, say=lambda message: None)
    (tmp_path / "c").mkdir()
    for content in bombs:
        file = tmp_path / "c" / "round-0000005.safetensors"
        file.write_bytes(content)
        assert store.load() is None
        for reader in (load_tensors, load_metadata):
            with pytest.raises(InputError):
                reader(file)
        with pytest.raises(InputError):
            read(build_model("smallcnn", (1, 8, 8), 10), file)


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_pickles_as_cifar_batches(bombs, source, tmp_path):
    known = getattr(torchvision("datasets"), source.upper())
    folder = tmp_path / "root" / known.base_folder
    folder.mkdir(parents=True)
    for content in bombs:
        for name, _ in cifar._files(known):
            (folder / name).write_bytes(content)
        with pytest.raises(InputError, match="MD5"):
            prepare(source, tmp_path / "out", root=tmp_path / "root")


def test_the_reader_of_names_knows_three_names_alone(bombs, tmp_path):
    for number, content in enumerate(bombs[:4]):
        (tmp_path / str(number)).write_bytes(content)
        with pytest.raises(pickle.UnpicklingError, match="not allowed"):
            cifar._unpickle(tmp_path / str(number))


# Archives


def member(name, kind=tarfile.REGTYPE, size=4, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = size if kind == tarfile.REGTYPE else 0
    return info


BASE = "cifar-10-batches-py"
ARCHIVES = {
    "beside the files": [
        member("../pwned"),
        member(f"{BASE}/../../pwned"),
        member(f"{BASE}/pwned"),
    ],
    "an absolute name": [member("{tmp}/pwned_too")],
    "a link, then through it": [
        member(f"{BASE}/out", tarfile.SYMTYPE, link="{tmp}"),
        member(f"{BASE}/out/pwned_too"),
        member("link", tarfile.SYMTYPE, link="/etc"),
    ],
    "the folder as a link": [member(BASE, tarfile.SYMTYPE, link="{tmp}")],
    "devices": [member(f"{BASE}/x", tarfile.CHRTYPE), member(f"{BASE}/y", tarfile.FIFOTYPE)],
}


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Serve a made archive as CIFAR-10's, with its hashes accepted; returns what downloads it."""
    known, utils = torchvision("datasets").CIFAR10, torchvision("datasets.utils")
    names = [name for name, _ in cifar._files(known)]
    monkeypatch.setattr(utils, "check_integrity", lambda file, md5=None: Path(file).is_file())

    def download(members):
        def fetch(url, root, filename, md5):
            Path(root).mkdir(exist_ok=True)
            with tarfile.open(Path(root) / filename, "w:gz") as archive:
                for info in members:
                    info.name = info.name.replace("{tmp}", str(tmp_path))
                    info.linkname = info.linkname.replace("{tmp}", str(tmp_path))
                    archive.addfile(
                        info, io.BytesIO(b"evil") if info.size == 4 else Zeros(info.size)
                    )

        monkeypatch.setattr(utils, "download_url", fetch)
        cifar._download(known, tmp_path / "root")

    return names, download


class Zeros(io.RawIOBase):
    """A file of zeros that takes no space."""

    def __init__(self, size):
        self.left = size

    def read(self, count=-1):
        count = self.left if count < 0 else min(count, self.left)
        self.left -= count
        return bytes(count)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_only_the_wanted_files_leave_an_archive(kind, served, tmp_path):
    names, download = served
    download([*ARCHIVES[kind], *(member(f"{BASE}/{name}") for name in names)])
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    wanted = {f"root/{BASE}/{name}" for name in names}
    assert found == {*wanted, "root/cifar-10-python.tar.gz"}
    assert not any((tmp_path / name).is_symlink() for name in found)


@pytest.mark.parametrize(
    "wrong",
    [
        member(f"{BASE}/batches.meta", tarfile.SYMTYPE, link="/etc/passwd"),
        member(f"{BASE}/batches.meta", tarfile.LNKTYPE, link=f"{BASE}/data_batch_1"),
        member(f"{BASE}/batches.meta", tarfile.DIRTYPE),
        member(f"{BASE}/batches.meta", size=cifar.LARGEST + 1),
        member("elsewhere/batches.meta"),
    ],
    ids=["link", "hard link", "folder", "huge", "absent"],
)
def test_a_wanted_file_that_is_a_link_or_too_large_is_refused(wrong, served, tmp_path):
    names, download = served
    members = [member(f"{BASE}/{name}") for name in names if name != "batches.meta"]
    with pytest.raises((tarfile.TarError, KeyError)):
        download([*members, wrong])
    assert not (tmp_path / "root" / BASE / "batches.meta").exists()


def test_a_bad_archive_is_one_line(served, tmp_path, monkeypatch):
    _, download = served
    monkeypatch.setattr(cifar, "_download", lambda known, root: download([member("../pwned")]))
    with pytest.raises(InputError, match=r"cifar10: download to .* failed"):
        prepare("cifar10", tmp_path / "out", root=tmp_path / "root", download=True)
    assert not (tmp_path / "out" / "data.safetensors").exists()


# Names in Landmarks' lists


@pytest.mark.parametrize(
    "image",
    ["../../secret", "../secret", "{tmp}/secret", "a/b/c", "..", "abc/../../../../secret", "a\0b"],
)
def test_an_image_id_cannot_leave_the_folder(image, tmp_path):
    picture(tmp_path / "secret.jpg", 0)
    root = tmp_path / "gld"
    (root / "./." / "s").mkdir(parents=True)
    shutil.copy(tmp_path / "secret.jpg", root / "s" / "x.jpg")
    image = image.replace("{tmp}", str(tmp_path))
    (root / "federated_train.csv").write_text(f"user_id,image_id,class\n0,{image},0\n")
    (root / "test.csv").write_text("image_id,class\nabc,0\n")
    with pytest.raises(InputError, match=r"federated_train\.csv: line 2: image_id"):
        prepare("landmarks", tmp_path / "out", root=root)


# YAML


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system [touch pwned]",
        "!!python/name:os.system",
        "!!python/tuple [1]",
        "!!python/object/new:os.system [touch pwned]",
        "!!python/object/apply:builtins.eval ['1']",
        "!!python/object:fedgloss.study.study.Study {}",
        "!!python/module:os",
        "!x y",
    ],
)
def test_yaml_that_would_make_objects_is_refused(tag, tmp_path):
    for text in (f"study: {tag}", f"{tag}", f"? {tag}\n: 1", f"a: &a {tag}\nb: *a", f"<<: {tag}"):
        (tmp_path / "study.yaml").write_text(text + "\n")
        code, lines = fedgloss("check", tmp_path / "study.yaml")
        assert code == 2 and len(lines) == 1, lines
        # Of what is merged, the tag plays no part: its keys alone are taken.
        assert "not valid YAML" in lines[0] or text.startswith("<<"), lines
