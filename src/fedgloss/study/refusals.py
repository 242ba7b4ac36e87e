"""What is wrong with a file, in one line: a pydantic error with key, value and what is allowed."""

import json
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import Tag, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fedgloss.errors import did_you_mean
from fedgloss.records import is_finite
from fedgloss.study.schema.kinds import Model, Null

# What pydantic's errors are called in messages.
KINDS = {
    "string_type": "text (in quotes)",
    "string_unicode": "text (in quotes)",
    "list_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "int_type": "an integer",
    "float_type": "a finite number",
    "bool_type": "true or false",
}
LIMITS = {
    "greater_than_equal": "be at least {ge:g}",
    "greater_than": "be greater than {gt:g}",
    "less_than_equal": "be at most {le}",
    "less_than": "be less than {lt:g}",
    "too_short": "have at least {min_length} entry",
    "string_too_short": "have at least {min_length} character",
    "string_too_long": "have at most {max_length} characters",
    "repeated": "have no entry twice",
}
UNKNOWN = ("extra_forbidden", "invalid_key")
MISSING = ("missing", "missing_below")
SHOWN = 60
"""Longer values are cut."""


class Place(NamedTuple):
    """Where an error is: the path in the file, and what is declared there."""

    path: tuple[str | int, ...]
    kind: Any
    said: str
    """The description of the type, or of the field."""


def explain(model: type[Model], error: ValidationError) -> str:
    """The first error in the order of keys; of missing keys all."""
    details = map(_plain, error.errors(include_url=False))
    found = [(_place(model, detail), detail) for detail in details]
    place, first = min(found, key=lambda pair: _order(*pair))
    if first["type"] not in MISSING:
        return _explain(place, first)
    found = [pair for pair in sorted(found, key=lambda pair: _order(*pair))]
    keys = [key for pair in found if pair[1]["type"] in MISSING for key in _missing(*pair)]
    return f"{', '.join(dict.fromkeys(keys))}: missing, must be given"


def _plain(error: ErrorDetails) -> ErrorDetails:
    """What is wrong with the key that tells several kinds apart, as of any other key."""
    if error["type"] not in ("union_tag_invalid", "union_tag_not_found"):
        return error
    key = error["ctx"]["discriminator"].strip("'")
    plain: ErrorDetails = {**error, "type": "missing", "loc": (*error["loc"], key)}
    if error["type"] == "union_tag_invalid":
        plain |= {"type": "literal_error", "input": error["input"][key]}
    return plain


def _order(place: Place, error: ErrorDetails) -> tuple[list[str], bool]:
    """A key that is unknown, or missing, counts as an error of what should hold it."""
    of_holder = error["type"] in UNKNOWN or error["type"] == "missing"
    path = place.path[:-1] if of_holder else place.path
    return [str(part) for part in path], error["type"] in MISSING


def _missing(place: Place, error: ErrorDetails) -> Iterator[str]:
    if error["type"] == "missing":
        yield _key(place.path)
    else:
        yield from (_key([*place.path, *key.split(".")]) for key in error["ctx"]["keys"])


def _place(model: type[Model], error: ErrorDetails) -> Place:
    """Follow an error's location through the types; what pydantic puts there itself is left out."""
    path: list[str | int] = []
    kind, said = _declared(model)
    keys: Any = None  # their type, just after one of a dict
    for part in error["loc"]:
        if part == "[key]" and keys and error["type"] not in UNKNOWN:  # the one before is wrong
            path.pop()
            kind, said = _declared(keys)
            continue
        keys = None
        if _is_model(kind):
            path.append(str(part))
            if (field := kind.model_fields.get(str(part))) is None:
                return Place(tuple(path), kind, "")
            kind, said = _declared(field.annotation, field.description or "")
        elif get_origin(kind) is dict:
            path.append(str(part))
            keys, values = get_args(kind)
            kind, said = _declared(values)
        elif get_origin(kind) is tuple:
            path.append(part)
            kind, said = _declared(get_args(kind)[0])
        elif any(map(_notes, get_args(kind))):  # the tag of one, all described in common
            kind = next(_declared(k)[0] for k in get_args(kind) if Tag(str(part)) in _notes(k))
        else:  # one of several models, or the key that has no model's value
            models = {get_args(m.model_fields["kind"].annotation)[0]: m for m in get_args(kind)}
            if part not in models:
                return Place((*path, part), Literal[*models], "")
            kind = models[part]
    if error["type"] == "string_unicode" and _is_model(kind):  # of a key with half a character
        path.append(error["input"])
    return Place(tuple(path), kind, said)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Model)


def _declared(kind: Any, said: str = "") -> tuple[Any, str]:
    """A type without its annotations and without None, and its description if it has one."""
    while True:
        if get_origin(kind) is Annotated:
            notes = (note.description for note in _notes(kind) if isinstance(note, FieldInfo))
            said = next(filter(None, notes), said)
            kind = kind.__origin__
        elif get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind):
            kind = next(k for k in get_args(kind) if k is not NoneType)
        else:
            return kind, said


def _notes(kind: Any) -> tuple[Any, ...]:
    return getattr(kind, "__metadata__", ())


def _explain(place: Place, error: ErrorDetails) -> str:
    where, kind, value, context = _key(place.path), error["type"], error["input"], error.get("ctx")
    if kind in UNKNOWN or (kind == "string_unicode" and _is_model(place.kind)):
        allowed = sorted(place.kind.model_fields)
        return f"{where}: unknown key{did_you_mean(str(place.path[-1]), allowed)}"
    if kind == "value_error" and context:
        return f"{where}: {context['error']}"
    what = _shown(value)
    hint = f" ({place.said})" if place.said else ""
    if kind == "literal_error":
        allowed = [str(choice) for choice in get_args(place.kind)]
        return f"{where}: {what}is unknown{did_you_mean(str(value), allowed)}"
    if kind in KINDS:
        if isinstance(value, str) and place.kind in (int, float):
            hint = _meant_number(value, place.kind) or hint
        return f"{where}: {what}must be {KINDS[kind]}{hint}"
    if kind in LIMITS:
        return f"{where}: {what}must {LIMITS[kind].format(**(context or {}))}{hint}"
    return f"{where}: {what}is not allowed{hint}"


def _shown(value: Any) -> str:
    """A value as JSON, cut; a list, or keys and values, are told by their key."""
    if isinstance(value, (dict, list, tuple)):
        return ""
    text = json.dumps(None if isinstance(value, Null) else value, default=str)
    return f"{text if len(text) <= SHOWN else f'{text[: SHOWN - 3]}...'} "


def _meant_number(text: str, kind: type) -> str:
    """How to write a number that YAML took for text: 1e-4 lacks the point, others have quotes."""
    import yaml

    try:
        value = float(text)
    except ValueError:
        return ""
    if not is_finite(value) or (kind is int and not value.is_integer()):
        return ""
    number = text.strip().lower()
    if "e" in number and kind is float:
        digits, _, power = number.partition("e")
        digits += "" if "." in digits else ".0"
        number = f"{digits}e{power if power[0] in '+-' else f'+{power}'}"
    if kind is int or yaml.safe_load(number) != value:
        number = f"{int(value)}" if value.is_integer() else repr(value)
    quotes = "" if "e" in text.lower() else ", without quotes"
    return f": write {number}{quotes}"


def _key(path: Sequence[str | int]) -> str:
    key = ""
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key or "top level"
