"""A rubric as typed data, and the pure step from findings to points, gates and a band.

Points say how good the work is, gates whether it may pass at all: one gate that is not passed blocks the band, whatever
the score. What could not be scored earns nothing and is never counted as a fail; what a reviewer has not scored yet is
pending, neither earned nor lost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from course_lib.errors import DataError, RubricError
from course_lib.strict import yaml_table
from course_lib.types import Finding, Outcome

LAB_AREAS: Mapping[str, int] = {
    "technical correctness": 5,
    "measurement": 4,
    "enterprise controls": 4,
    "operational readiness": 3,
    "communication": 2,
    "reproducibility": 2,
}
BANDS: tuple[tuple[float, str], ...] = (
    (16, "enterprise-ready"),
    (12, "acceptable, with remediation before the capstone"),
    (0, "redo"),
)
BLOCKED = "blocked"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Criterion(_Part):
    """One line of the rubric. combine: every rule must pass (``all``), or each earns its share (``share``).

    A reviewer's criterion has no rules; ``guidance`` tells the reviewer what to look for.
    """

    id: str = Field(pattern=r"^[a-z0-9_]+$")
    area: str
    title: str = Field(min_length=3)
    points: float = Field(gt=0, le=20)
    scored_by: Literal["auto", "reviewer"]
    combine: Literal["all", "share"] = "all"
    rules: list[str] = []
    guidance: str = ""
    remediation: str = Field(min_length=3)


class Gate(_Part):
    """Passed only when every rule of it passed."""

    id: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str = Field(min_length=3)
    rules: list[str] = Field(min_length=1)
    remediation: str = Field(min_length=3)


class Rerun(_Part):
    """That learners' notebooks are executed again with another seed, and what that must and must not change.

    varies: files that say something else under another seed. equal: file -> fields of its rows, or of its one object,
    that no seed changes; without fields the whole file. seed_in: file -> field that holds the seed of the run.
    parameters: what the notebook's parameters of these names are set to, such as other cases.
    """

    varies: list[str] = Field(min_length=1)
    equal: dict[str, list[str]] = {}
    seed_in: dict[str, str] = {}
    parameters: dict[str, str | int | float | bool] = {}

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that it names."""
        return (*self.varies, *self.equal, *self.seed_in)


class Rubric(_Part):
    """thresholds: rule -> number that the checker of the rule compares with. rerun: None where notebooks are not
    executed again. sha256: of the file's bytes."""

    lab: str = Field(pattern=r"^\d{2}$")
    title: str = Field(min_length=3)
    criteria: list[Criterion] = Field(min_length=1)
    gates: list[Gate] = Field(min_length=1)
    thresholds: dict[str, float | int] = {}
    rerun: Rerun | None = None
    sha256: str = ""

    @property
    def maximum(self) -> float:
        return sum(criterion.points for criterion in self.criteria)


@dataclass(frozen=True, slots=True)
class GateResult:
    """outcome ERROR: could not be scored, and therefore not passed. problems: messages of what did not pass."""

    id: str
    title: str
    outcome: Outcome
    problems: tuple[str, ...]
    remediation: str

    @property
    def passed(self) -> bool:
        return self.outcome is Outcome.PASS


@dataclass(frozen=True, slots=True)
class CriterionResult:
    """earned, pending and unscored (each in points) never exceed ``points`` together; the rest is lost."""

    id: str
    area: str
    title: str
    scored_by: str
    outcome: Outcome
    points: float
    earned: float
    pending: float
    unscored: float
    rules: tuple[str, ...]
    guidance: str
    remediation: str


