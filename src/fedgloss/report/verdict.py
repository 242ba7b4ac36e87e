"""The rule that sets our number beside the paper's."""

import math
from dataclasses import dataclass

from fedgloss.report.published import Published
from fedgloss.report.results import Summary
from fedgloss.student import quantile

NEAR_POINTS = 1.0
NEAR_SHARE = 0.10
IN_POINTS = ("accuracy", "accuracy_at_half")

RULE = (
    "Verdict on ours against the paper's. Two questions: are the means within 1 point of each other"
    " (within 10 % of the paper's where it is no percentage), and does the 95 % interval of their"
    " difference (Student's t, pooled variance; the paper's mean is over 3 runs, or 1 where it"
    " prints no std) contain 0? `=` agrees: both. `≈` close: near, but not within the interval."
    " `∼` uncertain: not near, but the spread is too wide to tell. `>` above or `<` below: neither."
    " A method counts as diverged if any of its seeds did: `=` diverged in both, `≠` in one. `·`:"
    " not run, or not for the paper's number of rounds."
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
NOT_RUN = Verdict("not run", "·")
OTHER_ROUNDS = Verdict("other number of rounds", "·")


def verdict(ours: Summary, paper: Published, metric: str, rounds: int | None) -> Verdict:
    """Compare one number over our seeds with the paper's, by RULE.

    metric: decides whether "close" is meant in points or relative. rounds: ours, if known.
    """
    if ours.missing == ours.planned:
        return NOT_RUN
    if rounds and paper.rounds and rounds != paper.rounds:
        return OTHER_ROUNDS
    if ours.diverged or paper.status == "diverged":
        if ours.diverged and paper.status == "diverged":
            return DIVERGED_IN_BOTH
        return DIVERGED_HERE if ours.diverged else DIVERGED_THERE
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
    return abs(difference) <= (NEAR_POINTS if metric in IN_POINTS else NEAR_SHARE * abs(base))


def half_interval(ours: Summary, paper: Published) -> float:
    """Half the 95 % interval of the difference of the means; 0 if no spread is known at all."""
    freedom = ours.n + paper.n - 2
    if freedom == 0:
        return 0.0
    squares = (ours.n - 1) * (ours.std or 0.0) ** 2 + (paper.n - 1) * (paper.std or 0.0) ** 2
    error = math.sqrt(squares / freedom * (1 / ours.n + 1 / paper.n))
    return quantile(freedom) * error
