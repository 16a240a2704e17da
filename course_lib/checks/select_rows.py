"""Lab 01, what was measured: latencies and right answers are derived again from the rows; nothing else counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from course_lib.artifacts_selection import Latency, LatencyRow, Selection
from course_lib.checks import selection as sums
from course_lib.checks.common import Context, first, flat, place, reason, verdict
from course_lib.checks.select_options import NOTE, OPTIONS, load
from course_lib.checks.select_prose import lines_about
from course_lib.measure import wilson
from course_lib.submission import Row, Submission
from course_lib.types import Finding

ROWS = "latency_rows.jsonl"
NUMBERS = {"p50_s": 6e-4, "p95_s": 6e-4, "ttft_p50_s": 6e-4, "tokens_per_s": 0.06}
NEEDED_WORDS = 4
DISTINCT = 0.2  # of the seconds: timings of real requests hardly ever repeat


def load_rows(submission: Submission) -> list[Row[LatencyRow]]:
    return submission.jsonl(ROWS, LatencyRow)


def of(rows: Sequence[Row[LatencyRow]], option: str) -> list[LatencyRow]:
    return [row.value for row in rows if row.value.option == option]


def good(rows: Sequence[LatencyRow]) -> list[LatencyRow]:
    """The requests that count: after the warm-up, and answered."""
    return [row for row in rows if row.ok and not row.warmup]


def check_rows(submission: Submission, context: Context) -> list[Finding]:
    """select.latency_rows: enough plausible rows behind each option that claims to be measured."""
    selection, rows = load(submission), load_rows(submission)
    least = int(context.threshold("select.latency_rows"))
    problems = [*_implausible(rows, selection, context), *_too_few(rows, selection, least)]
    return [verdict(
        "select.latency_rows", not problems,
        f"{len(rows)} rows of {len({row.value.option for row in rows})} options, at least {least} counted for each.",
        problem=f"{reason(problems)}.", expected=f"at least {least} different questions for each measured option",
        actual=f"{len(problems)} problems", where=place(problems), problems=problems[:6],
        fix="Send each option the drawn questions, write one row per request as it came, and edit none.",
    )]  # fmt: skip


def _implausible(rows: Sequence[Row[LatencyRow]], selection: Selection, context: Context) -> Iterator[str]:
    ids = {option.id for option in selection.options}
    asked = context.once("dev questions", lambda: {q.id for q in context.questions if q.split == "dev"})
    for row in rows:
        value = row.value
        if value.option not in ids:
            yield f"{row.where} is about {value.option}, which is no option of {OPTIONS}"
        elif value.question not in asked:
            yield f"{row.where} asks {value.question}, which is no question of the course"
        elif value.ok and not 0 < value.ttft_s <= value.seconds:
            yield f"{row.where} has its first text after {value.ttft_s} s, and its end after {value.seconds} s"
        elif value.ok and not (value.tokens_in and value.tokens_out and value.answer.strip()):
            yield f"{row.where} claims success without tokens or without an answer"


def _too_few(rows: Sequence[Row[LatencyRow]], selection: Selection, least: int) -> Iterator[str]:
    measured = [name for name, latency in selection.latency.items() if latency.measured]
    if not measured:
        yield f"{OPTIONS} no option was measured"
    for name in measured:
        counted = good(of(rows, name))
        questions = Counter(row.question for row in counted)
        if len(questions) < least:
            yield f"{ROWS} {name} has {len(questions)} different questions that count, and {least} are needed"
        elif max(questions.values()) > 1:
            yield f"{ROWS} {name} counts one question more than once"
        elif len({row.seconds for row in counted}) < DISTINCT * len(counted):
            yield f"{ROWS} {name} has the same seconds again and again, which clocks do not give"


def check_latency(submission: Submission, context: Context) -> list[Finding]:
    """select.latency_follows and select.unmeasured_marked."""
    selection, rows = load(submission), load_rows(submission)
    wrong, bare = [], []
    for option in selection.options:
        claim, mine = selection.latency.get(option.id), of(rows, option.id)
        if claim is None:
            bare.append(f"{option.id} has no entry under latency")
        elif claim.measured:
            wrong += [f"{option.id}: {text}" for text in _differences(claim, mine)]
            bare += [] if good(mine) else [f"{option.id} claims a measurement without a row"]
        else:
            bare += [f"{option.id} {text}" for text in _unmarked(submission, option.id, claim, mine)]
    follows = verdict(
        "select.latency_follows", not wrong, "Every percentile and rate follows from the rows.",
        problem=f"{len(wrong)} numbers do not follow from {ROWS}. First: {first(wrong)}.",
        expected="nearest rank over the rows after the warm-up", actual=f"{len(wrong)} others", where=OPTIONS,
        fix="Compute them from the rows in code, with the percentile by nearest rank.", wrong=wrong[:6],
    )  # fmt: skip
    marked = verdict(
        "select.unmeasured_marked", not bare, "What was not measured says so, and what a measurement would take.",
        problem=f"{first(bare)}.", expected="numbers only with rows; else marked as not measured",
        actual=f"{len(bare)} problems", where=OPTIONS, bare=bare[:6],
        fix='Write {"measured": false, "needed": "..."} and "not measured" in the note; a guess is no measurement.',
    )  # fmt: skip
    return [follows, marked]


def _differences(claim: Latency, rows: list[LatencyRow]) -> Iterator[str]:
    if not good(rows):
        yield "no row stands behind its numbers"
        return
    truth = sums.summary(rows)
    for name in ("n", "failed"):
        if getattr(claim, name) != truth[name]:
            yield f"{name} is claimed as {getattr(claim, name)}, the rows give {truth[name]}"
    for name, near in NUMBERS.items():
        value = getattr(claim, name)
        if value is None or not math.isclose(value, truth[name], abs_tol=near):
            yield f"{name} is claimed as {value}, the rows give {truth[name]:.4f}"


def _unmarked(submission: Submission, name: str, claim: Latency, rows: list[LatencyRow]) -> Iterator[str]:
    numbers = [field for field in ("n", "failed", *NUMBERS) if getattr(claim, field) is not None]
    if numbers:
        yield f"is not measured and still has {numbers[0]}"
    if good(rows):
        yield f"has rows in {ROWS} and is marked as not measured"
    if len(claim.needed.split()) < NEEDED_WORDS:
        yield "does not say what a measurement would take"
    if submission.has(NOTE) and "not measured" not in lines_about(submission.text(NOTE), name).lower():
        yield f"is not marked as not measured in {NOTE}"


def check_answers(submission: Submission, context: Context) -> list[Finding]:
    """select.answers_follow: right answers are counted again, and production is blocked unless they suffice."""
    selection, rows = load(submission), load_rows(submission)
    spans = context.once("dev answers", lambda: {q.id: q.answers for q in context.questions if q.split == "dev"})
    wrong, enough = [], False
    for name in {row.value.option for row in rows}:
        counted = good(of(rows, name))
        right = sum(any(flat(span) in flat(row.answer) for span in spans.get(row.question, ())) for row in counted)
        claim = selection.answers.get(name)
        if claim is None or (claim.n, claim.right) != (len(counted), right):
            said = "nothing" if claim is None else f"{claim.right} of {claim.n}"
            wrong.append(f"{name} claims {said} right, the rows give {right} of {len(counted)}")
        if name == selection.decision.chosen:
            enough = wilson(right, len(counted))[0] >= selection.targets.right_share
    wrong += [f"{name} claims answers without a row" for name in selection.answers if not of(rows, name)]
    said, true = selection.decision.production, "allowed" if enough else "blocked"
    wrong += [] if said == true else [f"production is {said}, and the answers of the chosen option say {true}"]
    return [verdict(
        "select.answers_follow", not wrong, f"Right answers follow from the rows; production is {true}.",
        problem=f"{first(wrong)}.", expected="counts from the rows; production only above the stated share",
        actual=f"{len(wrong)} problems", where=OPTIONS, wrong=sorted(wrong)[:6],
        fix="Count answers that hold an expected span; allow production when the interval's lower end suffices.",
    )]  # fmt: skip