@dataclass(frozen=True, slots=True)
class LabReport:
    """The result for one submission. It holds no time and no path of a machine: equal input gives equal bytes.

    points are earned, of ``maximum``; pending wait for a reviewer or a later tier; unscored need one, because a check
    could not be completed. band: by points, or ``blocked`` while a gate is not passed; band_by_points ignores gates.
    """

    lab: str
    title: str
    criteria: tuple[CriterionResult, ...]
    gates: tuple[GateResult, ...]
    findings: tuple[Finding, ...]
    points: float
    pending: float
    unscored: float
    maximum: float
    band: str
    band_by_points: str
    submission: str = ""
    digest: str = ""
    rubric_sha256: str = ""
    grader: str = ""

    @property
    def needs_review(self) -> bool:
        """Whether a person must look: something could not be scored, or a reviewer's points are open."""
        return bool(self.pending or self.unscored) or any(f.outcome is Outcome.ERROR for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        gates = [{**asdict(gate), "passed": gate.passed} for gate in self.gates]
        return {**asdict(self), "gates": gates, "needs_review": self.needs_review}

    def to_json(self) -> str:
        """Deterministic: sorted keys, a final line break."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def load_rubric(path: Path, known_rules: Collection[str], areas: Mapping[str, int] = LAB_AREAS) -> Rubric:
    """Reads and validates a rubric. Raises RubricError that says what contradicts what.

    known_rules: the rules that the lab's checkers report. Each must be used, and no other may be named. areas: points
    that the criteria of each area must add up to.
    """
    try:
        raw = path.read_bytes()
        values = yaml_table(raw.decode("utf-8"), path).values
        rubric = Rubric.model_validate({**values, "sha256": hashlib.sha256(raw).hexdigest()})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RubricError("The rubric cannot be read.", where=str(path), fix="Restore the file.") from error
    except DataError as error:
        raise RubricError(error.what, where=error.where, fix=error.fix) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RubricError(f"{place}: {first['msg']}.", where=str(path), fix="Correct this entry.") from error
    problems = _contradictions(rubric, known_rules, areas)
    if problems:
        raise RubricError(problems[0], where=str(path), fix="Correct the rubric; its parts must agree.")
    return rubric


def _contradictions(rubric: Rubric, known: Collection[str], areas: Mapping[str, int]) -> list[str]:
    problems = []
    ids = [part.id for part in (*rubric.criteria, *rubric.gates)]
    problems += [f"The id {name} stands twice." for name in sorted({name for name in ids if ids.count(name) > 1})]
    for area in dict.fromkeys([*(criterion.area for criterion in rubric.criteria), *areas]):
        total = sum(criterion.points for criterion in rubric.criteria if criterion.area == area)
        if total != areas.get(area, 0):
            problems.append(f"The area {area!r} has {total:g} points and must have {areas.get(area, 0):g}.")
    for criterion in rubric.criteria:
        if (criterion.scored_by == "auto") != bool(criterion.rules):
            problems.append(f"{criterion.id}: an auto criterion needs rules, and a reviewer's has none.")
        if criterion.scored_by == "reviewer" and not criterion.guidance:
            problems.append(f"{criterion.id}: a reviewer needs guidance.")
        if len(set(criterion.rules)) != len(criterion.rules):
            problems.append(f"{criterion.id}: a rule stands twice.")
    used = {rule for part in (*rubric.criteria, *rubric.gates) for rule in part.rules}
    problems += [f"The rule {rule} is unknown: no checker reports it." for rule in sorted(used - set(known))]
    problems += [f"The rule {rule} is reported and never used." for rule in sorted(set(known) - used)]
    if rubric.rerun:
        both = sorted({*rubric.rerun.varies} & {name for name, fields in rubric.rerun.equal.items() if not fields})
        problems += [f"rerun: {name} must vary and must stay equal." for name in both]
    problems += [f"There is a threshold for the unused rule {rule}." for rule in sorted(set(rubric.thresholds) - used)]
    return problems


def score(rubric: Rubric, findings: Sequence[Finding], reviews: Mapping[str, float] | None = None) -> LabReport:
    """Points, gates and band from findings. Pure.

    A rule with several findings has the worst outcome among them; a rule without any could not be scored. reviews:
    points that a reviewer gave, by criterion id. Raises RubricError for a review that the rubric does not ask for.
    """
    reviews = dict(reviews or {})
    _check_reviews(rubric, reviews)
    outcomes = {rule: _worst(f.outcome for f in findings if f.rule == rule) for rule in _rules(rubric)}
    criteria = tuple(_criterion(part, outcomes, reviews.get(part.id)) for part in rubric.criteria)
    gates = tuple(_gate(part, outcomes, findings) for part in rubric.gates)
    points = round(sum(result.earned for result in criteria), 2)
    by_points = next(name for least, name in BANDS if points >= least)
    return LabReport(
        rubric.lab, rubric.title, criteria, gates, tuple(findings), points,
        round(sum(result.pending for result in criteria), 2), round(sum(result.unscored for result in criteria), 2),
        rubric.maximum, by_points if all(gate.passed for gate in gates) else BLOCKED, by_points,
        rubric_sha256=rubric.sha256,
    )  # fmt: skip


def _rules(rubric: Rubric) -> list[str]:
    return list(dict.fromkeys(rule for part in (*rubric.criteria, *rubric.gates) for rule in part.rules))


def _check_reviews(rubric: Rubric, reviews: Mapping[str, float]) -> None:
    open_points = {part.id: part.points for part in rubric.criteria if part.scored_by == "reviewer"}
    for name, given in reviews.items():
        if name not in open_points or not 0 <= given <= open_points[name]:
            raise RubricError(f"A review of {given} for {name} does not fit the rubric.", where="score(reviews=…)",
                              fix=f"Review only: {', '.join(f'{k} (0 to {v:g})' for k, v in open_points.items())}.")


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    found = set(outcomes)
    return next((o for o in (Outcome.FAIL, Outcome.ERROR, Outcome.SKIPPED, Outcome.PASS) if o in found), Outcome.ERROR)


def _criterion(part: Criterion, outcomes: Mapping[str, Outcome], review: float | None) -> CriterionResult:
    earned = pending = unscored = 0.0
    if part.scored_by == "reviewer":
        outcome = Outcome.SKIPPED if review is None else Outcome.PASS if review else Outcome.FAIL
        earned, pending = review or 0.0, part.points if review is None else 0.0
    else:
        mine = [outcomes[rule] for rule in part.rules]
        outcome = _worst(mine)
        if part.combine == "share" or outcome is Outcome.PASS:
            earned = round(part.points * mine.count(Outcome.PASS) / len(mine), 2)
        per_rule = part.points / len(mine) if part.combine == "share" else part.points
        blank = {name: mine.count(name) if part.combine == "share" else outcome is name for name in Outcome}
        pending, unscored = (round(per_rule * blank[name], 2) for name in (Outcome.SKIPPED, Outcome.ERROR))
    return CriterionResult(part.id, part.area, part.title, part.scored_by, outcome, part.points, earned, pending,
                           unscored, tuple(part.rules), part.guidance, part.remediation)


def _gate(part: Gate, outcomes: Mapping[str, Outcome], findings: Sequence[Finding]) -> GateResult:
    problems = tuple(f.message for f in findings if f.rule in part.rules and not f.ok)
    return GateResult(part.id, part.title, _worst(outcomes[rule] for rule in part.rules), problems, part.remediation)
