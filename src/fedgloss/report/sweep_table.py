"""Tables of kind sweep: every trial of every label, the best first, and what was chosen."""

from collections.abc import Iterator

from fedgloss.report import definitions, names
from fedgloss.report.model import Grid
from fedgloss.report.results import Results, left_out, part
from fedgloss.study.layout import HERE
from fedgloss.study.schema.shown import SweepTable
from fedgloss.study.standings import RULE, Standing, Standings

FIELDS: tuple[str, ...] = (
    "table",
    "algorithm",
    "label",
    "place",
    "seeds",
    "rounds",
    "mean",
    "low",
    "high",
)
FIELDS += ("diverged", "state", "at_an_end_of", "by_seed")


def build(found: Results, name: str, asked: SweepTable) -> Grid:
    """The table, of the runs that are there and as the study asks for them."""
    study, standings = found.study, Standings(found.study, found.folder)
    axes = [*dict.fromkeys(key for trial in study.trials.values() for _, key in trial.point)]
    lines, records = [], []
    for base in standings.bases:
        chosen = standings.chosen(base)
        for place, standing in enumerate(standings.of(base), 1):
            values = {key: str(value) for (_, key), value in standing.trial.point.items()}
            rounds = _rounds(standings, standing)
            said = _said(standings, standing, chosen)
            lines.append(
                (
                    names.algorithm(study, base),
                    *(values.get(axis, "") for axis in axes),
                    f"{rounds:,}",
                    f"{len(standing.values)}",
                    _accuracy(standing),
                    _remark(said, standing),
                )
            )
            records.append(_record(name, standing, place, rounds, said) | values)
    title = " ".join(asked.title.split()) + part(found, _needed(standings))
    heads = ("Method", *axes, "Rounds", "Seeds", "Accuracy (%)", "")
    fields = (*FIELDS[:3], *axes, *FIELDS[3:])
    below = (*notes(standings), *left_out(found, study.cells))
    return Grid(found.study.name, name, title, heads, (*lines,), below, fields, (*records,))


def _needed(standings: Standings) -> Iterator:
    """The cells that are trained to the end, as far as that is known."""
    for base in standings.bases:
        for standing in standings.of(base):
            if standings.rungs[standing.rung].rounds is None:
                yield from standings.cells(standing.trial, standing.rung)


def _rounds(standings: Standings, standing: Standing) -> int:
    """The rounds that a trial was trained for."""
    cell = standings.cells(standing.trial, standing.rung)[0]
    paused = standings.rungs[standing.rung].rounds
    return paused or standings.study.settings(cell).training["rounds"]


def _accuracy(standing: Standing) -> str:
    """The mean with its interval, as the table prints it."""
    if standing.mean is None:
        return "–"
    half = standing.half_interval
    return f"{standing.mean:.2f}" + ("" if half is None else f" ± {half:.2f}")


def _said(standings: Standings, standing: Standing, chosen: Standing | None) -> str:
    """What became of a trial, in a word."""
    if standing is chosen:
        return "chosen"
    if standing.rung < standings.reached(standing.trial.base):
        return "dropped"
    return "" if standing.is_known else "not all run"


def _remark(said: str, standing: Standing) -> str:
    """The same as the table prints it, with what else there is to see."""
    parts = [f"{said}"] * bool(said)
    if said == "chosen" and standing.trial.ends:
        parts.append(f"at an end of {names.listed([*standing.trial.ends])}")
    if standing.diverged:
        parts.append(f"× {standing.diverged}")
    return ", ".join(parts)


def _record(name: str, standing: Standing, place: int, rounds: int, said: str) -> dict[str, object]:
    low, high = standing.interval or (None, None)
    return {
        "table": name,
        "algorithm": standing.trial.base,
        "label": standing.trial.label,
        "place": place,
        "seeds": len(standing.values),
        "rounds": rounds,
        "mean": standing.mean,
        "low": low,
        "high": high,
        "diverged": standing.diverged,
        "state": said,
        "at_an_end_of": " ".join(standing.trial.ends),
        "by_seed": " ".join(f"{seed}:{value:.3f}" for seed, value in standing.values.items()),
    }


def notes(standings: Standings) -> Iterator[str]:
    """How trials were made, tested and chosen."""
    study = standings.study
    sweep = study.asked.sweep
    assert sweep is not None  # a study with such a table has one
    budget = [f"{names.algorithm(study, b)} {len(standings.of(b))}" for b in standings.bases]
    yield (
        f"Trials: {names.listed(budget)}. Each is tested on images that its clients hold out:"
        f" {100 * sweep.held_out.share:g} % of every client's training images, drawn with seed"
        f" {sweep.held_out.seed}. No trial reads a test image."
    )
    if sweep.halving:
        what = "rounds" if sweep.halving.rounds else "seeds"
        stages = names.listed([str(rung) for rung in sweep.halving.rungs])
        yield (
            f"After {stages} {what} the best {sweep.halving.keep} of a label's trials went on; the"
            " others were dropped, and show what they were worth then."
        )
    columns = names.columns(study, [*dict.fromkeys(cell.column for cell in study.cells)])
    yield (
        f"Accuracy: mean over seeds{' and columns' * (len(columns) > 1)} ({'; '.join(columns)}) ±"
        " half the 95 % interval over the seeds (Student's t). The best of many trials looks better"
        " than it is: report another run's accuracy, on the test images."
    )
    yield f"Chosen (`{sweep.choose}`): {RULE}. `at an end of`: nothing further out was tried."
    yield (
        f"Chosen settings: `{HERE.chosen(study.name)}`; made again by"
        f" `{definitions.snakemake(study)}`."
    )
