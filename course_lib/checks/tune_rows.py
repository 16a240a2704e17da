"""Lab 03, what was measured: right and wrong, the paired test, damage, the served file, the way back, the decision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from course_lib.artifacts_tuning import EvalRow, Spot
from course_lib.checks import tuning as sums
from course_lib.checks.common import Context, first, place, reason, verdict
from course_lib.checks.notes import missing_sections
from course_lib.checks.tuning import BASELINE, RESULTS, ROLLBACK, SERVED, TUNED, WORSE
from course_lib.submission import Row, Submission
from course_lib.types import Finding

NEAR = 6e-5
LEAST_WORDS = 4
MOST_LISTED = 60
GGUF_BYTES = 5_000_000
NOTE = "rollback-note.md"
PARTS = {"the trigger": ("trigger", "when"), "the steps": ("step", "how"), "the proof": ("proof", "tried", "tested"),
         "the owner": ("owner", "who", "role")}  # fmt: skip


def check_scores(submission: Submission, context: Context) -> list[Finding]:
    """tune.scores_follow: each claim of right or wrong follows from the answer's text, and the counts from the rows."""
    problems = [*_wrong_claims(submission, context), *_wrong_spots(submission, context)]
    return [verdict(
        "tune.scores_follow", not problems, "Every answer is judged as its text says, and every count follows.",
        problem=f"{place(problems)}: {reason(problems)}.", expected="right where words and numbers are the reply's",
        actual=f"{len(problems)} claims", where=place(problems), problems=problems[:6],
        fix="Judge answers in code, by their words and numbers in order, and count in code.",
    )]  # fmt: skip


def _wrong_claims(submission: Submission, context: Context) -> Iterator[str]:
    cases = sums.cases_of(context)
    for name in (BASELINE, TUNED):
        for row in sums.rows_of(submission, name):
            case = cases.get(row.value.id)
            if case and row.value.right != (true := sums.right(case, row.value.answer)):
                yield f"{row.where} {row.value.id} is called {_word(row.value.right)}, and its text is {_word(true)}"


def _word(right: bool) -> str:
    return "right" if right else "wrong"


def _wrong_spots(submission: Submission, context: Context) -> Iterator[str]:
    results = sums.results_of(submission)
    for which in ("general", "refusal"):
        claim: Spot = getattr(results, which)
        truth = sums.compare(*sums.both(submission, context, which))
        found = {"n": truth["n"], "before": truth["base_right"], "after": truth["tuned_right"], "lost": truth["worse"],
                 "won": truth["better"]}  # fmt: skip
        yield from (f"{RESULTS} {which}: {name} is claimed as {getattr(claim, name)}, the rows give {value}"
                    for name, value in found.items() if getattr(claim, name) != value)


def check_paired(submission: Submission, context: Context) -> list[Finding]:
    """tune.paired_test: gain, interval and McNemar's p follow from the pairs. tune.gain: the interval's lower end."""
    claim, truth = sums.results_of(submission).locked, sums.compare(*sums.both(submission, context, "locked"))
    wrong = [f"{name} is claimed as {getattr(claim, name):g}, the pairs give {value:g}" for name, value in truth.items()
             if not _same(name, getattr(claim, name), value)]  # fmt: skip
    follows = verdict(
        "tune.paired_test", not wrong, f"Gain, interval and p follow from {truth['n']} pairs.",
        problem=f"{len(wrong)} numbers do not follow from the pairs. First: {first(wrong)}.",
        expected="paired bootstrap and McNemar's exact test over the cases", actual=f"{len(wrong)} others",
        where=RESULTS if wrong else "", wrong=wrong[:6],
        fix="Compare case by case: count what became right and wrong, and resample whole cases.",
    )  # fmt: skip
    least, shown = context.threshold("tune.gain"), f"{truth['low']:.4f} to {truth['high']:.4f}"
    gained = verdict(
        "tune.gain", truth["low"] > least, f"The gain of {truth['gain']:.4f} has an interval of {shown}.",
        problem=f"The interval of the gain, {shown}, is not above {least:g}: these cases do not show an improvement.",
        expected=f"lower end above {least:g}", actual=shown, where=TUNED,
        fix="Train longer, with more rows or another rate; keep the cases and the thresholds.",
    )  # fmt: skip
    return [follows, gained]


