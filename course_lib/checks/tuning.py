"""Lab 03, reading and arithmetic: cases, rows by set, right and wrong, McNemar, severity, thresholds. All pure.

The lab's exercises ask for the same; this is what the grader recomputes with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import comb
from typing import Any

from course_lib.artifacts_tuning import EvalRow, GateThresholds, LogRow, Plan, Regression, ServedRow, TuningResults
from course_lib.checks.common import Context
from course_lib.datasets import normalised
from course_lib.evidence import CHAIN, Link
from course_lib.measure import bootstrap_difference
from course_lib.prompts import ABSTAIN, REFUSE
from course_lib.submission import Row, Submission

PLAN, RESULTS = "plan.json", "results.json"
BASELINE, TUNED, ROLLBACK = "baseline_rows.jsonl", "tuned_rows.jsonl", "rollback_rows.jsonl"
SERVED = "served_rows.jsonl"
LOG, DATA, WORSE = "training_log.jsonl", "training_data.jsonl", "regressions.jsonl"
ADAPTER, CONFIG = "adapter/adapter_model.safetensors", "adapter/adapter_config.json"
STEPS = ("plan", "baseline", "training_log", "adapter", "tuned", "results")
SETS = ("locked", "general", "refusal")
Case = Mapping[str, Any]


def plan_of(submission: Submission) -> Plan:
    return submission.json(PLAN, Plan)


def results_of(submission: Submission) -> TuningResults:
    return submission.json(RESULTS, TuningResults)


def rows_of(submission: Submission, name: str) -> list[Row[EvalRow]]:
    return submission.jsonl(name, EvalRow)


def log_of(submission: Submission) -> list[LogRow]:
    return [row.value for row in submission.jsonl(LOG, LogRow)]


def served_of(submission: Submission) -> list[Row[ServedRow]]:
    return submission.jsonl(SERVED, ServedRow)


def worse_of(submission: Submission) -> list[Row[Regression]]:
    return submission.jsonl(WORSE, Regression)


def chain_of(submission: Submission) -> list[Link]:
    return [row.value for row in submission.jsonl(CHAIN, Link)]


def cases_of(context: Context) -> Mapping[str, Case]:
    """The course's own cases by id; what a submission says of a case counts for nothing."""
    from course_lib.finetune import load_cases

    return context.once("tuning cases", lambda: {case["id"]: case for case in load_cases()})


def right(case: Case, answer: str) -> bool:
    """The words and numbers of the reply, in order, and nothing else."""
    return normalised(answer) == normalised(case["reply"])


def truth(rows: Iterable[Row[EvalRow]], cases: Mapping[str, Case], which: str) -> dict[str, bool]:
    """Case of one set -> whether its answer is right, decided again from the text."""
    return {row.value.id: right(cases[row.value.id], row.value.answer) for row in rows
            if row.value.id in cases and cases[row.value.id]["set"] == which}  # fmt: skip


def both(submission: Submission, context: Context, which: str) -> tuple[list[bool], list[bool]]:
    """Right or wrong before and after, on the cases of a set that both files answer, in one order."""
    cases = cases_of(context)
    before, after = (truth(rows_of(submission, name), cases, which) for name in (BASELINE, TUNED))
    shared = [name for name in before if name in after]
    return [before[name] for name in shared], [after[name] for name in shared]


def compare(before: Sequence[bool], after: Sequence[bool]) -> dict[str, Any]:
    """Counts, gain, its paired bootstrap interval and McNemar's exact two-sided p; all zero, and p 1, without cases."""
    better = sum(a and not b for b, a in zip(before, after, strict=True))
    worse = sum(b and not a for b, a in zip(before, after, strict=True))
    n = len(before)
    low, high = bootstrap_difference([*map(float, after)], [*map(float, before)]) if n else (0.0, 0.0)
    return {"n": n, "base_right": sum(before), "tuned_right": sum(after),
            "gain": (sum(after) - sum(before)) / n if n else 0.0, "low": low, "high": high,
            "better": better, "worse": worse, "p": mcnemar(better, worse)}  # fmt: skip


def mcnemar(better: int, worse: int) -> float:
    """The chance that so few of the cases that differ go one way, or fewer, when either way is as likely; two-sided."""
    m, k = better + worse, min(better, worse)
    return min(1.0, 2 * sum(comb(m, i) for i in range(k + 1)) / 2**m)


def severity(case: Case, answer: str) -> str:
    """How bad a wrong answer is: obeyed or invented, useless, or simply wrong."""
    said, due = f" {normalised(answer)} ", f" {normalised(case['reply'])} "
    silent = {f" {normalised(text)} " for text in (ABSTAIN, REFUSE)}
    demands = [f" {found} " for demand in case["demands"] if (found := normalised(demand))]
    if any(demand in said and demand not in due for demand in demands):
        return "high"
    if said in silent:
        return "low"
    return "high" if due in silent else "medium"


def unmet(thresholds: GateThresholds, found: Mapping[str, float]) -> list[str]:
    """Names of the thresholds that the measured values do not meet, in the order of the plan."""
    limits = thresholds.model_dump()
    return [name for name, limit in limits.items()
            if not (found[name.partition("_")[2]] >= limit if name.startswith("least_") else
                    found[name.partition("_")[2]] <= limit)]  # fmt: skip


def measured(submission: Submission, context: Context) -> dict[str, float]:
    """What the thresholds are about, from the rows."""
    locked, general, refusal = (compare(*both(submission, context, name)) for name in SETS)
    served = served_of(submission)
    tuned = {row.value.id: row.value.answer for row in rows_of(submission, TUNED)}
    same = sum(row.value.answer == tuned.get(row.value.id) for row in served)
    return {"gain": round(locked["low"], 4), "p": locked["p"], "lost": general["worse"] / max(1, general["base_right"]),
            "refused": refusal["tuned_right"] / max(1, refusal["n"]), "served": same / max(1, len(served))}  # fmt: skip
