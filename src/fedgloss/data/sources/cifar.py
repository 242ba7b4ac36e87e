"""CIFAR-10 and CIFAR-100 through torchvision, as published or as the paper's authors trained on.

The authors' preparation (data/cifar10/preprocessing/save_images.py) writes training and test
images into one folder, the test images last. Where a test image bears a training image's name, the
training file is overwritten. `images="official_overlap"` reproduces that; "clean" does not.

CIFAR-100 may also be PNG files in class folders, under the images' original names.
"""

import contextlib
import hashlib
import io
import pickle
import shutil
import socket
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch

from fedgloss.data.facts import encode_names
from fedgloss.data.sources import folder
from fedgloss.errors import InputError, reason
from fedgloss.files import atomic
from fedgloss.tensors import load_tensors, save_tensors
from fedgloss.torchvision_compat import torchvision

# The released code's constants (codebase/clients/client.py), for training and test alike.
NORMALISATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2434, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
PIXELS = {
    "train": "6d2a03c47c105e4c34d3a2ff16c2803e8df0e5d6fa0c631e46663a327aeac573",
    "test": "381b7d98ce1e9b98232a8df0db0a22992654c39ff2433270656ab8ace5a45e65",
}
"""Of CIFAR-100: `_digest` of its labels and images."""
LARGEST = 200 * 2**20  # bytes; the largest published file, CIFAR-100's train, has 155 million
TIMEOUT = 30.0  # seconds without an answer after which a download is given up


def write(
    path: Path, *, source: str, root: Path | None, download: bool, images: str, **_: Any
) -> dict[str, Any]:
    """Write the tensors of CIFAR-10 or CIFAR-100 to `path`; return the manifest's entries."""
    if root is None:
        raise InputError(f"{source}: no folder given for the originals (key: root)")
    if source == "cifar100" and not download and _is_folders(root):
        return _from_folders(path, root, images)
    train, test = _open(source, root, download)
    train_names, test_names = _names(source, root, train, test)
    pixels = {"train": _channels_first(train), "test": _channels_first(test)}
    replaced: dict[str, list[int]] = {"train": [], "test": []}
    if images == "official_overlap":
        replaced = _overwrite(pixels["train"], pixels["test"], train_names + test_names)
    tensors = {
        "train_images": torch.from_numpy(pixels["train"]),
        "train_labels": torch.tensor(train.targets, dtype=torch.int64),
        "test_images": torch.from_numpy(pixels["test"]),
        "test_labels": torch.tensor(test.targets, dtype=torch.int64),
        "train_names": encode_names(train_names),
        "test_names": encode_names(test_names),
    }
    save_tensors(path, tensors)
    mean, std = NORMALISATION[source]
    return {
        "name": source,
        "source": f"torchvision {source.upper()}, MD5 {train.tgz_md5} (python version)",
        "classes": list(train.classes),
        "mean": mean,
        "std": std,
        "train_images_replaced_by_test_images": replaced["test"],
        "train_images_replaced_by_train_images": replaced["train"],
    }


def _is_folders(root: Path) -> bool:
    """Whether CIFAR-100 is there as root/{train,test}/CLASS/NAME.png and not as published."""
    published = root / torchvision("datasets").CIFAR100.base_folder
    return (root / "train").is_dir() and not published.exists()


def _from_folders(path: Path, root: Path, images: str) -> dict[str, Any]:
    """CIFAR-100 from class folders, every pixel checked; the classes' order is the labels'.

    Images are in another order than in the published files, so a generated partition is another.
    """
    if images != "clean":
        raise InputError(
            f"images: {images!r} needs cifar-100-python in {root}: of two images with one name the"
            " last one counts, and folders have no order"
        )
    facts = folder.write(path, root=root, size=None, name="cifar100")
    tensors = load_tensors(path)
    for part, digest in PIXELS.items():
        pixels, labels = tensors[f"{part}_images"], tensors[f"{part}_labels"]
        if _digest(pixels, labels) != digest:
            raise InputError(f"{root / part}: its {len(labels)} images are not those of CIFAR-100")
    mean, std = NORMALISATION["cifar100"]
    return {**facts, "source": "CIFAR-100, one folder per class", "mean": mean, "std": std}


def _digest(images: torch.Tensor, labels: torch.Tensor) -> str:
    """SHA-256 of labels [N] and images [N, 3, 32, 32], whatever their order."""
    rows = (
        hashlib.sha256(bytes([label]) + image.tobytes()).digest()
        for label, image in zip(labels.tolist(), images.numpy(), strict=True)
    )
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest()


