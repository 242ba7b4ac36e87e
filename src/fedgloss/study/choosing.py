"""The settings that a sweep has chosen, with their evidence: a YAML file that studies take."""

import json
import re
from collections.abc import Mapping
from typing import Any

from fedgloss.errors import InputError
from fedgloss.study.chosen import digest
from fedgloss.study.settings import one_text
from fedgloss.study.standings import RULE, Standing, Standings

WORD = re.compile(r"[a-z][a-z_]*[a-z](-[a-z]+)*")
YAML_HAS = ("no", "on", "yes", "off", "true", "false", "null")
"""Text that needs no quotes, but for the words that are something else to YAML."""


def to_yaml(standings: Standings) -> str:
    """The file, of a sweep whose runs are all there; InputError naming the first that is not."""
    study = standings.study
    if study.asked.sweep is None:
        raise InputError(f"{study.file}: sweep: missing, must be given: nothing is searched")
    entries, evidence = {}, {}
    for base in standings.bases:
        best = standings.chosen(base)
        if best is None:
            raise InputError(
                f"{study.file}: sweep: nothing is chosen yet; {standings.awaited(base)}"
            )
        entries[base] = _entry(standings, best)
        evidence[base] = _evidence(standings, best)
    content: dict[str, Any] = {
        "sweep": study.name,
        "fingerprint": digest(study.config),
        "rule": RULE,
        "held_out": study.asked.sweep.held_out.model_dump(),
        "algorithms": entries,
        "evidence": evidence,
    }
    lines = [
        f"# Chosen by the sweep {study.name} ({study.file}). A study takes it by the key `chosen`,",
        "# or with the entries of `algorithms` pasted into its own.",
    ]
    for key, value in {**content, "sha256": digest(content)}.items():
        if key in ("algorithms", "evidence"):
            lines += [f"{key}:", *(f"  {as_yaml(name)}: {as_yaml(value[name])}" for name in value)]
        else:
            lines.append(f"{key}: {as_yaml(value)}")
    return "\n".join(lines) + "\n"


def _entry(standings: Standings, best: Standing) -> dict[str, Any]:
    """What was chosen, as an entry of `algorithms`.

    Variants and hyperparameters are those that the trial had, whatever gave them, but for
    hyperparameters that differ from one column to another: these are left to the constants.
    """
    study = standings.study
    definition = study.definition(best.trial.label)
    first, *others = [study.settings(cell) for cell in standings.cells(best.trial, best.rung)]
    everywhere = {
        key: value
        for key, value in first.hyperparameters.items()
        if all(other.hyperparameters[key] == value for other in others)
    }
    return {
        "method": definition.method,
        "variants": {**first.variants},
        "training": {key: one_text(value) for key, value in definition.training.items()},
        "hyperparameters": everywhere,
    }


def _evidence(standings: Standings, best: Standing) -> dict[str, Any]:
    study, trials = standings.study, standings.of(best.trial.base)
    cells = standings.cells(best.trial, best.rung)
    return {
        "trials": len(trials),
        "to_the_end": sum(standing.rung == best.rung for standing in trials),
        "accuracy": round(best.mean or 0.0, 3),
        "interval": best.interval and [round(end, 3) for end in best.interval],
        "seeds": [*best.values],
        "columns": [*dict.fromkeys(str(cell.column) for cell in cells)],
        "rounds": study.settings(cells[0]).training["rounds"],
        "at_an_end_of": [*best.trial.ends],
    }


def as_yaml(value: Any) -> str:
    """A value in YAML's flow style; a power of ten has a point there, or it would be text."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{as_yaml(key)}: {as_yaml(value[key])}' for key in value)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, float):
        digits, power = [*repr(value).split("e"), ""][:2]
        return f"{digits}{'' if '.' in digits else '.0'}e{power}" if power else digits
    if isinstance(value, str) and WORD.fullmatch(value) and value not in YAML_HAS:
        return value
    return json.dumps(value, ensure_ascii=False)
