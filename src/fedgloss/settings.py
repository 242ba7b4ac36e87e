"""The resolved settings of a cell: all that decides its numbers, and the trainer's only input."""

from collections.abc import Mapping
from types import NoneType
from typing import Any

from fedgloss.errors import InputError, did_you_mean

SETTINGS = {
    "dataset": str,
    "alpha": str,
    "model": str,
    "weights": (str, NoneType),
    "algorithm": str,
    "method": str,
    "variants": dict,
    "hyperparameters": dict,
    "training": dict,
    "precision": str,
    "seed": int,
}
TRAINING = {
    "rounds": int,
    "clients": int,
    "clients_per_round": int,
    "epochs": int,
    "batch_size": int,
    "lr": (int, float),
    "weight_decay": (int, float),
    "augmentation": str,
    "evaluate_every": int,
    "last": int,
    "record": list,
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse keys unknown or missing and values of the wrong kind; InputError naming the key."""
    _check_record("settings", settings, SETTINGS)
    _check_record("settings.training", settings["training"], TRAINING)
    if not 0 <= settings["seed"] < 2**63:
        raise InputError(f"settings.seed: {settings['seed']} is not from 0 to {2**63 - 1}")


def _check_record(where: str, given: Any, wanted: Mapping[str, type | tuple[type, ...]]) -> None:
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: expected keys and values")
    for key in given:
        if key not in wanted:
            raise InputError(f"{where}.{key}: unknown key{did_you_mean(key, list(wanted))}")
    names = {str: "text", dict: "keys and values", int: "an integer", list: "a list"}
    names[str, NoneType] = "a SHA-256 or null"
    for key, kind in wanted.items():
        if key not in given:
            raise InputError(f"{where}.{key}: missing, must be given")
        if not isinstance(given[key], kind) or isinstance(given[key], bool):
            raise InputError(f"{where}.{key}: {given[key]!r} is not {names.get(kind, 'a number')}")