def _same(name: str, claimed: float, value: float) -> bool:
    if name == "p":
        return math.isclose(claimed, value, rel_tol=1e-6, abs_tol=1e-12)
    return math.isclose(claimed, value, abs_tol=NEAR)


def check_spots(submission: Submission, context: Context) -> list[Finding]:
    """tune.spot_checks: enough general and refusal cases were asked before and after."""
    least, cases = int(context.threshold("tune.spot_checks")), sums.cases_of(context)
    problems = []
    for which in ("general", "refusal"):
        for name in (BASELINE, TUNED):
            count = len(sums.truth(sums.rows_of(submission, name), cases, which))
            problems += [f"{name} it has {count} {which} cases, and {least} are needed"] if count < least else []
    return [verdict(
        "tune.spot_checks", not problems, "General and refusal cases were asked before and after.",
        problem=f"{place(problems)}: {reason(problems)}.", expected=f"at least {least} of each, before and after",
        actual=f"{len(problems)} gaps", where=place(problems), problems=problems,
        fix="Ask base and tuned model the general and the refusal cases too: damage shows there.",
    )]  # fmt: skip


def check_regressions(submission: Submission, context: Context) -> list[Finding]:
    """tune.regressions: every case that got worse is listed, at least three are analysed, and severity follows."""
    rows, truth = sums.worse_of(submission), dict(_worse(submission, context))
    problems = []
    named = [row.value.id for row in rows]
    missing = [name for name in truth if name not in named]
    if missing and len(named) < MOST_LISTED:
        problems.append(f"{WORSE} {missing[0]} was right before and is wrong now, and is not listed")
    least = int(context.threshold("tune.regressions"))
    if len(set(named)) < min(least, len(_wrong(submission, context))):
        problems.append(f"{WORSE} {len(set(named))} cases are analysed, and {least} are needed")
    for row in rows:
        gaps = _gaps(row, submission, context, row.value.id in truth)
        problems += [f"{row.where} {row.value.id}: {text}" for text in gaps]
    return [verdict(
        "tune.regressions", not problems, f"{len(truth)} cases got worse; {len(rows)} are analysed.",
        problem=f"{place(problems)}: {reason(problems)}.", expected=f"all that got worse, at least {least} analysed",
        actual=f"{len(problems)} problems", where=place(problems), problems=problems[:6],
        fix="List each case that was right and is wrong, with its severity by the rule, a cause and a fix.",
    )]  # fmt: skip


def _worse(submission: Submission, context: Context) -> Iterator[tuple[str, bool]]:
    cases = sums.cases_of(context)
    for which in sums.SETS:
        before, after = (sums.truth(sums.rows_of(submission, name), cases, which) for name in (BASELINE, TUNED))
        yield from ((name, True) for name, was in before.items() if was and not after.get(name, True))


def _wrong(submission: Submission, context: Context) -> list[str]:
    cases = sums.cases_of(context)
    rows = sums.rows_of(submission, TUNED)
    return [name for which in sums.SETS for name, fine in sums.truth(rows, cases, which).items() if not fine]


def _gaps(row: Row[Any], submission: Submission, context: Context, worse: bool) -> Iterator[str]:
    entry, case = row.value, sums.cases_of(context).get(row.value.id)
    before, after = (_answers(submission, name).get(entry.id) for name in (BASELINE, TUNED))
    if case is None or before is None or after is None:
        yield "no case of both files"
        return
    if sums.right(case, after.answer):
        yield "it is right after tuning, so it is no failure"
    if (entry.kind == "regression") != worse:
        yield f"it is called a {entry.kind}, and before tuning it was {_word(sums.right(case, before.answer))}"
    if (entry.expected, entry.before, entry.after) != (case["reply"], before.answer, after.answer):
        yield "its texts are not those of the case and of the rows"
    if entry.severity != (true := sums.severity(case, after.answer)):
        yield f"its severity is {true} by the rule, not {entry.severity}"
    if min(len(entry.cause.split()), len(entry.fix.split())) < LEAST_WORDS:
        yield f"cause and fix need at least {LEAST_WORDS} words each"


