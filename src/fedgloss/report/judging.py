"""Whether a claim holds by some numbers: ours, or those that the paper prints."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedgloss.report.verdict import welch
from fedgloss.student import mean_interval
from fedgloss.study.schema.claims import Claim, Side
from fedgloss.study.schema.shown import Condition

LOWER_IS_BETTER = (
    *("lambda1", "lambda1_local", "lambda1_global", "communication_cost", "rounds", "cost"),
    *("delta_epsilon", "w_norm"),
)
TIMES_SHARE = 0.9
"""A number that is to be n times another may be a tenth less: the paper says "nearly"."""

HOLDS, FAILS, UNCLEAR = "holds", "fails", "unclear"
NO_NUMBER = "no number"
SOME_SEEDS = "seeds missing"
JUDGED = (HOLDS, FAILS, UNCLEAR)
RULE = (
    "A claim is decided by the comparison beside it, made in each condition that it is about."
    " `above` holds where the difference is above 0 and its 95 % interval does not contain 0, fails"
    " where it is below 0 and the interval does not contain 0, and is unclear otherwise. The"
    " interval is of the differences over paired seeds, for the paper's own numbers Welch's (of its"
    " local models over paired clients, of ours over the seeds' medians); of single runs the sign"
    " decides. A size (`2.5 ± 1 above`, `at least 3 above`, `at least 1.8 times`, `within 1 of`)"
    " holds where the difference has it, is unclear where only the interval reaches it, and fails"
    " otherwise. A method that diverged is worse than any that did not; rounds that never reach the"
    " accuracy are more than any that do. The whole claim fails if one comparison fails; holds if"
    " all hold; is open while some are missing, and else unclear. `seeds missing`: there are runs,"
    " but not of all seeds, and it takes all."
)


@dataclass(frozen=True)
class Number:
    """One number of one method in one condition."""

    mean: float | None = None
    std: float | None = None
    n: int = 1
    by_pair: Mapping[Any, float] = field(default_factory=dict)
    """What is compared in pairs: our runs by seed, printed local models by client."""
    diverged: bool = False
    unreached: bool = False
    early: str = ""
    """Where the runs are shorter than the paper's: how long they are, in words."""
    absent: str = ""
    """Why there is no number yet, in a word or two: SOME_SEEDS, if not all are there."""


Numbers = Callable[[Condition, str, str], Number | None]
"""(condition, method, metric) -> the number; None where there is none (yet)."""


@dataclass(frozen=True)
class Comparison:
    """What one comparison of a claim came to."""

    text: str
    verdict: str
    early: str = ""
    numbers: tuple[float | None, ...] = (None, None, None, None)
    """The mean of either side, their difference, half its 95 % interval; None: there is none."""


@dataclass(frozen=True)
class Judgement:
    """What a claim came to, with each of its comparisons."""

    verdict: str
    comparisons: tuple[Comparison, ...]

    @property
    def judged(self) -> int:
        """How many comparisons could be made."""
        return sum(c.verdict in JUDGED for c in self.comparisons)

    @property
    def early(self) -> str:
        """How long the runs are, if shorter than the paper's; the first of several."""
        return next((c.early for c in self.comparisons if c.early), "")


def judge(claim: Claim, numbers: Numbers, missing: str = "not run") -> Judgement:
    """Make all comparisons of a claim and add them up by RULE.

    missing: the word for a comparison of which a number is not there.
    """
    if claim.diverges:
        made = [
            _diverges(place, method, numbers, missing)
            for place in claim.places
            for method in claim.diverges
        ]
    else:
        made = [
            _compared(claim, place, more, less, numbers, missing)
            for place in claim.places
            for more in claim.more
            for less in claim.less
        ]
    return Judgement(_whole([comparison.verdict for comparison in made]), tuple(made))


def decided_by(claim: Claim) -> str:
    """The comparison that decides a claim, in words: "accuracy: fedgloss 2.5 ± 1 above fedsmoo"."""
    if claim.diverges:
        return f"diverges: {', '.join(claim.diverges)}"
    if claim.times:
        relation = f"at least {TIMES_SHARE * claim.times:g} times"
    elif claim.least:
        relation = f"at least {claim.least - claim.margin:g} above"
    elif claim.by:
        relation = f"{claim.by:g} ± {claim.margin:g} above"
    else:
        relation = f"within {claim.margin:g} of" if claim.same else "above"
    more, less = (", ".join(map(_of_any_place, sides)) for sides in (claim.more, claim.less))
    return f"{claim.metric}: {more} {relation} {less}"


def _of_any_place(side: Side) -> str:
    return _with(side, {k: v for k, v in side if v and k != "algorithm"})


