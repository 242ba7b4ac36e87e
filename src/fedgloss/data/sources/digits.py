"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8 x 8 pixels.

The data of the quickstart: no download, and training takes seconds.
"""

import hashlib
import importlib.util
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedgloss.data.facts import measure
from fedgloss.errors import InputError
from fedgloss.rng import Stream
from fedgloss.tensors import save_tensors

# Every class has at least 174 images. 140 of each for training make 1,400, which 50 clients can
# share equally with one class each (alpha = 0: five clients per class, 28 images per client).
TRAIN_PER_CLASS = 140
SPLIT_SEED = 0
# Pixels are 0 .. 16; times 15 they are 0 .. 240, exactly invertible and near the 0 .. 255 of
# other images.
SCALE = 15
# SHA-256 of the pixels and labels as int64. Jobs trust that the digits are the same everywhere.
PUBLISHED = "e10b10289c0d9d8a1b3e6b7dfe998949029a89056e0e06dfb989924a36d75a3c"


def write(path: Path, **_: Any) -> dict[str, Any]:
    """Write the digits' tensors to `path`; return the manifest's entries."""
    table = _table(_original())
    pixels = (table[:, :-1] * SCALE).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = table[:, -1]
    train = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        order = Stream(SPLIT_SEED, "digits split", client=label).permutation(len(members))
        train[members[order[:TRAIN_PER_CLASS]]] = True
    tensors = {
        "train_images": torch.from_numpy(pixels[train]),
        "train_labels": torch.from_numpy(labels[train]),
        "test_images": torch.from_numpy(pixels[~train]),
        "test_labels": torch.from_numpy(labels[~train]),
    }
    save_tensors(path, tensors)
    mean, std = measure(tensors["train_images"])
    return {
        "name": "digits",
        "source": "scikit-learn load_digits, pixel values times 15",
        "classes": [str(label) for label in range(10)],
        "mean": mean,
        "std": std,
    }


def _table(file: Path) -> np.ndarray:
    """The digits as published, a row each: 64 pixels and the label."""
    try:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    if hashlib.sha256(table.astype("<i8").tobytes()).hexdigest() != PUBLISHED:
        raise InputError(f"{file}: not the 1,797 digits that scikit-learn publishes")
    return table


def _original() -> Path:
    """scikit-learn's file of the digits, found without the seconds that importing it takes."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise InputError("source: digits come with scikit-learn, which is not installed")
    return Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
