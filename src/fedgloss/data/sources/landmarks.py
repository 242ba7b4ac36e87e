"""Landmarks-User-160K: Google Landmarks v2 images by the users who took them.

ROOT holds the two files of Hsu et al. (arXiv 2003.08082), `federated_train.csv` with columns
user_id, image_id, class and `test.csv` with image_id, class, and the images in the dataset's own
folders, [train/]a/b/c/<id>.jpg by the first three digits of the id (those of test.csv as well: they
come from the training images of Google Landmarks v2).

Images are stored as the authors' older code fed them to the network: shorter side to 224 pixels,
middle square, ImageNet normalisation.
"""

import csv
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedgloss.data.definition import LANDMARKS_SIZE
from fedgloss.data.facts import encode_names
from fedgloss.data.sources.images import decode
from fedgloss.data.store import stream
from fedgloss.errors import InputError

IMAGE_ID = re.compile(r"[A-Za-z0-9_-]{3,100}")  # it is part of a path, which must stay in the root
WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def write(path: Path, *, root: Path | None, size: int | None, **_: Any) -> dict[str, Any]:
    """Write the tensors of Landmarks-User-160K to `path`; return the manifest's entries.

    Decoding the 183,698 images takes a while (27.7 GB); interrupted, it goes on where it was.
    """
    if root is None:
        raise InputError("landmarks: no folder given (key: root)")
    size = size or LANDMARKS_SIZE
    users, train, train_labels = _read(
        root / "federated_train.csv", ("user_id", "image_id", "class")
    )
    test, test_labels = _read(root / "test.csv", ("image_id", "class"))[1:]
    classes = _count_classes(root, train_labels, test_labels)
    small = {
        "train_labels": torch.tensor(train_labels, dtype=torch.int64),
        "test_labels": torch.tensor(test_labels, dtype=torch.int64),
        "train_users": torch.tensor(users, dtype=torch.int64),
        "train_names": encode_names(train),
        "test_names": encode_names(test),
    }
    stream(
        path,
        _locate(root, train, "federated_train.csv"),
        _locate(root, test, "test.csv"),
        partial(decode, mode="RGB", size=size),
        (3, size, size),
        small,
    )
    mean, std = IMAGENET
    return {
        "name": "landmarks",
        "source": "Google Landmarks v2, Landmarks-User-160K",
        "size": size,
        "users": len(np.unique(users)),
        "classes": [str(label) for label in range(classes)],
        "mean": mean,
        "std": std,
    }


def _read(file: Path, columns: Sequence[str]) -> tuple[list[int], list[str], list[int]]:
    """Users (empty without that column), image ids and classes, one entry per row."""
    users, images, labels = [], [], []
    try:
        # "-sig": spreadsheets write a byte-order mark, which is no part of the first name.
        with open(file, newline="", encoding="utf-8-sig") as rows:
            reader = csv.DictReader(rows)
            named = [*(reader.fieldnames or [])]
            for column in columns:
                if named.count(column) != 1:
                    how_many = "two columns" if column in named else "no column"
                    raise InputError(
                        f"{file}: {how_many} {column!r} (expected {', '.join(columns)})"
                    )
            for row in reader:
                if None in row:  # DictReader's key for cells beyond the header's
                    raise InputError(
                        f"{file}: line {reader.line_num}: {len(named) + len(row[None])} cells, "
                        f"the first line has {len(named)}"
                    )
                if not row["image_id"]:
                    raise InputError(f"{file}: line {reader.line_num}: no image_id")
                if not IMAGE_ID.fullmatch(row["image_id"]):
                    raise InputError(
                        f"{file}: line {reader.line_num}: image_id is {row['image_id']!r:.60}, "
                        "allowed are letters, digits, '_' and '-'"
                    )
                for column in set(columns) - {"image_id"}:
                    if not WHOLE_NUMBER.fullmatch(row[column] or ""):
                        raise InputError(
                            f"{file}: line {reader.line_num}: {column} is {row[column]!r:.60}, "
                            "not a whole number"
                        )
                if "user_id" in columns:
                    users.append(int(row["user_id"]))
                images.append(row["image_id"])
                labels.append(int(row["class"]))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV file ({error})") from None
    if not images:
        raise InputError(f"{file}: has no rows")
    if len(set(images)) != len(images):
        raise InputError(f"{file}: an image_id occurs twice")
    return users, images, labels


def _count_classes(root: Path, train: list[int], test: list[int]) -> int:
    classes, found = max(max(train), max(test)) + 1, set(train)
    if len(found) < classes:
        empty = next(label for label in range(classes) if label not in found)
        raise InputError(
            f"{root / 'federated_train.csv'}: class {empty} of 0 .. {classes - 1} has no images"
        )
    return classes


def _locate(root: Path, images: list[str], listed_in: str) -> list[Path]:
    folder = root / "train" if (root / "train").is_dir() else root
    files = [folder / "/".join(image[:3]) / f"{image}.jpg" for image in images]
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise InputError(
            f"{root / listed_in}: {len(absent)} of {len(files)} images are absent, "
            f"the first is {absent[0]}"
        )
    return files
