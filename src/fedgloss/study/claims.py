"""The paper's claims (constants/claims.yaml), and what deciding them takes."""

import functools
from collections.abc import Iterator

from fedgloss.study.configuration import CONSTANTS, read_yaml, validate
from fedgloss.study.schema.claims import Claim, Claims
from fedgloss.study.schema.shown import Condition

FILE = CONSTANTS / "claims.yaml"


@functools.cache
def claims() -> tuple[Claim, ...]:
    """The claims, in the paper's order."""
    return validate(read_yaml(FILE, ours=True), Claims, "constants/claims.yaml").claims


def compared(claim: Claim) -> Iterator[tuple[Condition, str, str]]:
    """The numbers that a claim is about: condition, method, metric."""
    for place in claim.places:
        for method in claim.diverges or ():
            yield place, method, "accuracy"
        for side in (*claim.more, *claim.less):
            yield side.at(place), side.algorithm, side.metric or claim.metric or ""


@functools.cache
def measured_in(condition: Condition, method: str) -> frozenset[str]:
    """The metrics of a method in a condition that some claim is about."""
    return frozenset(
        metric
        for claim in claims()
        for place, algorithm, metric in compared(claim)
        if (place, algorithm) == (condition, method)
    )
