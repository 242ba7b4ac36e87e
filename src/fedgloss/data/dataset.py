"""Prepared datasets: `data.safetensors` (uint8 images) and `manifest.json` (what it is).

`prepare` writes them once; `load` maps them into memory and needs torch and numpy alone. `prepare`
writes the manifest last; a folder with a manifest alone is one that `fedgloss import` has made.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedgloss.data.definition import check_prepared
from fedgloss.data.facts import shared_images
from fedgloss.errors import InputError, printable
from fedgloss.files import sha256, write_text
from fedgloss.records import COUNT, NUMBER, TEXT, Kind, read_record
from fedgloss.tensors import load_tensors

FORMAT = 1
IMAGES = ("clean", "official_overlap")
LARGEST = 10_000  # pixels on a side; of larger images, hardly one fits into memory
POSITIVE = Kind("a number above 0", lambda value: NUMBER.fits(value) and value > 0)
MANIFEST = {
    "format": COUNT,
    "name": TEXT,
    "images": TEXT,
    "classes": TEXT.listed,
    "mean": NUMBER.listed,
    "std": POSITIVE.listed,
    "bytes": COUNT,
    "sha256": TEXT,
}
"""What a prepared data set says of itself, beside its tensors."""


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset; the tensors are views of a memory-mapped file.

    Attributes
      name          for example "cifar10"
      train_images  uint8 [N, C, H, W]
      train_labels  int64 [N], positions in `classes`
      test_images   uint8 [M, C, H', W'] (H', W' may differ from H, W)
      test_labels   int64 [M]
      classes       the classes' names
      mean, std     per channel, of values in [0, 1], used by `augment.normalize`
      train_users   int64 [N], the user who took the photograph, or None
      train_names, test_names   uint8, newline-separated file names (`names` decodes them), or None
      images        "clean" or "official_overlap" (see docs/data.md)
      sha256        of data.safetensors
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_users: torch.Tensor | None
    train_names: torch.Tensor | None
    test_names: torch.Tensor | None
    images: str
    sha256: str


def _writer(source: str) -> Callable[..., dict[str, Any]]:
    """The function that writes one source's tensors; imported only when asked for."""
    if source == "digits":
        from fedgloss.data.sources import digits

        return digits.write
    if source in ("cifar10", "cifar100"):
        from fedgloss.data.sources import cifar

        return cifar.write
    if source == "folder":
        from fedgloss.data.sources import folder

        return folder.write
    if source == "landmarks":
        from fedgloss.data.sources import landmarks

        return landmarks.write
    raise InputError(
        f"source: {source!r} is unknown (allowed: digits, cifar10, cifar100, folder, landmarks)"
    )


def prepare(
    source: str,
    out: Path,
    *,
    root: Path | None = None,
    download: bool = False,
    images: str = "clean",
    size: int | None = None,
    name: str | None = None,
) -> None:
    """Write `out`/data.safetensors, then `out`/manifest.json.

    source    digits | cifar10 | cifar100 | folder | landmarks
    root      the folder with the originals (not used by digits, which come with scikit-learn)
    download  fetch CIFAR if it is not in `root`; otherwise a missing file is an InputError
    images    CIFAR only: "clean", or "official_overlap" for the images the authors trained on
    size      folder and landmarks only: the side in pixels of the stored square images
    name      folder only: the dataset's name (default: the folder's)

    What was skipped or changed is said in lines on standard error, and in the manifest's `notes`.
    Raises InputError if `out` holds a whole data set of another definition.
    """
    if images not in IMAGES:
        raise InputError(f"images: {images!r} is unknown (allowed: {', '.join(IMAGES)})")
    if images != "clean" and source not in ("cifar10", "cifar100"):
        raise InputError(f"images: {images!r} exists for cifar10 and cifar100 only, not {source}")
    if size is not None and not (source in ("folder", "landmarks") and 1 <= size <= LARGEST):
        raise InputError(
            f"size: {size} is not possible for {source} (folder, landmarks: 1 to {LARGEST})"
        )
    write = _writer(source)
    if name is not None and source != "folder":
        raise InputError(f"name: {name!r} cannot be given to {source}, which has its own")
    out, root = Path(out), None if root is None else Path(root)
    if (out / "data.safetensors").exists():
        made: dict[str, Any] = {"source": source, "images": images, "size": size}
        if source == "folder" and root is not None:
            made["name"] = name or root.resolve().name
        then = "give another folder to write, or delete this one first"
        check_prepared(out, made, "the given ", then)
    path = out / "data.safetensors.new"
    try:
        facts = write(
            path,
            source=source,
            root=root,
            download=download,
            images=images,
            size=size,
            name=name,
        )
        tensors = load_tensors(path)
        classes = facts["classes"]
        shared = shared_images(tensors["train_images"], tensors["test_images"])
        notes = facts.pop("notes", [])
        if shared and images == "clean":
            notes.append(f"{shared} training images are, pixel for pixel, test images too")
        manifest = {
            "format": FORMAT,
            "images": images,
            **facts,
            "train": _counts(tensors["train_labels"], len(classes)),
            "test": _counts(tensors["test_labels"], len(classes)),
            "tensors": {key: [_dtype(t), *t.shape] for key, t in sorted(tensors.items())},
            "train_images_in_test": shared,
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
            "notes": notes,
        }
        # Only now, so that a refusal leaves an earlier data set whole; and the manifest first, so
        # that it never stands beside other data.
        (out / "manifest.json").unlink(missing_ok=True)
        os.replace(path, out / "data.safetensors")
        write_text(out / "manifest.json", layout(manifest, rows=("notes",)))
    finally:
        path.unlink(missing_ok=True)
    for note in notes:
        print(printable(f"{manifest['name']}: {note}"), file=sys.stderr)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _counts(labels: torch.Tensor, classes: int) -> dict[str, Any]:
    per_class = torch.bincount(labels, minlength=classes)
    return {"images": len(labels), "per_class": per_class.tolist()}