def _channels_first(part: Any) -> np.ndarray:
    """A torchvision set's images as uint8 [N, 3, 32, 32]; its own copy is given up."""
    pixels, part.data = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), None
    return pixels


def last_of_name(names: list[str]) -> np.ndarray:
    """For each file in writing order, the position of the last one written under its name."""
    last = {name: position for position, name in enumerate(names)}
    return np.array([last[name] for name in names])


def _overwrite(train: np.ndarray, test: np.ndarray, names: list[str]) -> dict[str, list[int]]:
    """Give each image the pixels its file ends up with when all are written in turn to one folder.

    Returns the training images that took over a test image, and those that took over a training
    image (CIFAR-100 has one name twice in training).
    """
    count = len(train)
    source = last_of_name(names)
    replaced: dict[str, list[int]] = {"train": [], "test": []}
    for index in np.flatnonzero(source[:count] != np.arange(count)):
        last = source[index]
        train[index] = train[last] if last < count else test[last - count]
        replaced["train" if last < count else "test"].append(int(index))
    # Positions only grow, so no image above was read after being replaced. Test images likewise:
    for index in np.flatnonzero(source[count:] != np.arange(count, len(names))):
        test[index] = test[source[count + index] - count]
    return replaced


def _open(source: str, root: Path, download: bool) -> tuple[Any, Any]:
    """torchvision's training and test sets, after checking every file's MD5."""
    cifar = getattr(torchvision("datasets"), source.upper())
    folder = root / cifar.base_folder
    try:
        if download:
            with _timeout(TIMEOUT), contextlib.redirect_stdout(io.StringIO()):
                _download(cifar, root)
        return tuple(cifar(str(root), train=train) for train in (True, False))
    except (OSError, RuntimeError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        if not download:
            _check_files(cifar, folder)
        raise InputError(f"{source}: download to {root} failed ({reason(error)})") from None


def _files(cifar: Any) -> list[tuple[str, str]]:
    """The names and MD5 of the published files."""
    meta = (cifar.meta["filename"], cifar.meta["md5"])
    return [*map(tuple, (*cifar.train_list, *cifar.test_list)), meta]


def _download(cifar: Any, root: Path) -> None:
    """Fetch the archive, check its MD5, and copy out of it the files that are wanted, no others.

    Unpacking it would trust the names in it: `../`, links, files larger than the disk.
    """
    utils, folder = torchvision("datasets.utils"), root / cifar.base_folder
    if all(utils.check_integrity(str(folder / name), md5) for name, md5 in _files(cifar)):
        return
    utils.download_url(cifar.url, str(root), cifar.filename, cifar.tgz_md5)
    with tarfile.open(root / cifar.filename, "r:gz") as archive:
        for name, _ in _files(cifar):
            member = archive.getmember(f"{cifar.base_folder}/{name}")
            if not member.isfile() or member.size > LARGEST:
                raise tarfile.TarError(f"{cifar.filename} holds no such file {member.name}")
            with atomic(folder / name) as temporary, open(temporary, "wb") as file:
                shutil.copyfileobj(cast(IO[bytes], archive.extractfile(member)), file)


def _check_files(cifar: Any, folder: Path) -> None:
    """InputError for the first file that is missing or altered, with what to do about it."""
    check = torchvision("datasets.utils").check_integrity
    for name, md5 in _files(cifar):
        file = folder / name
        if not file.is_file():
            raise InputError(
                f"{file}: not found; unpack {cifar.url} in {folder.parent}, or prepare with "
                "download on a machine with network"
            )
        if not check(str(file), md5):
            raise InputError(f"{file}: its MD5 is not {md5}; the file is truncated or altered")


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    # torchvision opens its URLs without a timeout; a node behind a firewall would wait for ever.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _names(source: str, root: Path, train: Any, test: Any) -> tuple[list[str], list[str]]:
    """File names of the training and test images in the authors' splits.

    CIFAR-10: img_<index>_label_<label>.png. CIFAR-100: the names inside the published files.
    """
    if source == "cifar10":
        ours, others = (
            [f"img_{index}_label_{label}.png" for index, label in enumerate(part.targets)]
            for part in (train, test)
        )
    else:
        ours, others = (
            [name.decode() for name in _unpickle(root / train.base_folder / file)[b"filenames"]]
            for file in ("train", "test")
        )
    return ours, others


class _Unpickler(pickle.Unpickler):
    """Reads the published batches, whose MD5 has been checked, and nothing but arrays in them."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.zeros(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _unpickle(file: Path) -> Any:
    with open(file, "rb") as batch:
        return _Unpickler(batch, encoding="bytes").load()
