"""The trials of a sweep: each is a label of its own, whose cells are like any others.

`fedgloss~lr-0.1~rho-0.05` is like `fedgloss`, but for what was searched. Everything about cells,
from their paths to their checkpoints, so holds for trials too; no label of a study file has a `~`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod
from typing import Any

from fedgloss.errors import InputError, did_you_mean
from fedgloss.study.configuration import validate
from fedgloss.study.schema.study import Algorithm, Study
from fedgloss.study.schema.sweep import Range, Space, Sweep
from fedgloss.study.settings import one_text

Value = float | str
Axis = tuple[str, str]
"""A setting that is searched: its section (training, hyperparameters, variants) and its name."""
WORK = ("epochs", "batch_size", "clients_per_round")
"""What must agree among cells that are trained together."""
LABEL = re.compile(r"[A-Za-z0-9._~+-]{1,180}")
"""What is a folder's name on every system, with room for what follows it in a file's."""


@dataclass(frozen=True)
class Trial:
    """One point of a sweep, for one of the labels that it searches."""

    base: str
    """The label that is searched."""
    point: Mapping[Axis, Value]
    entry: Algorithm
    """What it is in `algorithms`."""
    places: tuple[int, ...]
    """Of each value, which it is of those tried along its axis, smallest first; of words, as in
    the study's list."""
    ends: tuple[str, ...]
    """The axes of numbers along which nothing smaller, or nothing larger, was tried."""

    @property
    def label(self) -> str:
        """The label of its cells."""
        return base_and(self.base, self.point)


def base_and(base: str, point: Mapping[Axis, Value]) -> str:
    """The label of a trial."""
    return base + "".join(f"~{name}-{value}" for (_, name), value in point.items())


def base_of(label: str) -> str:
    """The label that is searched, of the label of a trial; any other as it is."""
    return label.partition("~")[0]


def trials(asked: Study, file: str) -> dict[str, Trial]:
    """All trials of a study by label, those of one label together, in the order of the points.

    InputError for what cannot be searched.
    """
    if asked.sweep is None:
        return {}
    found: dict[str, Trial] = {}
    in_grid = [*dict.fromkeys(label for block in asked.grid for label in block.algorithms)]
    seen: set[str] = set()
    for i, space in enumerate(asked.sweep.search):
        where = f"{file}: sweep.search[{i}]"
        points = [*_points(asked.sweep, space, where)]
        for label in space.labels:
            if label not in in_grid:
                raise InputError(
                    f"{where}.labels: {label!r} is not in the grid{did_you_mean(label, in_grid)}"
                )
            if label in seen:
                raise InputError(f"{where}.labels: {label!r} is searched twice")
            seen.add(label)
            found |= {trial.label: trial for trial in _trials(label, space, points, where)}
    for label in in_grid:
        if label not in seen:
            raise InputError(
                f"{file}: grid: {label!r} is in no space of sweep.search; allowed: labels that are"
                " searched (a study that reports is another one)"
            )
    return found


def spelled_out(asked: Study, trials: Mapping[str, Trial]) -> Study:
    """The study with its trials as labels of the grid, each in the place of the searched one."""
    labels: dict[str, list[str]] = {}
    for label, trial in trials.items():
        labels.setdefault(trial.base, []).append(label)
    grid = tuple(
        block.model_copy(
            update={
                "algorithms": tuple(
                    label for name in block.algorithms for label in labels.get(name, [name])
                )
            }
        )
        for block in asked.grid
    )
    entries = {label: trial.entry for label, trial in trials.items()}
    return asked.model_copy(update={"grid": grid, "algorithms": {**asked.algorithms, **entries}})


