"""The methods, by the names the tables use, and how a name becomes an `Algorithm`.

A method is a function whose keyword arguments are its variants (`Literal` types: the allowed names;
defaults: the recommended choice) and which returns an `Algorithm`. One that is not listed here is
named by its import path, "package.module:function".
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

from fedgloss.algorithms.core import Algorithm
from fedgloss.algorithms.declared import check_declared, is_built_in
from fedgloss.algorithms.names import METHODS
from fedgloss.errors import OWN_ERRORS, InputError, cause, did_you_mean, from_path
from fedgloss.records import is_finite

PRESETS = ("recommended", "paper", "official")


def method(name: str) -> Callable[..., Algorithm]:
    """The function behind a method's name or import path; InputError if there is none."""
    path = METHODS.get(name, name)
    if not path.partition(":")[2]:
        hint = did_you_mean(name, [*METHODS, "package.module:function"])
        raise InputError(f"algorithm: unknown method {name!r}{hint}")
    try:
        found = from_path(path)
    except OWN_ERRORS as error:
        raise InputError(f"algorithm: {name!r} cannot be imported ({cause(error)})") from None
    if not callable(found):
        raise InputError(f"algorithm: {name!r} is not a function")
    return found


def variant_choices(name: str) -> dict[str, tuple[str, ...]]:
    """The variants a method knows and the values each allows."""
    build = method(name)
    try:
        hints, arguments = get_type_hints(build), inspect.signature(build).parameters
        choices = {key: get_args(hints[key]) for key in arguments}
        if all(argument.default in choices[key] for key, argument in arguments.items()):
            return choices
    except (TypeError, ValueError, KeyError, NameError, AttributeError, SyntaxError):
        pass
    raise InputError(
        f"algorithm: {name!r} is not a method: a function whose arguments are variants with"
        " Literal types, one of them the default"
    )


def resolve_variants(
    name: str, variants: Mapping[str, str] | str = "recommended"
) -> dict[str, str]:
    """Every variant of a method by name: the given ones (or a named combination), then defaults."""
    build, choices = method(name), variant_choices(name)
    if isinstance(variants, str):
        combinations: dict[str, Mapping[str, str]] = {preset: {} for preset in PRESETS}
        combinations |= getattr(build, "named", {})
        if variants not in combinations:
            raise InputError(
                f"variants: {name} has no variant named {variants!r}"
                f"{did_you_mean(variants, [*combinations])}"
            )
        variants = combinations[variants]
    for key, value in variants.items():
        if key not in choices:
            raise InputError(
                f"variants: {name} has no variant {key!r}{did_you_mean(key, [*choices])}"
            )
        if value not in choices[key]:
            raise InputError(
                f"variants.{key}: {value!r} is not known to {name}"
                f"{did_you_mean(value, [*choices[key]])}"
            )
    defaults = {k: p.default for k, p in inspect.signature(build).parameters.items()}
    return {**defaults, **variants}


def build_algorithm(name: str, variants: Mapping[str, str] | str = "recommended") -> Algorithm:
    """The `Algorithm` of a method's name and variants; InputError if no engine could run it."""
    build, chosen = method(name), resolve_variants(name, variants)
    try:
        algorithm = build(**chosen)
    except InputError:
        raise
    except OWN_ERRORS as error:
        raise InputError(f"algorithm: {name!r} cannot be built ({cause(error)})") from None
    if not isinstance(algorithm, Algorithm):
        raise InputError(f"algorithm: {name!r} returns no Algorithm")
    check_declared(name, algorithm)
    return algorithm


def resolve_hyperparameters(
    algorithm: Algorithm, given: Mapping[str, float], label: str = "hyperparameters"
) -> dict[str, float]:
    """Every hyperparameter of an algorithm as a number: the given ones, then those with a default.

    `beta` is accepted for FedDyn's `alpha` and the reverse (alpha = 1 / beta), since both names are
    in use (`Algorithm.reciprocals`). A method of one's own may have any finite number; those of the
    package's must be at least 0, some greater. Raises InputError naming what is unknown, missing,
    or out of range.
    """
    names = algorithm.hyperparameters
    given = known_hyperparameters(algorithm, given, label)
    missing = [key for key, default in names.items() if default is None and key not in given]
    if missing:
        raise InputError(f"{label}: {algorithm.name} needs {', '.join(missing)}")
    values = {**names, **given}
    allowed = {key: "any" for key in names}
    if is_built_in(algorithm):
        positive = {"alpha", "beta", "lambda", "eps"}
        allowed = {key: "greater than 0" if key in positive else "at least 0" for key in names}
    return {key: _number(label, key, values[key], allowed[key]) for key in names}


def known_hyperparameters(
    algorithm: Algorithm, given: Mapping[str, float], label: str = "hyperparameters"
) -> dict[str, float]:
    """Those that are given by an algorithm's own names; InputError naming what is unknown."""
    names = algorithm.hyperparameters
    given = dict(given)
    for ours, theirs in algorithm.reciprocals.items():
        if theirs in given:
            if ours in given:
                both = " and ".join(sorted((ours, theirs)))
                raise InputError(
                    f"{label}: both {both} for {algorithm.name}; give one of the two"
                    f" ({ours} is 1 / {theirs})"
                )
            given[ours] = 1 / _number(label, theirs, given.pop(theirs), "greater than 0")
    for key in given:
        if key not in names:
            raise InputError(
                f"{label}: {algorithm.name} has no hyperparameter {key!r}"
                f"{did_you_mean(key, [*names])}"
            )
    return given


def _number(label: str, key: str, value: Any, allowed: str) -> float:
    if not is_finite(value):
        raise InputError(f"{label}.{key}: {value!r} is not a finite number")
    if (value < 0 and allowed != "any") or (value == 0 and allowed == "greater than 0"):
        raise InputError(f"{label}.{key}: {value!r} must be {allowed}")
    return float(value) if not isinstance(value, int) else value
