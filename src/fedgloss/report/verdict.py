"""The rule that sets our number beside the paper's."""

import math
from dataclasses import dataclass

from fedgloss.report.published import Published
from fedgloss.report.seeds import Summary
from fedgloss.student import quantile

NEAR_POINTS = 1.0
NEAR_SHARE = 0.10
IN_POINTS = ("accuracy", "accuracy_gain", "accuracy_at_half")

RULE = (
    "Verdict on ours against the paper's. Two questions: are the means within 1 point of each other"
    " (within 10 % of the paper's where it is no percentage), and does the 95 % interval of their"
    " difference contain 0 (Student's t, Welch's for unequal variances; the paper's mean is over 3"
    " runs, or 1 where it prints no std: then the other side's variance counts for both)? `=`"
    " agrees: both. `≈` close: near, but not within the interval. `∼` uncertain: not near, but the"
    " spread is too wide to tell. `>` above or `<` below: neither. A method counts as diverged if"
    " any of its seeds did: `=` diverged in both, `≠` in one. `·`: no verdict: not run, seeds"
    " missing (incomplete), also of what ours is counted against, or not for the paper's number of"
    " rounds."
)


@dataclass(frozen=True)
class Verdict:
    """A word and the relation sign, ours to the paper's, that stands for it in narrow places."""

    word: str
    sign: str


AGREES = Verdict("agrees", "=")
CLOSE = Verdict("close", "≈")
UNCERTAIN = Verdict("uncertain", "∼")
ABOVE = Verdict("above", ">")
BELOW = Verdict("below", "<")
DIVERGED_IN_BOTH = Verdict("diverged in both", "=")
NOT_REACHED_IN_BOTH = Verdict("not reached in both", "=")
DIVERGED_HERE = Verdict("diverged here only", "≠")
DIVERGED_THERE = Verdict("diverged in the paper only", "≠")
NOT_REACHED_HERE = Verdict("not reached here", "≠")
NOT_REACHED_THERE = Verdict("not reached in the paper", "≠")


def verdict(ours: Summary, paper: Published, metric: str, rounds: int | None) -> Verdict:
    """Compare one number over our seeds with the paper's, by RULE.

    metric: decides whether "close" is meant in points or relative. rounds: ours, if known.
    """
    if ours.nothing:
        return Verdict(ours.nothing, "·")
    if rounds and paper.rounds and rounds != paper.rounds:
        shorter = rounds < paper.rounds
        words = "{:,} of {:,} rounds" if shorter else "{:,} rounds, not {:,}"
        return Verdict(words.format(rounds, paper.rounds), "·")
    if ours.diverged:  # whatever the seeds that are missing will do
        return DIVERGED_IN_BOTH if paper.status == "diverged" else DIVERGED_HERE
    if ours.missing:
        return Verdict(f"incomplete {ours.planned - ours.missing}/{ours.planned}", "·")
    if ours.against:
        return Verdict(f"incomplete, {ours.against}", "·")
    if paper.status == "diverged":
        return DIVERGED_THERE
    if ours.unreached or paper.status == "not_reached":
        if ours.unreached and paper.status == "not_reached":
            return NOT_REACHED_IN_BOTH
        return NOT_REACHED_HERE if ours.unreached else NOT_REACHED_THERE
    assert ours.mean is not None and paper.mean is not None  # all else has returned
    difference = ours.mean - paper.mean
    is_near = near(difference, paper.mean, metric)
    if abs(difference) <= half_interval(ours, paper):
        return AGREES if is_near else UNCERTAIN
    if is_near:
        return CLOSE
    return ABOVE if difference > 0 else BELOW


def near(difference: float, base: float, metric: str) -> bool:
    """Whether a difference is small: in points, or relative to `base` for what is no percentage."""
    return abs(difference) <= margin(base, metric)


def margin(base: float, metric: str) -> float:
    """The largest difference from `base` that is small."""
    return NEAR_POINTS if metric in IN_POINTS else NEAR_SHARE * abs(base)


def half_interval(ours: Summary, paper: Published) -> float:
    """Half the 95 % interval of the difference of the means; 0 if no spread is known at all."""
    return welch((ours.std, ours.n), (paper.std, paper.n)) or 0.0


def welch(first: tuple[float | None, int], second: tuple[float | None, int]) -> float | None:
    """Half the 95 % interval of the difference of two means, each of (std, n); None without a std.

    Welch's: with three runs on both sides, one of them spread ten times as wide as the other, a
    pooled variance calls 10 % of equal means different where it should 5 %, and 37 % with ten runs
    against three; Welch's interval 6 %. Where one side has no spread, the other's stands for both.
    """
    errors = [(std**2 / n, n - 1) for std, n in (first, second) if std is not None]
    if not errors:
        return None
    if len(errors) == 1:
        ((square, own),) = errors
        rest = first[1] + second[1] - own - 1
        return quantile(own) * math.sqrt(square * (1 + (own + 1) / rest))
    total = sum(square for square, _ in errors)
    if not total:
        return 0.0
    freedom = 1 / sum((square / total) ** 2 / own for square, own in errors)
    return quantile(freedom) * math.sqrt(total)
