"""Files that jobs left behind for a cell, read and checked; InputError says what is broken."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

from fedgloss.errors import InputError
from fedgloss.records import (
    COUNT,
    NUMBER,
    PERCENTAGE,
    POSITIVE,
    STATUS,
    TEXT,
    Kind,
    check_record,
    read_record,
)

Columns = dict[str, list[float]]
"""A CSV of numbers by column."""

MANIFEST = {
    "status": STATUS,
    "diverged_in": COUNT.or_null,
    "accuracy": PERCENTAGE.or_null,
    "accuracy_at_half": PERCENTAGE.or_null,
    "settings": {
        "algorithm": TEXT,
        "method": TEXT,
        "variants": TEXT.by_name,
        "hyperparameters": NUMBER.by_name,
        "training": {
            "rounds": POSITIVE,
            "clients_per_round": POSITIVE,
            "evaluate_every": POSITIVE,
            "last": POSITIVE,
        },
    },
    "parameters": POSITIVE,
    "gradients_per_step": NUMBER,
    **dict.fromkeys(("bytes_down", "bytes_up"), COUNT),
    **dict.fromkeys(("backend", "device", "precision", "code"), TEXT),
    "threads": POSITIVE,
    **dict.fromkeys(("versions", "inputs", "outputs"), TEXT.by_name),
    **dict.fromkeys(("wall_seconds", "images_per_second"), NUMBER),
}
"""What the report needs to know of a run."""
HESSIAN = {"data": TEXT, "lambda1": NUMBER.or_null}
"""And of its Hessian."""
ESTIMATES = {
    "trace": {"trace": NUMBER, "standard_error": NUMBER, "products": POSITIVE},
    "density": Kind(
        "nodes and weights, as many of one as of the other, for each of two starts or more",
        lambda value: (
            isinstance(value, dict)
            and all(NUMBER.listed.listed.fits(value.get(key)) for key in ("nodes", "weights"))
            and [*map(len, value["nodes"])] == [*map(len, value["weights"])]
            and len(value["nodes"]) > 1
            and all(value["nodes"])
        ),
    ),
}
"""What a Hessian's file has beside eigenvalues, if it was asked for."""
LOCALS = {
    "status": STATUS,
    "method": TEXT,
    "images": Kind("a number, all or auto", lambda value: isinstance(value, (int, str))),
    "locals": Kind("a list", lambda value: isinstance(value, list)),
}
LARGEST = {
    **dict.fromkeys(("lambda1", "residual", "sampling_error"), NUMBER),
    "converged": Kind("true or false", lambda value: isinstance(value, bool)),
}
LOCAL = {
    **{"client": COUNT, "class": TEXT, "share": NUMBER, "images": POSITIVE},
    **{"local": LARGEST, "global": LARGEST},
}
"""And of its local models'."""


@dataclass(frozen=True)
class Seen:
    """A surface or a line, and what it is of."""

    columns: Columns
    facts: Mapping[str, Any]
    """`status`; if completed, `images`, of how many; of a local model `client` and `class`."""


def read_metrics(file: Path) -> Columns:
    """The evaluated rounds of a run: round, accuracy, loss and what else was recorded.

    Before a run diverges, its model may be finite, and a norm or the loss inf, beyond float32.
    """
    columns = _read_csv(file, ("round", "accuracy"))
    for name, values in columns.items():
        overflows = name not in ("round", "accuracy")
        if not all(NUMBER.fits(value) or (overflows and value == math.inf) for value in values):
            raise InputError(f"{file}: {name} has an entry that is not finite")
    return columns


def read_hessian(file: Path) -> dict[str, Any]:
    """The largest eigenvalues of a Hessian, and of which model on which data; see ESTIMATES."""
    found = read_record(file, HESSIAN)
    check_record(file, found, {key: kind for key, kind in ESTIMATES.items() if key in found})
    return found


def read_locals(file: Path) -> dict[str, Any]:
    """The largest eigenvalues of a run's local models, each on its own data and on all."""
    found = read_record(file, LOCALS)
    for i, row in enumerate(found["locals"]):
        check_record(file, row, LOCAL, f"locals[{i}]")
    return found


def read_view(file: Path, axes: tuple[str, ...]) -> Seen:
    """A surface or a line: its axes, x slowest, loss, accuracy. No rows if the run diverged."""
    columns = _read_csv(file, (*axes, "loss", "accuracy"))
    places = [*zip(*(columns[name] for name in axes), strict=True)]
    along = [sorted({*columns[name]}) for name in axes]
    if places and (places != [*product(*along)] or min(map(len, along)) < 2):
        raise InputError(f"{file}: {' and '.join(axes)} are not those of a grid, x slowest")
    finite = filter(math.isfinite, (*columns["loss"], *columns["accuracy"]))
    if not all(map(NUMBER.fits, (*chain(*along), *finite))):
        raise InputError(f"{file}: holds numbers out of all bounds")
    beside = file.with_suffix(".json")
    facts = read_record(beside, {"status": STATUS})
    if facts["status"] == "completed":
        local = {"client": COUNT, "class": TEXT} if "client" in facts else {}
        check_record(beside, facts, {"images": POSITIVE, "of": POSITIVE, **local})
    return Seen(columns, facts)


def _read_csv(file: Path, wanted: tuple[str, ...]) -> Columns:
    try:
        with open(file, newline="", encoding="utf-8") as text:
            rows = csv.DictReader(text)
            columns: Columns = {name: [] for name in rows.fieldnames or ()}
            for name in wanted:
                if name not in columns:
                    raise InputError(f"{file}: no column {name!r}")
            for row in rows:
                for name in columns:
                    try:
                        columns[name].append(float(row[name]))
                    except (TypeError, ValueError):
                        where = f"line {rows.line_num}: {name}"
                        raise InputError(f"{file}: {where} is not a number") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV file ({error})") from None
    return columns
