"""What a study's cells are trained on: the definitions of data sets and partitions, made commands.

A definition becomes the options of `fedgloss prepare` or `fedgloss partition`; the options decide
the folder. Studies share a data set as constants/methods.yaml defines it. One that a study defines
otherwise, or by itself, lies in a folder that names its definition: no study takes another's away.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgloss.errors import InputError
from fedgloss.files import sha256
from fedgloss.study.schema.study import Dataset


@dataclass(frozen=True)
class Split:
    """A split that comes as a file: the SHA-256 of the files it is made of, and its clients."""

    sha256: tuple[str, ...]
    clients: int


def read_split(file: str, alpha: str, expected: Split | None = None) -> Split:
    """What is known of a split before it is imported; InputError if it can be seen to be broken.

    expected: what the study says of it, which does where the file is not here.
    """
    from fedgloss.data.partition import splits

    if expected and not is_split_there(file, alpha):
        return expected
    files = splits.files(Path(file), alpha)
    clients = splits.count_clients(Path(file), alpha)
    found = Split(tuple(map(sha256, files)), clients)
    if expected and found != expected:
        raise InputError(
            f"{files[0]}: is not the split that the study names ({found.clients} clients, SHA-256"
            f" {' and '.join(found.sha256)})"
        )
    return found


def is_split_there(file: str, alpha: str) -> bool:
    """Whether there is something to import; `file` may be a folder of splits by alpha."""
    from fedgloss.data.partition import splits

    return splits.files(Path(file), alpha)[0].exists()


def prepare_options(definition: Dataset) -> list[str]:
    """The command line of `fedgloss prepare`, without the folder to write."""
    options, given = [str(definition.source)], definition.given()
    for key in ("root", "images", "size"):
        if key in given:
            options.append(f"--{key}={given[key]}")  # "=": a value may begin with a dash
    return options + (["--download"] if definition.download else [])


def partition_arguments(definition: Dataset, alpha: str) -> dict[str, Any]:
    """The arguments of a data set's partition at this alpha, as far as the definition gives them.

    `iid` and `natural` are schemes of their own, unless the partition comes as a file: that says
    itself what it is, and alpha is its label.
    """
    cut = definition.partition
    scheme = alpha if alpha in ("iid", "natural") and cut.scheme != "file" else cut.scheme
    arguments: dict[str, Any] = {"scheme": cut.by_alpha.get(alpha, scheme)}
    for key in ("clients", "seed") if arguments["scheme"] != "file" else ("clients", "file"):
        if getattr(cut, key) is not None:
            arguments[key] = getattr(cut, key)
    return arguments if arguments["scheme"] == alpha else {**arguments, "alpha": alpha}


def partition_options(arguments: Mapping[str, Any]) -> list[str]:
    """The command line of `fedgloss partition`, without the folders."""
    keys = ("scheme", "clients", "alpha", "seed", "file")
    options = [f"--{key}={arguments[key]}" for key in keys if key in arguments]
    if held_out := arguments.get("held_out"):
        options += [f"--held-out={held_out['share']}", f"--held-out-seed={held_out['seed']}"]
    return options


def data_folder(name: str, definition: Dataset, shared: Dataset | None) -> str:
    """The folder of a data set; `shared`: how all studies know this name, if they do."""
    options = prepare_options(definition)
    if shared is not None and prepare_options(shared) == options:
        return name
    return _own(name, options)


def partition_folder(
    name: str, definition: Dataset, shared: Dataset | None, arguments: Mapping[str, Any]
) -> str:
    """The folder of a data set's partitions that are made as the one with these arguments."""
    options = [prepare_options(definition), partition_options({**arguments, "alpha": ""})]
    if shared is not None:
        alike = partition_arguments(shared, arguments.get("alpha", arguments["scheme"]))
        if options == [prepare_options(shared), partition_options({**alike, "alpha": ""})]:
            return name
    return _own(name, options)


def _own(name: str, options: list[Any]) -> str:
    """No name has a plus sign: see `Name` in study/schema/kinds.py."""
    return f"{name}+{hashlib.sha256(json.dumps(options).encode()).hexdigest()[:8]}"
