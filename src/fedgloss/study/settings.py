"""The resolved settings of a cell: all that decides its numbers, and the trainer's only input."""

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from types import NoneType, UnionType
from typing import Any, NotRequired, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from fedgloss.errors import InputError, did_you_mean

NUMBER = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{0,8}[1-9])?")
""""0", "0.05", "100": alpha is text, in paths too, so there is one way to write a number."""
SPLIT = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,49}")
"""The name of an imported split."""
WORDS: Mapping[tuple[type, ...], str] = {
    (str,): "text",
    (int,): "an integer",
    (int, float): "a number",
    (dict,): "keys and values",
    (list,): "a list",
    (str, NoneType): "a SHA-256 or null",
}
"""What kinds of JSON values are called in refusals."""


class Training(TypedDict):
    """How a cell is trained; config/README.md explains the keys."""

    rounds: int
    clients: int
    clients_per_round: int
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    clip: NotRequired[float]
    """Left out where nothing is clipped."""
    augmentation: str
    evaluate_every: int
    last: int
    record: list[str]
    keep: NotRequired[list[int]]
    """The rounds, 1 first, after which the model is kept; left out where there is none."""


@dataclass(frozen=True)
class Settings:
    """A study resolves and checks them once; a job reads what they wrote, and a manifest has it."""

    dataset: str
    alpha: str
    data: Mapping[str, Any]
    """What decides the images, wherever their originals lie."""
    partition: Mapping[str, Any]
    """What decides which client has which, wherever the file lies."""
    model: str
    weights: str | None
    """The SHA-256 of the file that the model starts from."""
    algorithm: str
    """The label of the tables; its method may be another."""
    method: str
    variants: Mapping[str, str]
    hyperparameters: Mapping[str, float]
    training: Training
    precision: str
    seed: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON value; the receiver may change it."""
        return {field.name: copy.deepcopy(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, value: Any) -> "Settings":
        """From a JSON value; InputError names a key that is unknown, missing, or of a wrong kind.

        Whether a method, model or number is usable, the training job finds out itself.
        """
        _check_record("settings", value, cls)
        _check_record("settings.training", value["training"], Training)
        try:
            check_alpha(value["alpha"])
        except InputError as error:
            raise InputError(f"settings.alpha: {error}") from None
        check_last("settings.training", value["training"])
        check_keep("settings.training", value["training"])
        for key in ("data", "partition"):
            _check_finite(f"settings.{key}", value[key])
        if not 0 <= value["seed"] < 2**63:
            raise InputError(f"settings.seed: {value['seed']} is not from 0 to {2**63 - 1}")
        return cls(**value)


def is_name(alpha: str) -> bool:
    """Whether an alpha is the name of a split, no number and neither `iid` nor `natural`."""
    return bool(SPLIT.fullmatch(alpha)) and not _is_drawn(alpha) and _number(alpha) is None


def check_alpha(alpha: str) -> None:
    """InputError unless this is a number's one text, `iid`, `natural`, or the name of a split."""
    if _is_drawn(alpha) or is_name(alpha):
        return
    number = _number(alpha)
    if number is not None and number.is_finite() and number >= 0 and abs(number.adjusted()) < 9:
        text = f"{abs(number.normalize()):f}"
        if NUMBER.fullmatch(text):
            raise InputError(
                f'{alpha!r} must be written "{text}": a number has one text, as in paths'
            )
    raise InputError(
        f"{alpha!r} is not a number of at least 0 written as text, nor 'iid' or 'natural', nor the"
        " name of a split (letters, digits and dashes, beginning with a letter)"
    )


def _is_drawn(alpha: str) -> bool:
    return bool(NUMBER.fullmatch(alpha)) or alpha in ("iid", "natural")


def _number(alpha: str) -> Decimal | None:
    try:
        return Decimal(alpha)
    except InvalidOperation:
        return None


def check_last(where: str, training: Mapping[str, Any]) -> None:
    """InputError if more last rounds are to be averaged than there are."""
    if training["last"] > training["rounds"]:
        raise InputError(f"{where}.last: {training['last']} of only {training['rounds']} rounds")


def round_of(t: int, training: Mapping[str, Any]) -> int:
    """A round as settings have it, which a study may count back from the last one.

    One that would be before the first stays as it is, to be refused as it was given.
    """
    counted = training.get("rounds", 0) + t
    return counted if t < 0 < counted else t


def kept(t: int) -> str:
    """What the model that a run keeps after round t (1 first) is called; its file has an ending."""
    return f"round-{t}"


def check_keep(where: str, training: Mapping[str, Any]) -> None:
    """InputError unless the models to be kept are those after rounds before the last one."""
    most = training["rounds"] - 1
    for t in training.get("keep", ()):
        if not isinstance(t, int) or isinstance(t, bool) or not 1 <= t <= most:
            raise InputError(
                f"{where}.keep: {t!r} is no round before the last (allowed: 1 to {most})"
            )


def one_text(number: float) -> float:
    """1.0 and 1 are one number: let them be one text, too, in settings and manifests."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


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


def _check_record(where: str, given: Any, record: type) -> None:
    """InputError unless these are the keys of a class, with values of their kinds."""
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: expected keys and values")
    wanted = {name: _kind(hint) for name, hint in get_type_hints(record).items()}
    optional: frozenset[str] = getattr(record, "__optional_keys__", frozenset())
    for key in given:
        if key not in wanted:
            raise InputError(f"{where}.{key}: unknown key{did_you_mean(key, list(wanted))}")
    for key, kind in wanted.items():
        if key in given:
            if not isinstance(given[key], kind) or isinstance(given[key], bool):
                raise InputError(f"{where}.{key}: {given[key]!r} is not {WORDS[kind]}")
        elif key not in optional:
            raise InputError(f"{where}.{key}: missing, must be given")


def _kind(hint: Any) -> tuple[type, ...]:
    """The types of the JSON values that an annotation takes."""
    if hint is float:
        return int, float
    if get_origin(hint) is Mapping or is_typeddict(hint):
        return (dict,)
    return get_args(hint) if isinstance(hint, UnionType) else (get_origin(hint) or hint,)
