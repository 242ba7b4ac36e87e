"""How to make things again: commands for a shell."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fedgloss.report import definitions, names
from fedgloss.study.layout import CELL, HERE

if TYPE_CHECKING:
    from fedgloss.study.study import Study


def commands(study: "Study") -> list[tuple[str, str]]:
    """(what, command) for a cell, a method, a table and a figure."""
    cell = study.cells[-1]
    method = names.algorithm(study, cell.algorithm)
    found = [
        ("One cell", definitions.snakemake(study, HERE.metrics(study.name, cell))),
        (f"All of {method}", definitions.snakemake(study, *_targets(study, cell.algorithm))),
    ]
    for name in [*study.tables][:1]:
        target = HERE.table(study.name, name)["md"]
        found.append(("One table", definitions.snakemake(study, target)))
    for name in [*study.figures][:1]:
        target = HERE.figure(study.name, name)["png"]
        found.append(("One figure", definitions.snakemake(study, target)))
    return found


def _targets(study: "Study", label: str) -> list[Path]:
    """The metrics of all cells of an algorithm, written with the shell's braces."""
    seeds_of: dict[tuple[str, str, str], list[int]] = {}
    for cell in study.select(algorithm=label):
        seeds_of.setdefault((cell.dataset, cell.model, cell.alpha), []).append(cell.seed)
    alphas_of: dict[tuple[str, str, tuple[int, ...]], list[str]] = {}
    for (dataset, model, alpha), seeds in seeds_of.items():
        alphas_of.setdefault((dataset, model, tuple(seeds)), []).append(alpha)
    return [
        HERE.metrics(
            study.name,
            CELL.format(
                dataset=dataset,
                alpha=_braces(alphas),
                model=model,
                algorithm=label,
                seed=_braces(seeds),
            ),
        )
        for (dataset, model, seeds), alphas in alphas_of.items()
    ]


def _braces(values: Iterable[object]) -> str:
    texts = [str(value) for value in values]
    return texts[0] if len(texts) == 1 else "{" + ",".join(texts) + "}"
