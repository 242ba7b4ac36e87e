"""Partitions: `partition.json`, which says for each client the images it holds, by index.

One file holds the indices and the manifest: what was asked for, what came out, and the SHA-256 of
the dataset the indices belong to.
"""

import hashlib
from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedgloss.data.dataset import Dataset, layout
from fedgloss.data.partition import generators
from fedgloss.errors import InputError
from fedgloss.files import read_json, write_text
from fedgloss.rng import Stream

FORMAT = 1
SMALLEST, LARGEST = Decimal("1e-9"), Decimal("1e9")
"""Concentrations beyond these no draw tells from 0 and from identical clients."""
SCHEMES = (
    "dirichlet",
    "dirichlet-per-class",
    "dirichlet-per-class-capped",
    "iid",
    "natural",
    "file",
)


@dataclass(frozen=True)
class Partition:
    """Who holds which training image.

    Attributes
      clients   one int64 tensor of indices into the training images per client, each sorted
      test      the indices of the test images to use (a split file may name them), or None for all
      held_out  the indices of training images that no client trains on, each of some client's
                share; or None
      manifest  the rest of partition.json: scheme, alpha, seed, sizes, labels, statistics, hashes
    """

    clients: tuple[torch.Tensor, ...]
    test: torch.Tensor | None
    held_out: torch.Tensor | None
    manifest: dict[str, Any]


