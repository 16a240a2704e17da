"""What a cohort says about the lab: how each check did, and what a facilitator should look at first."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from course_grader.gradebook import CRASHED, REFUSED, Book, Lab, Row
from course_lib.measure import wilson
from course_lib.types import Outcome

ENOUGH = 20  # learners: below that no check is called weak
HARD = 0.2
WEAK = 0.1  # the upper end of the 95 % interval of the discrimination (Fisher) must reach it


@dataclass(frozen=True, slots=True)
class Item:
    """One rule over a cohort. low and high: 95 % interval of the pass rate (Wilson). passed of scored; blank: could not
    be scored or is pending.

    discrimination: correlation of passing it with the points of everything else, the criteria that use it left out;
    None while all or none pass. note: why a person should look at the check itself.
    """

    rule: str
    criterion: str
    scored: int
    passed: int
    blank: int
    low: float
    high: float
    discrimination: float | None
    note: str

    @property
    def rate(self) -> float:
        return self.passed / self.scored if self.scored else 0.0


@dataclass(frozen=True, slots=True)
class Look:
    """One thing to look at. where: an anchor of the index page. examples: a few learners, as (name, learner)."""

    what: str
    why: str
    where: str
    examples: tuple[tuple[str, str], ...] = ()


def items(lab: Lab) -> tuple[Item, ...]:
    """In the order of the rubric, over the attempts that count. A rule with several findings has the worst outcome."""
    rows = [row for row in lab.counted if row.report]
    criteria = {rule: c.id for c in reversed(lab.rubric.criteria) for rule in c.rules}
    ordered = [rule for c in lab.rubric.criteria for rule in c.rules]
    ordered += [rule for gate in lab.rubric.gates for rule in gate.rules]
    return tuple(_item(rule, criteria.get(rule, ""), lab, rows) for rule in dict.fromkeys(ordered))


def _item(rule: str, criterion: str, lab: Lab, rows: Sequence[Row]) -> Item:
    users = {c.id for c in lab.rubric.criteria if rule in c.rules}
    passed, rest, blank = [], [], 0
    for row in rows:
        assert row.report is not None
        outcomes = {f.outcome for f in row.report.findings if f.rule == rule}
        if outcomes and outcomes <= {Outcome.PASS, Outcome.FAIL}:
            passed.append(float(outcomes == {Outcome.PASS}))
            rest.append(sum(c.earned for c in row.report.criteria if c.scored_by == "auto" and c.id not in users))
        else:
            blank += 1
    n, ok = len(passed), int(sum(passed))
    low, high = wilson(ok, n) if n else (0.0, 1.0)
    varied = len(set(passed)) > 1 and len(set(rest)) > 1
    link = round(statistics.correlation(passed, rest), 3) if varied else None
    return Item(rule, criterion, n, ok, blank, round(low, 4), round(high, 4), link, _note(ok, n, blank, link))


def _note(passed: int, n: int, blank: int, link: float | None) -> str:
    if n + blank >= ENOUGH and blank > 0.1 * (n + blank):
        return "often not scored: look at the check"
    if n < ENOUGH:
        return ""
    if passed < HARD * n:
        return "most fail: is the task clear, and the check right?"
    if link is not None and math.tanh(math.atanh(max(-0.999, min(0.999, link))) + 1.96 / math.sqrt(n - 3)) < WEAK:
        return "does not separate strong from weak work"
    return ""


def look_first(book: Book) -> tuple[Look, ...]:
    """Most urgent first: what nobody has scored, what may be unfair, then what waits."""
    found: list[Look] = []
    for lab in book.labs:
        found += _unread(lab) + _suspicious(lab) + _waiting(lab)
    return tuple(found)


def _unread(lab: Lab) -> list[Look]:
    found = []
    refused, crashed = ([r for r in lab.rows if r.status == status] for status in (REFUSED, CRASHED))
    partly = [r for r in lab.counted if r.report and r.report.unscored]
    if lab.stamp:
        found.append(Look(lab.stamp, "Say so to whoever relies on these scores.", "about"))
    if crashed:
        found.append(Look(f"{_people(crashed)} not scored", "The grader stopped on it. It is tried again in the next "
                          "run; until then it is not a zero.", "learners", _names(crashed)))  # fmt: skip
    if refused:
        found.append(Look(f"{_people(refused)} refused", "Nothing of it was read. Ask for it again; the reason stands "
                          "beside the name.", "learners", _names(refused)))  # fmt: skip
    if partly:
        found.append(Look(f"{_people(partly)} with evidence that could not be read", "No points are lost for good: a "
                          "person must look.", "learners", _names(partly)))  # fmt: skip
    return found


def _suspicious(lab: Lab) -> list[Look]:
    found = []
    names = {row.learner: row.name for row in lab.counted}
    if lab.pairs:
        people = dict.fromkeys(name for pair in lab.pairs for name in (pair.first, pair.second))
        found.append(Look(f"{len(lab.pairs)} similar pair{'s' * (len(lab.pairs) > 1)}, {len(people)} learners",
                          "Compare them before anything is said; a flag is a question.", "similar",
                          tuple((names[p], p) for p in list(people)[:4])))  # fmt: skip
    if lab.starters:
        found.append(Look(f"{len(lab.starters)} hardly differ from the starter lab", "Their notebook has next to no "
                          "code of its own.", "learners", tuple((names[p], p) for p in lab.starters[:4])))  # fmt: skip
    found += _flagged(lab)
    noted = [item for item in items(lab) if item.note]
    if noted:
        named = "; ".join(f"{item.rule}: {item.note} ({item.rate:.0%} pass)" for item in noted[:3])
        more = f"; and {len(noted) - 3} more" if len(noted) > 3 else ""
        found.append(Look(f"{len(noted)} of our own checks", f"{named}{more}.", "checks"))
    return found


def _flagged(lab: Lab) -> list[Look]:
    """What a check or a re-execution marked for a person, beside its points."""
    by_flag: dict[str, list[Row]] = {}
    for row in (row for row in lab.counted if row.report):
        for flag in sorted({str(f.evidence["flag"]) for f in row.report.findings if f.evidence.get("flag")}):
            by_flag.setdefault(flag, []).append(row)
    why = "The findings on the learner's page say what was seen; read them beside the notebook."
    return [Look(f"{_people(rows)} flagged: {flag}", why, "learners", _names(rows))
            for flag, rows in sorted(by_flag.items())]  # fmt: skip


def _waiting(lab: Lab) -> list[Look]:
    found = []
    pending = [r for r in lab.counted if r.report and r.report.pending]
    noted = [r for r in lab.counted if r.notes]
    if noted:
        found.append(Look(f"{_people(noted)} with a note", "Late without a time, or a review of an earlier submission.",
                          "learners", _names(noted)))  # fmt: skip
    if pending:
        points = sum(r.report.pending for r in pending if r.report)
        found.append(Look(f"{points:g} points wait for reviewers", f"{_people(pending)}; fill reviews.csv and hand "
                          "it in with --reviews; first those whose band it can change.", "learners",
                          _names(sorted(pending, key=_near_band))))  # fmt: skip
    return found


def _near_band(row: Row) -> tuple[bool, float, str]:
    """Those whose band the open points can change, the closest first."""
    assert row.report is not None
    gaps = [least - row.report.points for least in (16, 12) if 0 < least - row.report.points <= row.report.pending]
    return (not gaps, min(gaps, default=0.0), row.learner)


def _people(rows: Sequence[Row]) -> str:
    return f"{len(rows)} submission{'s' * (len(rows) != 1)}"


def _names(rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    return tuple((row.name, row.learner) for row in rows[:4])


def failed_gates(lab: Lab) -> list[tuple[str, int]]:
    """(title of the gate, how many did not pass it), the most frequent first."""
    counts = Counter(g.title for r in lab.counted if r.report for g in r.report.gates if not g.passed)
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