def _with(side: Side, changed: Mapping[str, str]) -> str:
    """A side's method, and what else it says: "fedsam (alpha 0, lambda1_global)"."""
    said = [f"alpha {value}" if key == "alpha" else value for key, value in changed.items()]
    return f"{side.algorithm} ({', '.join(said)})" if said else side.algorithm


def _whole(verdicts: Iterable[str]) -> str:
    found = [*verdicts]
    if FAILS in found:
        return FAILS
    if not {*found}.intersection(JUDGED):
        return SOME_SEEDS if SOME_SEEDS in found else found[0]
    if not {*found} <= {*JUDGED}:
        return "open"
    return UNCLEAR if UNCLEAR in found else HOLDS


def _where(place: Condition) -> str:
    return f"{place.dataset}, alpha {place.alpha}, {place.model}"


def _diverges(place: Condition, method: str, numbers: Numbers, missing: str) -> Comparison:
    found = numbers(place, method, "accuracy")
    if found is None or found.absent:
        return Comparison(f"{_where(place)}: {method}", found.absent if found else missing)
    word = "diverged" if found.diverged else f"{found.mean:.1f}"
    verdict = HOLDS if found.diverged else FAILS
    return Comparison(f"{_where(place)}: {method} {word}", verdict, found.early)


def _compared(
    claim: Claim, place: Condition, more: Side, less: Side, numbers: Numbers, missing: str
) -> Comparison:
    sides = [
        numbers(side.at(place), side.algorithm, side.metric or claim.metric or "")
        for side in (more, less)
    ]
    names = f"{_where(place)}: {_name(more, place)} {{}}, {_name(less, place)} {{}}"
    a, b = sides
    if a is None or b is None:
        return Comparison(names.format(*map(_text, sides)), missing)
    if whys := sorted(filter(None, (a.absent, b.absent)), key=lambda why: why == SOME_SEEDS):
        return Comparison(names.format(*map(_text, sides)), whys[0])
    text, early = names.format(_text(a), _text(b)), a.early or b.early
    if a.diverged or b.diverged or a.unreached or b.unreached:
        return Comparison(text, _without_means(claim, a, b), early)
    if a.mean is None or b.mean is None:
        return Comparison(text, NO_NUMBER, early)
    difference, half = interval(a, b)
    text += f": {difference:+.3g}" + (f" ± {half:.2g}" if half is not None else "")
    found = _verdict(claim, difference, half or 0.0, b.mean)
    return Comparison(text, found, early, (a.mean, b.mean, difference, half))


def _name(side: Side, place: Condition) -> str:
    """A side in words: its method, and what of it is another than the claim's condition."""
    there = side.at(place)
    changed = {k: v for k, v in there if v != getattr(place, k)}
    return _with(side, changed | ({"metric": side.metric} if side.metric else {}))


def _text(number: Number | None) -> str:
    if number is None:
        return "–"
    if number.diverged:
        return "diverged"
    if number.unreached:
        return "not reached"
    return "–" if number.mean is None else f"{number.mean:.4g}"


def _without_means(claim: Claim, more: Number, less: Number) -> str:
    """Where a side diverged or never got there: it is the worse one, by however much."""
    lower = claim.metric in LOWER_IS_BETTER
    better, worse = (less, more) if lower else (more, less)
    lost, won = (side.diverged or side.unreached for side in (worse, better))
    if claim.same:
        return HOLDS if lost and won else FAILS
    if lost and won:
        return NO_NUMBER
    return HOLDS if lost else FAILS


def interval(more: Number, less: Number) -> tuple[float, float | None]:
    """The difference of two numbers and half its 95 % interval; None where no spread is known."""
    pairs = [key for key in more.by_pair if key in less.by_pair]
    if pairs:
        return mean_interval([more.by_pair[key] - less.by_pair[key] for key in pairs])
    assert more.mean is not None and less.mean is not None
    return more.mean - less.mean, welch((more.std, more.n), (less.std, less.n))


def _verdict(claim: Claim, difference: float, half: float, base: float) -> str:
    if claim.times:
        wanted = (TIMES_SHARE * claim.times - 1) * base
        return _at_least(difference, half, wanted)
    if claim.least:
        return _at_least(difference, half, claim.least - claim.margin)
    if claim.by or claim.same:
        distance = abs(difference - (claim.by or 0.0))
        return _at_least(-distance, half, -claim.margin)
    if abs(difference) <= half or not difference:
        return UNCLEAR
    return HOLDS if difference > 0 else FAILS


def _at_least(value: float, half: float, wanted: float) -> str:
    if value >= wanted or math.isclose(value, wanted, rel_tol=1e-9):
        return HOLDS
    return UNCLEAR if value + half >= wanted else FAILS
