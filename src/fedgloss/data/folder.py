"""Any image dataset with one folder per class: ROOT/train/CLASS/*.png, ROOT/test/CLASS/*.png.

Also the decoding of single images, shared with `landmarks`.
"""

from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedgloss.data.facts import encode_names, measure
from fedgloss.data.store import stream
from fedgloss.errors import InputError
from fedgloss.tensors import load_tensors

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


def write(
    path: Path, *, root: Path | None, size: int | None, name: str | None, **_: Any
) -> dict[str, Any]:
    """Write a folder-per-class dataset's tensors to `path`; return the manifest's entries.

    Classes are train/'s folders in alphabetical order. Grey images (judged by the first) keep one
    channel, all others become RGB. Without `size` all images must have the first one's size.
    """
    if root is None:
        raise InputError("folder: no folder given (key: root)")
    classes = sorted(folder.name for folder in _folders(root / "train"))
    train = _files(root / "train", classes)
    for label, members in enumerate(train):
        if not members:
            raise InputError(f"{root / 'train' / classes[label]}: a class with no images")
    unknown = sorted({folder.name for folder in _folders(root / "test")} - set(classes))
    if unknown:
        raise InputError(f"{root / 'test' / unknown[0]}: a class that train/ does not have")
    test = _files(root / "test", classes)
    if not any(test):
        raise InputError(f"{root / 'test'}: no images")

    shape, mode = _first(train[0][0], size)
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
    stream(path, files["train"], files["test"], partial(decode, mode=mode, size=size), shape, small)
    mean, std = measure(load_tensors(path)["train_images"])
    return {
        "name": name or root.resolve().name,
        "source": "one folder per class",
        "size": size,
        "classes": classes,
        "mean": mean,
        "std": std,
    }


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (expected train/ and test/, each with classes)")
    found = [entry for entry in folder.iterdir() if entry.is_dir()]
    if not found:
        raise InputError(f"{folder}: holds no folders, one is expected for each class")
    return found


def _files(folder: Path, classes: list[str]) -> list[list[Path]]:
    """For each class its images, in order of name."""
    found = [
        sorted(file for file in (folder / name).iterdir() if file.suffix.lower() in SUFFIXES)
        if (folder / name).is_dir()
        else []
        for name in classes
    ]
    for file in chain(*found):
        if not file.is_file():  # a broken link, or a pipe that would be waited for
            raise InputError(f"{file}: is not a file")
    return found


def _first(file: Path, size: int | None) -> tuple[tuple[int, int, int], str]:
    """The stored shape (channels, height, width) and the colour mode, after the first image."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            mode = "L" if image.mode in ("1", "L") else "RGB"
            width, height = image.size
    except Exception:  # Pillow's plugins raise whatever they meet
        raise InputError(f"{file}: cannot be decoded (not an image)") from None
    if size is not None:
        width = height = size
    return (1 if mode == "L" else 3, height, width), mode


def decode(file: Path, mode: str, size: int | None) -> np.ndarray:
    """One image as uint8 [C, H, W].

    With `size`, its shorter side is scaled to `size` (bilinear, antialiased) and the middle square
    is cut out: torchvision's Resize(size) and CenterCrop(size), bit for bit.
    """
    from PIL import Image

    with Image.open(file) as image:
        image = image.convert(mode)
        if size is not None:
            image = _middle_square(image, size, Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def _middle_square(image: Any, size: int, filter: int) -> Any:
    width, height = image.size
    short = min(width, height)
    if short != size:
        width, height = (size * side // short for side in (width, height))
        image = image.resize((width, height), filter)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))
