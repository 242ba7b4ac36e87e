"""Any image dataset with one folder per class: ROOT/train/CLASS/*.png, ROOT/test/CLASS/*.png."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from fedgloss.data.definition import OWN
from fedgloss.data.facts import encode_names, measure
from fedgloss.data.sources.images import Look, decode, look
from fedgloss.data.store import stream
from fedgloss.errors import InputError
from fedgloss.tensors import load_tensors

# What is named like these must be an image that can be decoded. HEIC cannot: such photographs are
# refused, where files of other kinds are passed over and counted.
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".heic", ".heif"),
    *(".bmp", ".dib", ".gif", ".tif", ".tiff", ".jp2", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# Folders that macOS' and Synology's programs add; their names begin with no dot.
HIDDEN = ("__MACOSX", "@eaDir")
CHUNK = 4096  # images whose headers are read between two waits


class Skipped:
    """What a folder holds and the data set does not: paths, by what they are."""

    def __init__(self) -> None:
        self.hidden: list[Path] = []
        self.others: list[Path] = []  # files whose names do not say that they are images
        self.outside: list[Path] = []  # files beside the folders of the classes
        self.parts: list[Path] = []  # folders beside train and test

    def notes(self, root: Path) -> Iterator[str]:
        """One line for each kind that there is."""
        kinds = {
            "hidden files or folders": self.hidden,
            f"files that are not named as images are ({_suffixes(self.others)})": self.others,
            "files outside the classes' folders": self.outside,
            "folders other than train and test": self.parts,
        }
        for what, paths in kinds.items():
            if paths:
                yield f"skipped {len(paths)} {what}, the first is {paths[0].relative_to(root)}"


def _suffixes(files: Iterable[Path]) -> str:
    found = Counter(file.suffix.lower() or "no suffix" for file in files)
    return ", ".join(f"{count} {suffix}" for suffix, count in found.most_common(5))


def write(
    path: Path, *, root: Path | None, size: int | None, name: str | None, **_: Any
) -> dict[str, Any]:
    """Write a folder-per-class dataset's tensors to `path`; return the manifest's entries.

    Classes are train/'s folders in alphabetical order, hidden ones left out; their images may lie
    at any depth. Images keep one channel if all of them are grey, otherwise all become RGB.
    Without `size` they must be of one size. All headers are read before an image is decoded.
    """
    if root is None:
        raise InputError("folder: no folder given (key: root)")
    skipped = Skipped()
    classes = _classes(root / "train", skipped)
    unknown = sorted(set(_classes(root / "test", skipped)) - set(classes))
    if unknown:
        raise InputError(f"{root / 'test' / unknown[0]}: a class that train/ does not have")
    train = _images(root / "train", classes, skipped)
    for label, members in zip(classes, train, strict=True):
        if not members:
            folder = root / "train" / label
            others = _suffixes(file for file in skipped.others if folder in file.parents)
            raise InputError(f"{folder}: a class with no images ({others or 'no files at all'})")
    test = _images(root / "test", classes, skipped)
    if not any(test):
        raise InputError(f"{root / 'test'}: no images")
    skipped.parts = sorted(
        entry
        for entry in root.iterdir()
        if entry.is_dir() and not _hidden(entry) and entry.name not in ("train", "test")
    )

    files = {"train": list(chain(*train)), "test": list(chain(*test))}
    small = {}
    for part, groups in (("train", train), ("test", test)):
        labels = [label for label, members in enumerate(groups) for _ in members]
        small[f"{part}_labels"] = torch.tensor(labels, dtype=torch.int64)
        relative = [str(file.relative_to(root / part)) for file in files[part]]
        try:
            small[f"{part}_names"] = encode_names(relative)
        except InputError as error:
            raise InputError(f"{root / part}: {error}") from None
    looks = _look(files["train"] + files["test"])
    if size is None:
        _check_sizes(files["train"] + files["test"], looks)
    grey = all(seen.grey for seen in looks)
    shape = (1 if grey else 3, size or looks[0].height, size or looks[0].width)
    decode_one = partial(decode, mode="L" if grey else "RGB", size=size)
    stream(path, files["train"], files["test"], decode_one, shape, small)
    images = load_tensors(path)["train_images"]
    mean, std = measure(images)
    return {
        "name": name or root.resolve().name,
        "source": OWN,
        "size": size,
        "classes": classes,
        "mean": mean,
        "std": std,
        "notes": [*skipped.notes(root), *_changes(looks, grey, images)],
    }


def _hidden(entry: Path) -> bool:
    return entry.name.startswith(".") or entry.name in HIDDEN


def _classes(folder: Path, skipped: Skipped) -> list[str]:
    """The names of the folders in train/ or test/, in order."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (expected train/ and test/, each with classes)")
    entries = sorted(folder.iterdir())
    skipped.hidden += filter(_hidden, entries)
    entries = [entry for entry in entries if not _hidden(entry)]
    skipped.outside += [entry for entry in entries if not entry.is_dir()]
    found = sorted(entry.name for entry in entries if entry.is_dir())
    if not found:
        raise InputError(f"{folder}: holds no folders, one is expected for each class")
    return found


def _images(part: Path, classes: list[str], skipped: Skipped) -> list[list[Path]]:
    """For each class its images, in order of name."""
    seen: dict[Path, Path] = {}  # where each folder that was read really lies
    groups = [[*_below(part / name, seen, skipped)] for name in classes]
    # By the parts of a path, so that the order is the same for all versions of Python.
    return [sorted(group, key=lambda file: file.parts) for group in groups]


def _below(folder: Path, seen: dict[Path, Path], skipped: Skipped) -> Iterator[Path]:
    """The images in a folder and those below it."""
    folders = [folder] if folder.is_dir() else []
    while folders:
        folder = folders.pop()
        first = seen.setdefault(folder.resolve(), folder)
        if first is not folder:  # a link, perhaps to a folder above it
            raise InputError(f"{folder}: is the same folder as {first}")
        for entry in sorted(folder.iterdir()):
            if _hidden(entry):
                skipped.hidden.append(entry)
            elif entry.is_dir():
                folders.append(entry)
            elif entry.suffix.lower() not in SUFFIXES:
                skipped.others.append(entry)
            elif not entry.is_file():  # a broken link, or a pipe that would be waited for
                raise InputError(f"{entry}: is not a file")
            else:
                yield entry


def _look(files: list[Path]) -> list[Look]:
    looks: list[Look] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), CHUNK):
            looks += pool.map(look, files[start : start + CHUNK])
    return looks


def _check_sizes(files: list[Path], looks: list[Look]) -> None:
    sizes = [(seen.width, seen.height) for seen in looks]
    others = [index for index, size in enumerate(sizes) if size != sizes[0]]
    if others:
        other = others[0]
        raise InputError(
            "{}: is {} x {} pixels, the first image {} x {}".format(
                files[other], *sizes[other], *sizes[0]
            )
            + f"; {len(others)} of {len(files)} differ from the first, and no size is given"
        )


def _changes(looks: list[Look], grey: bool, images: torch.Tensor) -> Iterator[str]:
    """How the stored images differ from the files, a line for each kind."""
    for words, count in Counter(chain(*(seen.changes for seen in looks))).items():
        yield f"{count} of {len(looks)} images {words}"
    mixed = sum(seen.grey for seen in looks)
    if mixed and not grey:
        yield f"{mixed} of {len(looks)} images are grey among colour ones, and stored as RGB"
    if any(seen.deep for seen in looks):  # a depth map or an X-ray may use few of the 65,536 values
        low, high = images.aminmax()
        yield f"the stored training images' values reach from {low} to {high} of 0 to 255"
