"""The resolved settings of a cell: all that decides its numbers, and the trainer's only input."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from types import NoneType
from typing import Any

from fedgloss.errors import InputError, did_you_mean

SETTINGS = {
    "dataset": str,
    "alpha": str,
    "data": dict,
    "partition": dict,
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
ALPHA = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{0,8}[1-9])?|iid|natural")
""""0", "0.05", "100": alpha is text, in paths too, so there is one way to write a number."""


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse keys unknown or missing and values of the wrong kind; InputError naming the key."""
    _check_record("settings", settings, SETTINGS)
    _check_record("settings.training", settings["training"], TRAINING)
    try:
        check_alpha(settings["alpha"])
    except InputError as error:
        raise InputError(f"settings.alpha: {error}") from None
    check_last("settings.training", settings["training"])
    for key in ("data", "partition"):
        _check_finite(f"settings.{key}", settings[key])
    if not 0 <= settings["seed"] < 2**63:
        raise InputError(f"settings.seed: {settings['seed']} is not from 0 to {2**63 - 1}")


def _check_finite(where: str, value: Any) -> None:
    """InputError for NaN and infinity, which no manifest could hold, at any depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_finite(f"{where}.{key}", inner)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _check_finite(f"{where}[{i}]", inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: {value!r} is not a finite number")


def check_alpha(alpha: str) -> None:
    """InputError unless this is the one text of a number of at least 0, or `iid` or `natural`."""
    if ALPHA.fullmatch(alpha):
        return
    try:
        number = Decimal(alpha)
        text = f"{abs(number.normalize()):f}" if number >= 0 and abs(number.adjusted()) < 9 else ""
    except InvalidOperation:  # no number, or NaN
        text = ""
    if ALPHA.fullmatch(text):
        raise InputError(f'{alpha!r} must be written "{text}": a number has one text, as in paths')
    raise InputError(
        f"{alpha!r} is not a number of at least 0 written as text, nor 'iid' or 'natural'"
    )


def check_last(where: str, training: Mapping[str, Any]) -> None:
    """InputError if more last rounds are to be averaged than there are."""
    if training["last"] > training["rounds"]:
        raise InputError(f"{where}.last: {training['last']} of only {training['rounds']} rounds")


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
