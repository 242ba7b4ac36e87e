"""The file of settings that a sweep has chosen, as a study takes it.

`algorithms` in it are entries as a study has them; beside them stands why they were chosen. Its
last key is a hash of all the rest: it is used as a sweep wrote it (choosing.py), or not at all.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fedgloss import algorithms
from fedgloss.algorithms.names import METHODS
from fedgloss.errors import InputError
from fedgloss.study.configuration import read_yaml, validate
from fedgloss.study.schema.chosen import Chosen
from fedgloss.study.schema.study import Algorithm, Study


def digest(content: Mapping[str, Any]) -> str:
    """The hash of what YAML says, however it is written."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def included(asked: Study, file: str) -> Study:
    """The study with the settings that its `chosen` file gives the labels of its grid.

    InputError if the file is missing, was edited, or is about another method; and if it gives a
    label what its own entry gives otherwise, or nothing of it is in the grid.
    """
    if asked.chosen is None:
        return asked
    where = f"{file}: chosen"
    try:
        content = read_yaml(asked.chosen)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    found = validate(content, Chosen, f"{where}: {asked.chosen}")
    if content.pop("sha256") != digest(content):
        raise InputError(
            f"{where}: {asked.chosen}: was edited since a sweep wrote it (SHA-256); allowed: as it"
            " was written, or its entries pasted into algorithms"
        )
    labels = [*dict.fromkeys(label for block in asked.grid for label in block.algorithms)]
    entries = {
        label: _laid_over(asked, label, found.algorithms[label], f"{where}: {asked.chosen}")
        for label in labels
        if label in found.algorithms
    }
    if not entries:
        raise InputError(
            f"{where}: {asked.chosen}: is about {', '.join(found.algorithms)}, none of which is in"
            " the grid"
        )
    return asked.model_copy(update={"algorithms": {**asked.algorithms, **entries}})


def seeds_that_chose(asked: Study) -> set[int]:
    """Those of a study's seeds that its `chosen` settings were searched with, for labels it has."""
    if asked.chosen is None:
        return set()
    evidence = validate(read_yaml(asked.chosen), Chosen, str(asked.chosen)).evidence
    labels = {label for block in asked.grid for label in block.algorithms}
    searched = {
        seed for label in labels & evidence.keys() for seed in evidence[label].get("seeds", ())
    }
    return searched.intersection(asked.seeds)


def _laid_over(asked: Study, label: str, chosen: Algorithm, where: str) -> Algorithm:
    """A label's entry with what was chosen for it."""
    own = asked.algorithms.get(label, Algorithm())
    method = _method(asked, label) or chosen.method or label
    if chosen.method != method:
        raise InputError(f"{where}: {label} is {chosen.method} there, and {method} here")
    if isinstance(own.variants, str):
        raise InputError(
            f"{where}: {label}: gives variants, and so does algorithms.{label}.variants"
        )
    merged: dict[str, Any] = {"method": method}
    for section in ("training", "hyperparameters", "variants"):
        ours, theirs = ({**(entry.given().get(section) or {})} for entry in (own, chosen))
        if section == "hyperparameters" and ours.keys() - theirs.keys():
            for key in _said_otherwise(ours, theirs, method, chosen):
                del theirs[key]
        for key in ours:
            if theirs.get(key, ours[key]) != ours[key]:
                raise InputError(
                    f"{where}: {label}: {section}.{key} is {theirs[key]} there, and {ours[key]} in"
                    f" algorithms.{label}; give it in one place"
                )
        merged[section] = {**theirs, **ours}
    valid = validate(merged, Algorithm, where)
    return own.model_copy(update={key: getattr(valid, key) for key in merged})


def _said_otherwise(
    ours: Mapping[str, float], theirs: Mapping[str, float], method: str, chosen: Algorithm
) -> list[str]:
    """The chosen hyperparameters that a study gives, too, by their other name: alpha = 1 / beta."""
    variants = chosen.variants if isinstance(chosen.variants, dict) else {}
    names = algorithms.build_algorithm(method, variants).reciprocals.items()
    return [
        name for name, other in names if ours.get(other) and theirs.get(name) == 1 / ours[other]
    ]


def _method(asked: Study, label: str) -> str | None:
    """The method behind a label; None where the study does not say, and no method has its name."""
    seen: set[str] = set()
    while label not in seen:
        seen.add(label)
        entry = asked.algorithms.get(label, Algorithm())
        if entry.method or entry.like is None:
            return entry.method or (label if label in METHODS else None)
        label = entry.like
    return label  # it is like itself, which is refused where labels are checked
