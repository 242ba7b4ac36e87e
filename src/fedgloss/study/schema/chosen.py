"""What stands in the file of settings that a sweep has chosen."""

from typing import Any

from pydantic import Field

from fedgloss.study.schema.kinds import Fingerprint, Model, Name, Text
from fedgloss.study.schema.study import Algorithm


class Chosen(Model):
    """Settings by label, and the evidence for them."""

    sweep: Name
    fingerprint: Fingerprint
    """Of the study that was the sweep."""
    rule: Text
    held_out: dict[str, Any]
    algorithms: dict[Name, Algorithm] = Field(min_length=1)
    evidence: dict[Name, dict[str, Any]]
    sha256: Fingerprint
    """Of all the rest."""
