"""Partitions that come as files: the authors' published splits (LEAF JSON), or a user's own.

The authors' files name images, not positions, and look like
    {"users": [...], "num_samples": [...], "users_data": {"7": {"x": [names], "y": [labels]}}}
`num_samples` is not used (it is wrong in the CIFAR-10 file for alpha 5). A user's own file is
    {"clients": [[indices], ...], "test": [indices]}        with "test" optional.
"""

import operator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedgloss.errors import InputError
from fedgloss.files import read_json, sha256

if TYPE_CHECKING:  # which files a split is made of can be asked without waiting for torch
    from fedgloss.data.dataset import Dataset

Positions = dict[tuple[str, int], int]  # of an image, by file name without folder, and label


def files(file: Path, alpha: str | None) -> list[Path]:
    """The files that `read` reads: the split, and the one of the test images if it is there."""
    if file.is_dir():
        file = _of_alpha(file, alpha)
    beside = (file.parent / "test.json", file.parent.parent / "test" / "test.json")
    return [file, *[path for path in beside if path.is_file()][:1]]


def count_clients(file: Path, alpha: str | None) -> int:
    """How many clients a split has; checks all of it that can be checked without the data."""
    return len(_open(file, alpha).clients)


def read(
    file: Path, dataset: "Dataset", alpha: str | None
) -> tuple[list[np.ndarray], np.ndarray | None, dict[str, Any]]:
    """The clients' training indices, the test indices or None, and entries for the manifest.

    `file` may be the folder of the authors' files, where `alpha` decides which one is meant.
    Client k of a LEAF file is its k-th user in numerical order. Beside a LEAF file, `test.json` (or
    ../test/test.json, as in the authors' repository) gives the test images if it is there.
    """
    split = _open(file, alpha)
    notes: dict[str, Any] = {"file": split.file.name, "file_sha256": sha256(split.file)}
    if not split.by_name:
        test = None if split.test is None else np.concatenate([*split.test.values()])
        return [*split.clients.values()], test, notes
    positions = _positions(split.file, dataset, "train")
    parts = [_resolve(split.file, *user, positions) for user in split.clients.items()]
    notes["users"] = list(split.clients)
    if split.test is None:
        return parts, None, notes
    notes["test_file_sha256"] = sha256(split.test_file)
    positions = _positions(split.test_file, dataset, "test")
    named = [_resolve(split.test_file, *user, positions) for user in split.test.items()]
    return parts, np.sort(np.concatenate(named)), notes


class _Split(NamedTuple):
    """A split as its files say it: for each user, (name, label) pairs or an array of indices."""

    file: Path
    test_file: Path
    by_name: bool
    clients: dict[str, Any]
    test: dict[str, Any] | None


def _open(file: Path, alpha: str | None) -> _Split:
    """Read a split's files; InputError for one with a client, or a test set, without images."""
    file, *test_files = files(file, alpha)
    clients: dict[str, Any]
    test: dict[str, Any] | None
    record = read_json(file)
    if not isinstance(record, dict):
        raise InputError(f"{file}: neither a LEAF split nor an object with the key 'clients'")
    by_name = "clients" not in record
    if by_name:
        test_file = test_files[0] if test_files else file
        clients = _leaf(file, record)
        test = _leaf(test_file, read_json(test_file)) if test_files else None
    else:
        test_file = file
        listed = _list(file, "clients", record["clients"])
        clients = {str(k): _indices(file, f"client {k}", part) for k, part in enumerate(listed)}
        for key in record:
            if key.lower().startswith("test") and key != "test":
                raise InputError(f"{file}: {key!r} is not read; the test images are called 'test'")
        test = record.get("test")
        test = None if test is None else {"test": _indices(file, "test", test)}
    if not clients:
        raise InputError(f"{file}: has no clients")
    for number, images in enumerate(clients.values()):
        if not len(images):
            raise InputError(f"{file}: client {number} has no images")
    if test is not None and not any(map(len, test.values())):
        raise InputError(f"{test_file}: has no test images; without a test list, all are used")
    return _Split(file, test_file, by_name, clients, test)


def _of_alpha(folder: Path, alpha: str | None) -> Path:
    """The authors' name for a split: two decimals, as in federated_train_alpha_0.05.json."""
    try:
        value = Decimal(str(alpha))
        name = f"{value:.2f}"
        rounded = Decimal(name) != value
    except InvalidOperation:
        raise InputError(f"{folder}: holds splits by alpha, and alpha is {alpha!r}") from None
    if rounded:  # the nearest split is another one
        raise InputError(f"{folder}: holds splits by alpha to two decimals, and alpha is {alpha!r}")
    return folder / f"federated_train_alpha_{name}.json"


def _list(file: Path, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{file}: {key!r} is not a list")
    return value


def _indices(file: Path, whose: str, values: Any) -> np.ndarray:
    values = _list(file, whose, values)
    for value in values:
        if type(value) is not int:
            raise InputError(f"{file}: {whose}: index {value!r:.60} is not an integer")
        if not 0 <= value < 2**63:
            raise InputError(f"{file}: {whose}: index {value} is not that of an image")
    return np.array(values, dtype=np.int64)


def _leaf(file: Path, record: Any) -> dict[str, list[tuple[str, int]]]:
    """For each user, in numerical order, the (name, label) pairs of its images."""
    if not isinstance(record, dict) or not {"users_data", "user_data"} & record.keys():
        raise InputError(
            f"{file}: has neither 'clients', the lists of indices of a split of your own, nor"
            " 'users_data', as a LEAF split has"
        )
    try:
        data = record["users_data" if "users_data" in record else "user_data"]
        order = sorted(map(str, record["users"]), key=lambda user: (len(user), user))
        if order != sorted(data, key=lambda user: (len(user), user)):
            raise ValueError("not the same users in 'users' and in the data, each once")
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