def _answers(submission: Submission, name: str) -> Mapping[str, EvalRow]:
    return {row.value.id: row.value for row in sums.rows_of(submission, name)}


def check_served(submission: Submission, context: Context) -> list[Finding]:
    """tune.served: the exported file answered the locked cases, and equal means equal."""
    plan, results, rows = sums.plan_of(submission), sums.results_of(submission), sums.served_of(submission)
    tuned, problems = _answers(submission, TUNED), []
    if sorted(row.value.id for row in rows) != sorted(plan.cases.locked):
        problems.append(f"{SERVED} the server was not asked each locked case once")
    for row in rows:
        if row.value.equal != (row.value.id in tuned and row.value.answer == tuned[row.value.id].answer):
            called = "equal" if row.value.equal else "different"
            problems.append(f"{row.where} {row.value.id} is called {called} and is not")
    same = sum(row.value.equal for row in rows)
    if (results.served.asked, results.served.equal) != (len(rows), same):
        problems.append(f"{RESULTS} {results.served.equal} of {results.served.asked} are claimed, the rows give {same}")
    if results.gguf.bytes < GGUF_BYTES:
        problems.append(f"{RESULTS} the exported file has {results.gguf.bytes} bytes, too few for this model")
    return [verdict(
        "tune.served", not problems, f"{same} of {len(rows)} served answers equal the tested ones.",
        problem=f"{place(problems)}: {reason(problems)}.", expected="each locked case asked through the server",
        actual=f"{len(problems)} problems", where=place(problems), problems=problems[:6],
        fix="Merge, export, serve, ask every locked case, and compare the texts in code.",
    )]  # fmt: skip


def check_rollback(submission: Submission, context: Context) -> list[Finding]:
    """tune.rollback: without the adapter every answer is the baseline's again, and the note says how and who."""
    before, again = (_answers(submission, name) for name in (BASELINE, ROLLBACK))
    claim = sums.results_of(submission).rollback
    other = [name for name, row in before.items() if again.get(name) != row]
    problems = [f"{ROLLBACK} {len(other)} answers are not those of the base, {other[0]} for one"] if other else []
    if (claim.asked, claim.equal) != (len(before), len(before) - len(other)):
        same = len(before) - len(other)
        problems.append(f"{RESULTS} {claim.equal} of {claim.asked} are claimed, the rows give {same}")
    problems += [f"{NOTE} {text}" for text in missing_sections(submission.text(NOTE), PARTS, 6)]
    return [verdict(
        "tune.rollback", not problems, f"All {len(before)} answers of the base came back, token for token.",
        problem=f"{place(problems)}: {reason(problems)}.", expected="the baseline's answers, and a note that says how",
        actual=f"{len(problems)} problems", where=place(problems), problems=problems[:6],
        fix="Take the adapter off, ask every case again, and write down trigger, steps, proof and owner.",
    )]  # fmt: skip


def check_gate(submission: Submission, context: Context) -> list[Finding]:
    """tune.gate_follows: the decision follows from the plan's thresholds and what the rows give."""
    plan, results = sums.plan_of(submission), sums.results_of(submission)
    failed = sums.unmet(plan.thresholds, sums.measured(submission, context))
    due, problems = "hold" if failed else "pilot", []
    if results.failed != failed:
        claimed = ", ".join(results.failed) or "none"
        problems.append(f"not met are {', '.join(failed) or 'none'}, and claimed is {claimed}")
    if results.decision != due:
        problems.append(f"the decision is {results.decision}, and the thresholds say {due}")
    least = context.threshold("tune.gate_follows")
    if plan.thresholds.least_gain < least:
        problems.append(f"least_gain is {plan.thresholds.least_gain:g}: a gate that lets a loss through is none")
    return [verdict(
        "tune.gate_follows", not problems, f"The decision is {due}, as the thresholds of the plan say.",
        problem=f"{first(problems)}.", expected="the decision that thresholds and rows give",
        actual=f"{len(problems)} contradictions", where=RESULTS if problems else "", problems=problems,
        fix="Decide in code from the plan's thresholds; what is not met, or not measured, means hold.",
    )]  # fmt: skip