def packs(trials: Iterable[Trial], most: int) -> list[tuple[str, ...]]:
    """The labels of trials that can be trained together: of one label, with equal work.

    At most so many in a pack, and in the packs of one kind about equally many.
    """
    alike: dict[tuple[Any, ...], list[str]] = {}
    for trial in trials:
        work = [trial.point.get(("training", name)) for name in WORK]
        alike.setdefault((trial.base, *work), []).append(trial.label)
    found = []
    for labels in alike.values():
        count = -(-len(labels) // most)
        ends = [len(labels) * i // count for i in range(count + 1)]
        found += [tuple(labels[begin:end]) for begin, end in pairwise(ends)]
    return found


def _trials(
    label: str, space: Space, points: Sequence[Mapping[Axis, Value]], where: str
) -> Iterator[Trial]:
    axes = space.axes()
    tried = {axis: _ordered(axes[axis], [point[axis] for point in points]) for axis in axes}
    for point in points:
        name = base_and(label, point)
        if not LABEL.fullmatch(name):
            raise InputError(
                f"{where}: {name!r} cannot name a folder (allowed: at most 180 letters, digits and"
                " . _ ~ + -)"
            )
        entry: dict[str, Any] = {"like": label}
        for (section, key), value in point.items():
            entry.setdefault(section, {})[key] = value
        places = {axis: tried[axis].index(value) for axis, value in point.items()}
        ends = tuple(
            key
            for (section, key), place in places.items()
            if section != "variants" and place in _ends(tried[section, key])
        )
        yield Trial(label, point, validate(entry, Algorithm, where), (*places.values(),), ends)


def _ends(tried: Sequence[Value]) -> tuple[int, ...]:
    """The first and the last place; where there is one value, there was nothing to choose."""
    return (0, len(tried) - 1) if len(tried) > 1 else ()


def _ordered(axis: Range | Sequence[Any], values: Sequence[Value]) -> list[Value]:
    """The values that were tried along an axis, in their order."""
    if isinstance(axis, Range) or not isinstance(axis[0], str):
        return sorted({*values}, key=float)
    return [value for value in axis if value in values]


def _points(sweep: Sweep, space: Space, where: str) -> Iterator[dict[Axis, Value]]:
    """The points of a space, each once.

    Of lists alone: all their combinations, or, where the budget is smaller, so many of them. With a
    range: so many points that each takes one value of every axis, in an order of the axis's own (a
    Latin hypercube). Spaces of one seed have these orders in common.
    """
    axes = space.axes()
    ranges = [name for (_, name), axis in axes.items() if isinstance(axis, Range)]
    if ranges and sweep.trials is None:
        raise InputError(
            f"{where}: {ranges[0]} is a range, of which so many points are drawn;"
            " sweep.trials: missing, must be given"
        )
    if ranges:
        count = sweep.trials or 0
        columns = {axis: _column(sweep, axis[1], kind, count) for axis, kind in axes.items()}
        rows = [dict(zip(axes, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    else:
        lists = [_whole(axis) for axis in axes.values() if not isinstance(axis, Range)]
        count = prod(map(len, lists))
        some: Sequence[int] = range(count)
        if sweep.trials is not None and sweep.trials < count:
            some = sorted(_order(sweep.seed, "sweep", count)[: sweep.trials])
        every = [*product(*lists)]
        rows = [dict(zip(axes, every[i], strict=True)) for i in some]
    yield from {tuple(row.values()): row for row in rows}.values()


def _whole(axis: Sequence[Any]) -> list[Value]:
    return [value if isinstance(value, str) else one_text(value) for value in axis]


def _column(sweep: Sweep, name: str, axis: Range | Sequence[Any], count: int) -> list[Value]:
    """The value of each of so many points along an axis."""
    order = _order(sweep.seed, f"tuning {name}", count)
    if isinstance(axis, Range):
        values: Sequence[Value] = _spread(axis, count)
    else:  # each of a list as often as any other, or once more
        values = [_whole(axis)[i * len(axis) // count] for i in range(count)]
    return [values[place] for place in order]


def _order(seed: int, purpose: str, count: int) -> list[int]:
    from fedgloss.rng import Stream  # NumPy, which reading most studies does without

    return Stream(seed, purpose).permutation(count).tolist()


def _spread(axis: Range, count: int) -> list[Value]:
    """Numbers from end to end of a range, in as few digits, at least two, as keep them apart."""
    shares = [i / (count - 1) for i in range(count)] if count > 1 else [0.5]
    if axis.log:
        exact = [axis.low * (axis.high / axis.low) ** share for share in shares]
    else:
        exact = [axis.low + (axis.high - axis.low) * share for share in shares]
    if axis.integer:
        return [round(value) for value in exact]
    for digits in range(2, 17):
        values = [float(f"{value:.{digits}g}") for value in exact]
        if len({*values}) == count and axis.low <= min(values) and max(values) <= axis.high:
            break
    return [one_text(value) for value in values]
