"""The gradebook as data, derived from the records of the journal and from nothing else: equal records, equal book.

A final score is the automatic points, plus what reviewers gave for this very submission, less what the policy takes
away. The ledger of a row says for each criterion where its points come from.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from course_grader.policy import Policy, counted, deduction, total
from course_grader.similarity import Fingerprint, Pair, copies_of_starter, pairs
from course_lib.rubric import LabReport, Rubric, score
from course_lib.types import Finding, Outcome

Record = Mapping[str, Any]
GRADED, REFUSED, CRASHED = "graded", "refused", "not scored"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the ledger: points of one criterion. auto, suggestion, reviewer and final are points, or None while
    there are none. reason, who, when: of the reviewer, or of the judge while no reviewer has decided."""

    criterion: str
    title: str
    points: float
    scored_by: str
    auto: float | None
    suggestion: float | None
    reviewer: float | None
    final: float | None
    reason: str
    who: str
    when: str


@dataclass(frozen=True, slots=True)
class Row:
    """One attempt of one learner at one lab. report is None when nothing could be read. counts: this attempt stands.

    final: points after lateness. notes: what a facilitator should know, for example a copy of the starter.
    """

    learner: str
    name: str
    source: str
    platform: str
    attempt: int
    digest: str
    status: str
    error: str
    submitted: str
    late: bool
    report: LabReport | None
    final: float
    taken_off: float
    policy: str
    ledger: tuple[Line, ...]
    notes: tuple[str, ...]
    counts: bool

    @property
    def passed(self) -> bool:
        """Every gate passed, and nothing could not be scored."""
        return self.report is not None and all(gate.passed for gate in self.report.gates) and not self.report.unscored


@dataclass(frozen=True, slots=True)
class Lab:
    """rows: sorted by learner and attempt. pairs: among the attempts that count."""

    module: str
    title: str
    rubric: Rubric
    identity: Mapping[str, Mapping[str, str]]
    stamp: str
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    starters: tuple[str, ...]

    @property
    def counted(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.counts)