def load(folder: Path, verify: bool = False, test: bool = True) -> Dataset:
    """Map a prepared dataset into memory; with `verify`, hash the file first unless it is trusted.

    test: whether it is to have its test images; without, it has none, and nothing looks at them.

    `prepare` hashes the data and then writes the manifest, so data older than their manifest are as
    they were: hashing the 27.7 GB of Landmarks once more would keep each job waiting. Data that are
    not older (a copy whose dates are its own, or an edit) are hashed. Whatever its date, a file of
    another size, or with other names, types and shapes, than the manifest says is refused.

    Raises InputError when the folder is incomplete, or the file is not the one described.
    """
    folder = Path(folder)
    path = folder / "data.safetensors"
    manifest = read_record(folder / "manifest.json", MANIFEST)
    try:
        described, expected = manifest["tensors"], manifest["sha256"]
        if manifest["format"] != FORMAT:
            raise InputError(
                f"{folder}/manifest.json: format {manifest['format']}, expected {FORMAT}"
            )
        tensors = load_tensors(path)
        found = {key: [_dtype(t), *t.shape] for key, t in sorted(tensors.items())}
        if found != described or path.stat().st_size != manifest["bytes"]:
            raise InputError(f"{path}: not the file described by manifest.json; prepare it again")
        trusted = path.stat().st_mtime_ns < (folder / "manifest.json").stat().st_mtime_ns
        if verify and not trusted and sha256(path) != expected:
            raise InputError(f"{path}: SHA-256 differs from manifest.json; prepare it again")
        if not test:
            for key in ("test_images", "test_labels"):
                tensors[key] = tensors[key][:0]
        _check_tensors(path, tensors, len(manifest["classes"]), ("train", "test")[: 1 + test])
        channels = tensors["train_images"].shape[1]
        for key in ("mean", "std"):
            if len(manifest[key]) != channels:
                raise InputError(f"{folder}/manifest.json: {key}: not one for each channel")
        return Dataset(
            name=manifest["name"],
            train_images=tensors["train_images"],
            train_labels=tensors["train_labels"],
            test_images=tensors["test_images"],
            test_labels=tensors["test_labels"],
            classes=tuple(manifest["classes"]),
            mean=tuple(manifest["mean"]),
            std=tuple(manifest["std"]),
            train_users=tensors.get("train_users"),
            train_names=tensors.get("train_names"),
            test_names=tensors.get("test_names"),
            images=manifest["images"],
            sha256=expected,
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder}/manifest.json: missing or broken entry ({error})") from None


def _check_tensors(
    path: Path, tensors: dict[str, torch.Tensor], classes: int, parts: tuple[str, ...]
) -> None:
    """InputError unless images and labels are what `Dataset` says; KeyError for one not there."""
    for part in parts:
        images, labels = tensors[f"{part}_images"], tensors[f"{part}_labels"]
        if images.dtype != torch.uint8 or images.ndim != 4 or not images.numel():
            raise InputError(f"{path}: {part}_images: not uint8 images [N, C, H, W]")
        if images.shape[1] != tensors["train_images"].shape[1]:
            raise InputError(f"{path}: {part}_images: {images.shape[1]} channels, unlike training")
        of_images = {f"{part}_labels": labels}
        if part == "train" and "train_users" in tensors:
            of_images["train_users"] = tensors["train_users"]
        for key, numbers in of_images.items():
            if numbers.dtype != torch.int64 or numbers.shape != images.shape[:1]:
                raise InputError(f"{path}: {key}: not one int64 for each image")
        if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise InputError(f"{path}: {part}_labels: not all from 0 to {classes - 1}")
        encoded = tensors.get(f"{part}_names")
        if encoded is not None and (encoded.dtype != torch.uint8 or encoded.ndim != 1):
            raise InputError(f"{path}: {part}_names: not text as uint8")


def layout(record: dict[str, Any], rows: tuple[str, ...] = ()) -> str:
    """JSON with one line per key, and one line per entry of the lists named in `rows`."""
    lines = []
    for key, value in record.items():
        text = json.dumps(value, allow_nan=False)
        if key in rows and value:
            text = "[\n  " + ",\n  ".join(json.dumps(row) for row in value) + "\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
