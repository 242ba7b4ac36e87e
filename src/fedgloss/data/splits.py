"""Partitions that come as files: the authors' published splits (LEAF JSON), or a user's own.

The authors' files name images, not positions, and look like
    {"users": [...], "num_samples": [...], "users_data": {"7": {"x": [names], "y": [labels]}}}
`num_samples` is not used (it is wrong in the CIFAR-10 file for alpha 5). A user's own file is
    {"clients": [[indices], ...], "test": [indices]}        with "test" optional.
"""

import operator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedgloss.errors import InputError
from fedgloss.files import read_json, sha256

if TYPE_CHECKING:  # which files a split is made of can be asked without waiting for torch
    from fedgloss.data.datasets import Dataset

Positions = dict[tuple[str, int], int]  # of an image, by file name without folder, and label


def files(file: Path, alpha: str | None) -> list[Path]:
    """The files that `read` reads: the split, and the one of the test images if it is there."""
    if file.is_dir():
        file = _of_alpha(file, alpha)
    beside = (file.parent / "test.json", file.parent.parent / "test" / "test.json")
    return [file, *[path for path in beside if path.is_file()][:1]]


def read(
    file: Path, dataset: "Dataset", alpha: str | None
) -> tuple[list[np.ndarray], np.ndarray | None, dict[str, Any]]:
    """The clients' training indices, the test indices or None, and entries for the manifest.

    `file` may be the folder of the authors' files, where `alpha` decides which one is meant.
    Client k of a LEAF file is its k-th user in numerical order. Beside a LEAF file, `test.json` (or
    ../test/test.json, as in the authors' repository) gives the test images if it is there.
    """
    file, *test_files = files(file, alpha)
    record = read_json(file)
    notes: dict[str, Any] = {"file": file.name, "file_sha256": sha256(file)}
    if not isinstance(record, dict):
        raise InputError(f"{file}: neither a LEAF split nor an object with the key 'clients'")
    if "clients" in record:
        parts = [_indices(file, part) for part in _list(file, "clients", record["clients"])]
        test = record.get("test")
        return parts, None if test is None else _indices(file, test), notes
    positions = _positions(file, dataset, "train")
    users = _leaf(file, record)
    parts = [_resolve(file, user, data, positions) for user, data in users.items()]
    notes["users"] = list(users)
    if not test_files:
        return parts, None, notes
    test_file = test_files[0]
    positions = _positions(test_file, dataset, "test")
    held = _leaf(test_file, read_json(test_file))
    test = [_resolve(test_file, user, data, positions) for user, data in held.items()]
    if not test:
        raise InputError(f"{test_file}: has no users")
    return parts, np.sort(np.concatenate(test)), notes | {"test_file_sha256": sha256(test_file)}


def _of_alpha(folder: Path, alpha: str | None) -> Path:
    """The authors' name for a split: two decimals, as in federated_train_alpha_0.05.json."""
    try:
        return folder / f"federated_train_alpha_{Decimal(str(alpha)):.2f}.json"
    except InvalidOperation:
        raise InputError(f"{folder}: holds splits by alpha, and alpha is {alpha!r}") from None


def _list(file: Path, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{file}: {key!r} is not a list")
    return value


def _indices(file: Path, values: Any) -> np.ndarray:
    values = _list(file, "clients", values)
    if not all(type(value) is int for value in values):
        raise InputError(f"{file}: an index is not an integer")
    if not all(0 <= value < 2**63 for value in values):
        raise InputError(f"{file}: an index is negative, or beyond any data set")
    return np.array(values, dtype=np.int64)


def _leaf(file: Path, record: Any) -> dict[str, list[tuple[str, int]]]:
    """For each user, in numerical order, the (name, label) pairs of its images."""
    try:
        data = record.get("users_data") or record["user_data"]
        order = sorted(map(str, record["users"]), key=lambda user: (len(user), user))
        return {
            user: [
                (str(name), operator.index(label))
                for name, label in zip(data[user]["x"], data[user]["y"], strict=True)
            ]
            for user in order
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{file}: not a LEAF split with users_data, x and y ({reason})") from None


def _positions(file: Path, dataset: "Dataset", part: str) -> Positions:
    """Where each image is. CIFAR-100 needs the label: one name stands for two of its images."""
    from fedgloss.data.facts import names

    encoded = dataset.train_names if part == "train" else dataset.test_names
    labels = dataset.train_labels if part == "train" else dataset.test_labels
    if encoded is None:
        raise InputError(
            f"{file}: {dataset.name} has no file names, so a split must give indices "
            "(key 'clients')"
        )
    try:
        named = [*zip(names(encoded), labels.tolist(), strict=True)]
    except ValueError:
        raise InputError(f"{dataset.name}: its {part}_names are not one for each image") from None
    found: Positions = {}
    for index, (name, label) in enumerate(named):
        key = (name.rsplit("/", 1)[-1], label)
        if found.setdefault(key, index) != index:
            raise InputError(
                f"{file}: {dataset.name} has two {part} images called {key[0]} (label {label}), "
                "so a split must give indices (key 'clients')"
            )
    return found


def _resolve(
    file: Path, user: str, images: list[tuple[str, int]], positions: Positions
) -> np.ndarray:
    absent = [image for image in images if image not in positions]
    if absent:
        name, label = absent[0]
        raise InputError(
            f"{file}: user {user} names {len(absent)} images that the data does not have, "
            f"the first is {name} with label {label}"
        )
    return np.array([positions[image] for image in images], dtype=np.int64)
