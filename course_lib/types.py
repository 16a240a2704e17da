"""Frozen records that cross the seams of the course."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """How a check ended. ERROR means "could not score": a person must look, and it never earns points."""

    PASS = "pass"
    FAIL = "fail"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found in one submission.

    rule: id of the rule, as the rubric names it, for example ``rag.hit_rate``.
    message: one sentence for the learner. expected / actual: the claim beside the recomputed evidence, as short text.
    where: file and line in the submission. fix: the next step, for every outcome but PASS.
    evidence: JSON-serialisable details for the report; small, and free of hidden cases.
    """

    rule: str
    outcome: Outcome
    message: str
    expected: str = ""
    actual: str = ""
    where: str = ""
    fix: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.PASS