@dataclass(frozen=True)
class HeldOut:
    """That every client keeps a share of its images (above 0, below 1) out of its training."""

    share: float
    seed: int = 0
    """Of the draw of which images these are."""

    def split(self, parts: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
        """What each client trains on, and the images that are held out of all clients' together.

        Of n images a client keeps round(share * n) out, but trains on one at least. InputError
        where nobody has enough images to keep any out.
        """
        kept, out = [], []
        for client, part in enumerate(parts):
            count = min(round(self.share * len(part)), len(part) - 1)
            order = Stream(self.seed, "held out", client=client).permutation(len(part))
            out.append(part[order[:count]])
            kept.append(part[np.sort(order[count:])])
        held_out = np.sort(np.concatenate(out))
        if not len(held_out):
            raise InputError(f"held_out: a share of {self.share:g} is no image of any client")
        return kept, held_out


def make_partition(
    dataset: Dataset,
    out: Path,
    *,
    scheme: str,
    clients: int | None = None,
    alpha: str | None = None,
    seed: int = 0,
    file: Path | None = None,
    held_out: HeldOut | None = None,
) -> None:
    """Write the partition `out` (JSON).

    scheme   dirichlet: Hsu et al., equal sizes, `alpha` the total concentration, "0" one class each
             dirichlet-per-class: every class cut by Dirichlet(alpha) over the clients, sizes vary
             dirichlet-per-class-capped: the same, no further classes for a client with its share
             iid; natural: by the dataset's users; file: read from `file`, a split file or the
             folder of the authors' split files (see `splits`)
    clients  how many; None where the data decides (natural, file), or to be compared with it
    alpha    a decimal number as text for the dirichlet schemes; which of the authors' files for
             file; for the others only recorded
    seed     of the draws; nothing is drawn for natural and file
    held_out what each client keeps out of its training, if anything
    Raises InputError, with the reason, for a request that cannot be met.
    """
    if scheme not in SCHEMES:
        raise InputError(f"scheme: {scheme!r} is unknown (allowed: {', '.join(SCHEMES)})")
    labels = dataset.train_labels.numpy()
    test: np.ndarray | None = None
    kept_out: np.ndarray | None = None
    notes: dict[str, Any] = {}
    if scheme == "file":
        from fedgloss.data.partition.splits import read

        if file is None:
            raise InputError("scheme file: no split file given (key: file)")
        parts, test, notes = read(Path(file), dataset, alpha)
        if clients is not None and clients != len(parts):
            raise InputError(f"{file}: has {len(parts)} clients, {clients} asked for")
    elif scheme == "natural":
        users = dataset.train_users
        parts = generators.natural(None if users is None else users.numpy(), clients)
    else:
        parts = _generate(labels, scheme, clients, alpha, seed)
    parts = [np.sort(part) for part in parts]
    belongs_to = {
        "name": dataset.name,
        "images": dataset.images,
        "sha256": dataset.sha256,
        "train_images": len(labels),
        "test_images": len(dataset.test_labels),
    }
    _check(file or out, parts, test, belongs_to)
    if held_out is not None:
        parts, kept_out = held_out.split(parts)
        notes["held_out"] = {**asdict(held_out), "images": kept_out.tolist()}
    record = {
        "format": FORMAT,
        "dataset": belongs_to,
        "scheme": scheme,
        "alpha": alpha,
        "seed": seed,
        **notes,
        **describe(parts, labels, len(dataset.classes)),
        "sha256": _digest(parts, test, kept_out),
        "test": None if test is None else test.tolist(),
        "clients": [part.tolist() for part in parts],
    }
    write_text(out, layout(record, rows=("labels", "clients")))


def _generate(
    labels: np.ndarray, scheme: str, clients: int | None, alpha: str | None, seed: int
) -> generators.Clients:
    if clients is None or clients < 1:
        raise InputError(f"scheme {scheme}: the number of clients must be at least 1")
    if len(labels) < clients:
        raise InputError(f"{clients} clients cannot share {len(labels)} images")
    if scheme == "iid":
        return generators.iid(labels, clients, seed)
    value = _concentration(scheme, alpha)
    if scheme == "dirichlet" and value == 0:
        return generators.one_class(labels, clients, seed)
    if scheme == "dirichlet":
        return generators.dirichlet(labels, clients, seed, value)
    if value == 0:
        raise InputError(f"scheme {scheme}: alpha must be above 0 (scheme dirichlet takes 0)")
    cap = scheme == "dirichlet-per-class-capped"
    return generators.dirichlet_per_class(labels, clients, seed, value, cap)


def _concentration(scheme: str, alpha: str | None) -> float:
    try:
        value = Decimal(str(alpha))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not (value == 0 or SMALLEST <= value <= LARGEST):
        raise InputError(
            f"scheme {scheme}: alpha must be 0 or a number from {SMALLEST:g} to {LARGEST:g}, "
            f"not {alpha!r}"
        )
    return float(value)


def describe(parts: list[np.ndarray], labels: np.ndarray, classes: int) -> dict[str, Any]:
    """What came out: sizes, labels per client, and how different the clients are.

    `labels`: for each client its count of images by class, classes it lacks left out.
    `entropy`: mean over clients of the label entropy, in nats.
    `concentration`: the total concentration A at which Dirichlet(A p) has the clients' mean
    squared label share, p being the classes' shares of the data; null if the clients are more
    alike than any A allows. Clients drawn with `alpha` show about alpha while classes last.
    """
    counts = np.array([np.bincount(labels[part], minlength=classes) for part in parts])
    sizes = counts.sum(axis=1)
    share = counts / np.maximum(sizes, 1)[:, None]
    logs = np.log(np.where(share > 0, share, 1))
    prior = np.bincount(labels, minlength=classes) / len(labels)
    square, floor = (share**2).sum(axis=1).mean(), (prior**2).sum()
    concentration = (1 - square) / (square - floor) if square > floor else None
    held = [np.flatnonzero(row) for row in counts]
    return {
        "sizes": sizes.tolist(),
        "statistics": {
            "clients": len(parts),
            "images": int(sizes.sum()),
            "smallest": int(sizes.min()),
            "largest": int(sizes.max()),
            "classes_per_client": float(np.mean([len(row) for row in held])),
            "entropy": float((share * -logs).sum(axis=1).mean()),
            "concentration": None if concentration is None else float(concentration),
        },
        "labels": [
            {str(label): int(row[label]) for label in present}
            for row, present in zip(counts, held, strict=True)
        ],
    }


def _digest(parts: list[np.ndarray], test: np.ndarray | None, held_out: np.ndarray | None) -> str:
    digest = hashlib.sha256()
    more = [] if held_out is None else [held_out]
    for indices in [*parts, np.zeros(0, dtype=np.int64) if test is None else test, *more]:
        digest.update(np.array([len(indices), *indices], dtype="<i8").tobytes())
    return digest.hexdigest()


def load_partition(path: Path, dataset: Dataset | None = None) -> Partition:
    """Read and check a partition: ranges, disjointness, its own hash, the dataset's if given."""
    record = read_json(path)
    try:
        if record["format"] != FORMAT:
            raise InputError(f"{path}: format {record['format']}, expected {FORMAT}")
        if dataset is not None and record["dataset"]["sha256"] != dataset.sha256:
            raise InputError(
                f"{path}: made for other data ({record['dataset']['name']}, "
                f"{record['dataset']['images']}) than {dataset.name}, {dataset.images}; "
                "make the partition again"
            )
        if dataset is not None:
            sizes = {"train_images": len(dataset.train_labels)}
            if len(dataset.test_labels):  # none were loaded of a data set for a sweep
                sizes["test_images"] = len(dataset.test_labels)
            if any(record["dataset"][key] != size for key, size in sizes.items()):
                raise InputError(f"{path}: dataset: not the numbers of images that it has")
        parts = [np.array(part) for part in record.pop("clients")]
        test = record.pop("test")
        test = None if test is None else np.array(test)
        held_out = np.array(record["held_out"]["images"]) if "held_out" in record else None
        _check(path, parts, test, record["dataset"], held_out)
        if record["sha256"] != _digest(parts, test, held_out):
            raise InputError(f"{path}: the indices differ from their SHA-256; make it again")
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: missing or broken entry ({error})") from None
    return Partition(
        clients=tuple(torch.from_numpy(part) for part in parts),
        test=None if test is None else torch.from_numpy(test),
        held_out=None if held_out is None else torch.from_numpy(held_out),
        manifest=record,
    )


def _check(
    path: Path,
    parts: list[np.ndarray],
    test: np.ndarray | None,
    sizes: dict[str, Any],
    held_out: np.ndarray | None = None,
) -> None:
    """InputError unless every client has images, all exist, and no image is used twice.

    sizes: the dataset's "train_images" and "test_images".
    """
    if not parts:
        raise InputError(f"{path}: has no clients")
    for client, part in enumerate(parts):
        if not len(part):
            raise InputError(f"{path}: client {client} has no images")
    if test is not None and not len(test):
        raise InputError(f"{path}: test: has no images; without a test list, all are used")
    of_clients = {f"client {number}": part for number, part in enumerate(parts)}
    if held_out is not None:
        of_clients["held_out"] = held_out
    _check_indices(path, of_clients, "training", sizes["train_images"])
    if test is not None:
        _check_indices(path, {"test": test}, "test", sizes["test_images"])


def _check_indices(path: Path, groups: dict[str, np.ndarray], what: str, limit: int) -> None:
    """InputError, with whose it is and which, for an image that is not there or is used twice."""
    for name, indices in groups.items():
        if indices.dtype != np.int64:
            raise InputError(f"{path}: {name}: a {what} index is not an integer")
        outside = indices[(indices < 0) | (indices >= limit)]
        if len(outside):
            raise InputError(
                f"{path}: {name}: {what} index {outside[0]} is outside 0 .. {limit - 1}"
            )
    ordered = np.sort(np.concatenate([*groups.values()]))  # np.unique would import numpy.ma
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        first, second = [n for n, part in groups.items() for i in part if i == twice[0]][:2]
        said = "is there twice" if first == second else f"is {first}'s too"
        raise InputError(f"{path}: {second}: {what} image {twice[0]} {said}")
