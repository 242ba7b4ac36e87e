"""What the runs themselves recorded: their settings, where and with what they were made."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fedgloss.report import names, values
from fedgloss.report.results import Results

if TYPE_CHECKING:
    from fedgloss.study.study import Cell, Study


RUN = ("run", "rounds", "device", "precision", "code", "metrics_sha256")
"""What a CSV says of the run behind a number: its folder below the results, and what made it."""


def of_run(found: Results, cell: "Cell") -> dict[str, object]:
    """A finished run by RUN."""
    manifest = found.manifest(cell)
    if manifest is None:
        return {}
    rounds = manifest["settings"]["training"]["rounds"]
    made = [manifest[key] for key in ("device", "precision", "code")]
    folder = found.run(cell).relative_to(found.folder).as_posix()
    values = (folder, rounds, *made, manifest["outputs"].get("metrics.csv"))
    return dict(zip(RUN, values, strict=True))


def _grouped(
    found: Results, key: Callable[[Mapping[str, Any]], Any]
) -> list[tuple[dict[str, Any], list["Cell"]]]:
    """Cells that ran, under equal values of key(settings)."""
    groups: dict[str, tuple[dict[str, Any], list[Cell]]] = {}
    for cell in found.study.cells:
        manifest = found.manifest(cell)
        if manifest is not None:
            value = key(manifest["settings"])
            groups.setdefault(repr(value), (value, []))[1].append(cell)
    order = [*dict.fromkeys(cell.algorithm for cell in found.study.cells)]
    return sorted(groups.values(), key=lambda group: order.index(group[1][0].algorithm))


def _where(study: "Study", cells: Iterable["Cell"], everywhere: Iterable["Cell"]) -> str:
    """The columns that some cells are in, or "all"."""
    mine = dict.fromkeys(cell.column for cell in cells)
    return (
        "all"
        if mine.keys() == {cell.column for cell in everywhere}
        else "; ".join(names.every_head(study)[column] for column in mine)
    )


def hyperparameters(found: Results) -> list[dict[str, str]]:
    """Method, hyperparameters and variants of each algorithm, one row per distinct setting."""
    keys = ("algorithm", "method", "hyperparameters", "variants")
    return [
        {
            "algorithm": names.algorithm(found.study, value["algorithm"]),
            "method": value["method"],
            "where": _where(found.study, cells, found.study.select(algorithm=value["algorithm"])),
            "hyperparameters": _pairs(value["hyperparameters"]),
            "variants": _pairs(value["variants"]),
        }
        for value, cells in _grouped(found, lambda s: {key: s[key] for key in keys})
    ]


def training(found: Results) -> list[dict[str, str]]:
    """The training settings, one row per distinct set of values."""
    return [
        {
            "where": _where(found.study, cells, found.study.cells),
            "algorithms": names.listed(
                [*dict.fromkeys(names.algorithm(found.study, c.algorithm) for c in cells)]
            ),
            "settings": _pairs(value),
        }
        for value, cells in _grouped(found, lambda s: s["training"])
    ]


def _pairs(values: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:g}"
        return "+".join(map(str, value)) if isinstance(value, list) else str(value)

    return ", ".join(f"{key} = {text(value)}" for key, value in values.items() if value != [])


def provenance(found: Results) -> dict[str, Any]:
    """Where and with what the runs were made."""
    manifests = {cell: m for cell in found.study.cells if (m := found.manifest(cell))}
    facts: dict[str, Counter[str]] = {}
    for manifest in manifests.values():
        for name, version in manifest["versions"].items():
            facts.setdefault(name, Counter())[version] += 1
        for name in ("device", "threads", "precision", "backend", "code"):
            facts.setdefault(name, Counter())[str(manifest[name])] += 1
    inputs: dict[tuple[str, str], dict[str, None]] = {}
    for cell, manifest in manifests.items():
        for item in manifest["inputs"].items():
            inputs.setdefault(item, {})[f"{cell.dataset}/alpha-{cell.alpha}"] = None
    return {
        "cells": manifests,
        "lambda1": {cell: values.lambda1(found, cell) for cell in manifests},
        "facts": facts,
        "inputs": inputs,
        "seconds": sum(m["wall_seconds"] for m in manifests.values()),
    }
