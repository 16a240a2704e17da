"""The rules of a cohort beside the rubric: due dates, lateness, extensions, attempts, dropped labs. Pure functions.

What a rule takes away is shown beside the points of the work itself, with its reason; it never changes what was found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from course_lib.errors import DataError
from course_lib.strict import read_text, yaml_table

T = TypeVar("T")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Late(_Part):
    """per_day: share of the earned points for each day that has begun since the due date, once the grace is over.
    at_most: the largest share. closed_after_days: since the due date too; later work earns nothing; None: it is always
    taken."""

    grace_hours: float = Field(0, ge=0)
    per_day: float = Field(0, ge=0, le=1)
    at_most: float = Field(1, ge=0, le=1)
    closed_after_days: float | None = Field(None, gt=0)


class Extension(_Part):
    """reason is shown to the facilitator, in the ledger of the learner's page."""

    learner: str
    lab: str
    until: AwareDatetime
    reason: str = Field(min_length=3)


class Retries(_Part):
    """keep: which attempt counts. attempts: how many are taken, the earliest first; None: all."""

    keep: Literal["best", "last"] = "last"
    attempts: int | None = Field(None, ge=1)


class Policy(_Part):
    """due: lab -> time with its zone; a lab without one has no deadline. drop_lowest: labs left out of the total."""

    due: dict[str, AwareDatetime] = {}
    late: Late = Late()
    extensions: list[Extension] = []
    retries: Retries = Retries()
    drop_lowest: int = Field(0, ge=0, le=6)

    @model_validator(mode="after")
    def _once(self) -> Self:
        pairs = [(extension.learner, extension.lab) for extension in self.extensions]
        if len(set(pairs)) < len(pairs):
            raise ValueError("a learner has two extensions for one lab")
        if missing := {lab for _, lab in pairs} - set(self.due):
            raise ValueError(f"there is an extension for lab {min(missing)}, which has no due date")
        return self


@dataclass(frozen=True, slots=True)
class Deduction:
    """points: what is taken away, rounded to hundredths. reason: empty when no rule applies."""

    points: float
    reason: str


def load_policy(path: Path | None) -> Policy:
    """Raises DataError with file and field. No path: no rules."""
    if path is None:
        return Policy()
    table = yaml_table(read_text(path), path)
    try:
        return Policy.model_validate(table.values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        line = table.lines.get(str(first["loc"][0]), 1) if first["loc"] else 1
        name = ".".join(map(str, first["loc"]))
        raise DataError(f"{name + ': ' if name else ''}{first['msg']}.", where=f"{path}:{line}",
                        fix="Correct this entry; quote lab numbers, and give times a zone.") from error  # fmt: skip


def deduction(policy: Policy, learner: str, lab: str, earned: float, submitted: str) -> Deduction:
    """What lateness costs. submitted: ISO 8601 with a zone; empty: not known, and then nothing is taken away."""
    due = policy.due.get(lab)
    if due is None or not submitted:
        return Deduction(0.0, "")
    extension = next((e for e in policy.extensions if (e.learner, e.lab) == (learner, lab)), None)
    note = f"extended to {extension.until:%Y-%m-%d %H:%M %Z}, {extension.reason}" if extension else ""
    why = f" ({note})" if note else ""
    over = datetime.fromisoformat(submitted) - (extension.until if extension else due)
    late = policy.late
    if over <= timedelta(hours=late.grace_hours):
        return Deduction(0.0, note)
    days = math.ceil(over / timedelta(days=1))
    if late.closed_after_days is not None and over > timedelta(days=late.closed_after_days):
        return Deduction(earned, f"{_days(days)} late; closed after {late.closed_after_days:g} days{why}")
    share = min(late.at_most, days * late.per_day)
    return Deduction(round(earned * share, 2), f"{_days(days)} late, {share:.0%} taken off{why}")


def counted(policy: Policy, attempts: Sequence[tuple[int, float, T]]) -> T:
    """The attempt that counts. attempts: (number, final points, anything), not empty; of equal ones the earliest."""
    taken = sorted(attempts, key=lambda a: a[0])[: policy.retries.attempts]
    if policy.retries.keep == "best":
        return max(taken, key=lambda a: (a[1], -a[0]))[2]
    return taken[-1][2]


def total(policy: Policy, labs: Sequence[tuple[str, float, float]]) -> tuple[float, float, tuple[str, ...]]:
    """(points, of how many, labs dropped) over (lab, final, maximum). One lab always counts."""
    ranked = sorted(labs, key=lambda lab: (lab[1] / lab[2], lab[0]))
    dropped = {lab[0] for lab in ranked[: min(policy.drop_lowest, max(0, len(labs) - 1))]}
    kept = [lab for lab in labs if lab[0] not in dropped]
    return round(sum(lab[1] for lab in kept), 2), round(sum(lab[2] for lab in kept), 2), tuple(sorted(dropped))


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"