@dataclass(frozen=True, slots=True)
class Total:
    """Over the labs of one learner; dropped: labs left out, by the policy or because the grader crashed on them."""

    learner: str
    name: str
    points: float
    maximum: float
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Book:
    labs: tuple[Lab, ...]
    totals: tuple[Total, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """Final points of one learner in two gradebooks; None: not in it. why: criteria, rules and other causes."""

    learner: str
    name: str
    before: float | None
    after: float | None
    why: tuple[str, ...]


def slug(learner: str) -> str:
    """A file name for a learner: readable, safe, and different for different learners."""
    plain = re.sub(r"[^a-z0-9]+", "-", learner.casefold()).strip("-")[:40]
    return f"{plain or 'learner'}-{hashlib.sha256(learner.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def build(records: Iterable[Record]) -> Book:
    """The committed gradebook: the last run of each lab, with the results and reviews of the journal."""
    records = list(records)
    runs = {record["module"]: record for record in records if record["kind"] == "run"}
    if not runs:
        return Book((), ())
    policy = last_policy(records)
    results = {record["key"]: record for record in records if record["kind"] in ("crash", "result")}
    labs = tuple(_lab(runs[module], results, records, policy) for module in sorted(runs))
    return Book(labs, _totals(labs, policy))


def last_policy(records: Iterable[Record]) -> Policy:
    """The policy of the last run, which holds for every lab; no rules where there is no run."""
    runs = [record for record in records if record["kind"] == "run"]
    return Policy.model_validate(runs[-1]["policy"]) if runs else Policy()


def _lab(run: Record, results: Mapping[str, Record], records: Sequence[Record], policy: Policy) -> Lab:
    rubric = Rubric.model_validate(run["rubric"])
    reviews = [r for r in records if r["kind"] == "review" and r["module"] == run["module"]]
    hints = [r for r in records if r["kind"] == "suggestion" and r["module"] == run["module"]]
    rows = [_row(entry, run, rubric, results, reviews, hints, policy) for entry in run["entries"]]
    by_learner: dict[str, list[Row]] = {}
    for row in rows:
        by_learner.setdefault(row.learner, []).append(row)
    chosen = {id(counted(policy, [(r.attempt, r.final, r) for r in mine])) for mine in by_learner.values()}
    rows = [replace(row, counts=id(row) in chosen) for row in rows]
    keys = {(e["learner"], e["attempt"]): e["keys"].get("static", "") for e in run["entries"]}
    prints = [(row.learner, row.digest, Fingerprint.unpacked(results[key]["code"])) for row in rows if row.counts
              and (key := keys[row.learner, row.attempt]) and results.get(key, {}).get("code")]  # fmt: skip
    starters = copies_of_starter([(name, code) for name, _, code in prints])
    return Lab(run["module"], rubric.title, rubric, run["identity"], run["stamp"], tuple(rows), tuple(pairs(prints)),
               tuple(starters))  # fmt: skip


def _row(entry: Record, run: Record, rubric: Rubric, results: Mapping[str, Record], reviews: Sequence[Record],
         hints: Sequence[Record], policy: Policy) -> Row:
    found = {tier: results.get(key) for tier, key in entry["keys"].items()}
    static = found.get("static")
    blank = {name: entry[name] for name in ("learner", "name", "source", "platform", "attempt", "digest", "submitted",
                                            "late")}  # fmt: skip
    if entry["error"] or static is None or static["kind"] == "crash":
        status = REFUSED if entry["error"] else CRASHED
        error = entry["error"] or f"Not scored: {static['reason'] if static else 'the run did not reach it'}."
        return Row(**blank, status=status, error=error, report=None, final=0.0, taken_off=0.0, policy="", ledger=(),
                   notes=(), counts=False)  # fmt: skip
    findings = merged(_findings(static), found.get("executed"))
    mine = _valid(reviews, entry, rubric)
    given = {name: float(review["points"]) for name, review in mine.items() if review["digest"] == entry["digest"]}
    report = replace(score(rubric, findings, given), submission=entry["name"], digest=entry["digest"],
                     grader=f"course_lib {run['identity']['static']['grader'][:12]}")  # fmt: skip
    off = deduction(policy, entry["learner"], rubric.lab, report.points, entry["submitted"])
    notes = ["The learning platform marks it as late and gives no time."] if entry["late"] else []
    stale = [r for r in mine.values() if r["digest"] != entry["digest"]]
    notes += [f"A review of {r['criterion']} by {r['who']} was for an earlier submission." for r in stale]
    return Row(**blank, status=GRADED, error="", report=report, final=round(report.points - off.points, 2),
               taken_off=off.points, policy=off.reason, ledger=_ledger(report, entry, mine, hints), notes=tuple(notes),
               counts=False)  # fmt: skip


def _findings(result: Record) -> list[Finding]:
    return [Finding(**{**f, "outcome": Outcome(f["outcome"])}) for f in result["findings"]]


def merged(static: Sequence[Finding], executed: Record | None) -> list[Finding]:
    """Static findings, and those of the re-execution in place of what waited for it. Where the re-execution crashed,
    the rules that waited and the rule about the notebook are left to a person: a crash must not be an advantage."""
    if executed is None:
        return list(static)
    if executed["kind"] == "crash":
        waits = f"Could not score: {executed['reason']}."
        return [replace(f, outcome=Outcome.ERROR, message=waits) if f.outcome is Outcome.SKIPPED or (
            f.ok and f.rule.endswith(".notebook")) else f for f in static]  # fmt: skip
    late = _findings(executed)
    decided = {f.rule for f in late}
    return [f for f in static if not (f.outcome is Outcome.SKIPPED and f.rule in decided)] + late


def _valid(reviews: Sequence[Record], entry: Record, rubric: Rubric) -> dict[str, Record]:
    """The last review per criterion that the rubric still asks for. One for this submission beats a later one for
    another."""
    room = {c.id: c.points for c in rubric.criteria if c.scored_by == "reviewer"}
    found: dict[str, Record] = {}
    for review in reviews:
        name = review["criterion"]
        if review["learner"] == entry["learner"] and 0 <= review["points"] <= room.get(name, -1):
            if name in found and entry["digest"] == found[name]["digest"] != review["digest"]:
                continue
            found[name] = review
    return found


def _ledger(report: LabReport, entry: Record, mine: Mapping[str, Record], hints: Sequence[Record]) -> tuple[Line, ...]:
    offered = {h["criterion"]: h for h in hints if h["learner"] == entry["learner"] and h["digest"] == entry["digest"]}
    lines = []
    for part in report.criteria:
        review, hint = mine.get(part.id), offered.get(part.id)
        review = review if review and review["digest"] == entry["digest"] else None
        source = review or hint or {}
        scored = part.scored_by == "auto" and not part.pending and not part.unscored
        auto = part.earned if part.scored_by == "auto" and (scored or part.earned) else None
        lines.append(Line(
            part.id, part.title, part.points, part.scored_by, auto, hint["points"] if hint else None,
            review["points"] if review else None, part.earned if scored or review else None,
            source.get("reason", ""), source.get("who", ""), source.get("when", ""),
        ))  # fmt: skip
    return tuple(lines)


def _totals(labs: Sequence[Lab], policy: Policy) -> tuple[Total, ...]:
    """A lab that was not handed in, or refused, counts as zero of its maximum; one that the grader crashed on does not
    count at all."""
    names: dict[str, str] = {}
    for lab in labs:
        names |= {row.learner: row.name for row in lab.counted}
    totals = []
    for learner in sorted(names):
        mine = {lab.module: row for lab in labs for row in lab.counted if row.learner == learner}
        crashed = {module for module, row in mine.items() if row.status == CRASHED}
        finals = [(lab.module, mine[lab.module].final if lab.module in mine else 0.0, lab.rubric.maximum)
                  for lab in labs if lab.module not in crashed]  # fmt: skip
        points, maximum, dropped = total(policy, finals)
        totals.append(Total(learner, names[learner], points, maximum, tuple(sorted({*dropped, *crashed}))))
    return tuple(totals)


def changes(before: Book, after: Book, module: str) -> tuple[Change, ...]:
    """Who changes between two gradebooks of one lab, by how much, and why. Empty when there was none before."""
    old, new = ({row.learner: row for lab in book.labs if lab.module == module for row in lab.counted}
                for book in (before, after))  # fmt: skip
    if not old:
        return ()
    found = []
    for learner in sorted({*old, *new}):
        was, now = old.get(learner), new.get(learner)
        why = _why(was, now)
        if why:
            row = now or was
            assert row is not None
            found.append(Change(learner, row.name, was.final if was else None, now.final if now else None, tuple(why)))
    return tuple(found)


def _why(was: Row | None, now: Row | None) -> list[str]:
    if was is None or now is None:
        return ["handed in since" if was is None else "no longer among the submissions"]
    why = ["another submission"] if was.digest != now.digest else []
    if (was.status, was.error) != (now.status, now.error):
        why.append(f"{was.status}, now {now.status}")
    if was.report and now.report:
        earned = {c.id: c.earned for c in was.report.criteria}
        why += [f"{c.id}: {earned[c.id]:g} to {c.earned:g} points" for c in now.report.criteria
                if c.id in earned and earned[c.id] != c.earned]  # fmt: skip
        why += [f"{c.id}: new in the rubric" for c in now.report.criteria if c.id not in earned]
        gates = {g.id: g.outcome for g in was.report.gates}
        why += [f"gate {g.id}: {gates.get(g.id, 'new')} to {g.outcome}" for g in now.report.gates
                if gates.get(g.id) != g.outcome]  # fmt: skip
        rules = _outcomes(was.report)
        why += [f"rule {name}: {rules.get(name, 'new')} to {outcome}" for name, outcome in _outcomes(now.report).items()
                if rules.get(name) != outcome]  # fmt: skip
    if was.taken_off != now.taken_off:
        why.append(f"lateness: {was.taken_off:g} to {now.taken_off:g} points taken off")
    return why


def _outcomes(report: LabReport) -> dict[str, str]:
    """Rule -> its outcomes, joined where there are several findings."""
    found: dict[str, set[str]] = {}
    for finding in report.findings:
        found.setdefault(finding.rule, set()).add(str(finding.outcome))
    return {rule: ", ".join(sorted(outcomes)) for rule, outcomes in sorted(found.items())}
