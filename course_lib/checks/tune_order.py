"""Lab 03, what came first: thresholds before results, the baseline before training, the same cases, and clean rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from course_lib.artifacts import Metrics
from course_lib.artifacts_dataset import SftRow
from course_lib.checks import packet
from course_lib.checks import tuning as sums
from course_lib.checks.common import Context, first, listed, place, reason, unscored, verdict
from course_lib.checks.tuning import BASELINE, DATA, PLAN, ROLLBACK, SETS, STEPS, TUNED
from course_lib.datasets import NEAR, digest, grams, jaccard
from course_lib.evidence import CHAIN, breaks, sha256
from course_lib.submission import Row, Submission
from course_lib.types import Finding

LEAST_SPAN = 0.3  # of the run's seconds lie between plan and results: training and asking are most of it


def broken(submission: Submission) -> list[tuple[str, str]]:
    """(step, sentence) of each place where the chain does not hold."""
    return list(breaks(sums.chain_of(submission), submission.raw(CHAIN), submission.files, STEPS))


def check_plan(submission: Submission, context: Context) -> list[Finding]:
    """tune.plan_first: the thresholds were sealed before any result, and are those of the notebook's parameters."""
    problems = [text for step, text in broken(submission) if step == "plan"] + list(_bent(submission))
    return [verdict(
        "tune.plan_first", not problems, "Thresholds and settings were sealed before any result.",
        problem=f"{first(problems)}.", expected="plan.json as it was sealed, first of all",
        actual=f"{len(problems)} contradictions", where=PLAN if problems else "", problems=problems[:6],
        fix="Fix the thresholds in the parameters cell, run from the top, and change nothing afterwards.",
    )]  # fmt: skip


def _bent(submission: Submission) -> Iterator[str]:
    plan, stated = sums.plan_of(submission), packet.parameters(submission).get("thresholds")
    if stated != plan.thresholds.model_dump():
        yield "plan.json has other thresholds than the parameters cell of the notebook"
    if sums.results_of(submission).plan_sha256 != sha256(submission.raw(PLAN)):
        yield "results.json rests on another plan.json than the one that was handed in"
    links, seconds = sums.chain_of(submission), submission.json("metrics.json", Metrics).seconds
    span = (links[-1].moment - links[0].moment).total_seconds() if links else 0.0
    if span < LEAST_SPAN * seconds:
        yield f"plan and results are {span:.1f} s apart, and the run took {seconds:g} s: the chain was written anew"


def check_baseline(submission: Submission, context: Context) -> list[Finding]:
    """tune.baseline_first: baseline, log, adapter, answers and results were sealed in this order and not changed."""
    problems = [text for step, text in broken(submission) if step != "plan"]
    return [verdict(
        "tune.baseline_first", not problems, "The baseline was sealed before training, and nothing was changed since.",
        problem=f"{first(problems)}.", expected=f"sealed in this order: {', '.join(STEPS)}",
        actual=f"{len(problems)} contradictions", where=CHAIN if problems else "", problems=problems[:6],
        fix="Ask the base model first, run the lab once from the top, and hand in what that run wrote.",
    )]  # fmt: skip


def check_cases(submission: Submission, context: Context) -> list[Finding]:
    """tune.same_cases: plan, baseline, tuned and rollback rows are about the same cases, which are the course's."""
    plan, known = sums.plan_of(submission), sums.cases_of(context)
    own = context.once("tuning cases sha256", lambda: _digest_of("cases.jsonl"))
    if plan.cases.sha256 != own:
        what = "the plan names another file of cases than the grader has"
        fix = "Update the course and run the lab again."
        return [unscored("tune.same_cases", f"Could not score: {what}.", PLAN, fix)]
    problems = []
    least = int(context.threshold("tune.same_cases"))
    if len(plan.cases.locked) < least:
        problems.append(f"{PLAN} the plan names {len(plan.cases.locked)} locked cases, and {least} are needed")
    for which in SETS:
        wanted = getattr(plan.cases, which)
        wrong = [name for name in wanted if name not in known or known[name]["set"] != which]
        if wrong or len(set(wanted)) < len(wanted):
            problems.append(f"{PLAN} {which}: {listed(wrong) or 'a case'} is no case of this set, or stands twice")
        for name in (BASELINE, TUNED, ROLLBACK):
            asked = [row.value.id for row in sums.rows_of(submission, name) if row.value.set == which]
            problems += [f"{name} {which}: {text}" for text in _differ(wanted, asked)]
    return [verdict(
        "tune.same_cases", not problems, f"Base and tuned model answered the same {len(plan.cases.locked)} cases.",
        problem=f"{place(problems)}: {reason(problems)}.", expected="the cases of the plan, once each, in every file",
        actual=f"{len(problems)} differences", where=place(problems), problems=problems[:6],
        fix="Ask both models every case of the plan, and leave none out.",
    )]  # fmt: skip


def _digest_of(name: str) -> str:
    from course_lib.finetune import data_folder

    return sha256((data_folder() / name).read_bytes())


def _differ(wanted: list[str], asked: list[str]) -> Iterator[str]:
    missing, more = Counter(wanted) - Counter(asked), Counter(asked) - Counter(wanted)
    if missing:
        yield f"no answer to {listed(missing, 3)}"
    if more:
        yield f"an answer too many to {listed(more, 3)}"


def check_data(submission: Submission, context: Context) -> list[Finding]:
    """tune.data_clean: no row repeats a locked case or another row, and there are as many as planned and reported."""
    rows = submission.jsonl(DATA, SftRow)
    problems = [*_leaks(rows, context), *_counts(rows, submission)]
    return [verdict(
        "tune.data_clean", not problems, f"{len(rows)} training rows, none of them a locked case or there twice.",
        problem=f"{place(problems)}: {reason(problems)}.", expected="rows that no case tests",
        actual=f"{len(problems)} problems", where=place(problems), problems=problems[:6],
        fix="Compare the words of each user turn with the cases and the rows before it; drop what is the same.",
    )]  # fmt: skip


def _leaks(rows: list[Row[SftRow]], context: Context) -> Iterator[str]:
    locked, pool = context.once("locked prompts", _locked), context.once("pool prompts", _pool)
    seen: dict[str, str] = {}
    for row in rows:
        mark = digest(row.value.prompt)
        if mark in locked:
            yield f"{row.where} its question and sources are those of the locked case {locked[mark]}"
        elif mark in seen:
            yield f"{row.where} it repeats {seen[mark]}"
        elif mark not in pool and (near := _near(row.value.prompt, context)):
            yield f"{row.where} it is nearly the locked case {near}"
        seen.setdefault(mark, row.where)


def _near(text: str, context: Context) -> str:
    """The case whose word sequences a text nearly shares; rows of the course's own pool are known to be clean."""
    cases = [case for case in sums.cases_of(context).values() if "messages" in case]
    known = context.once("locked grams", lambda: {case["id"]: grams(case["messages"][1]["content"]) for case in cases})
    mine = grams(text)
    return next((name for name, theirs in known.items() if jaccard(mine, theirs) >= NEAR), "")


def _locked() -> dict[str, str]:
    """Digest of the user turn of every locked item of the course's model -> its id."""
    from course_lib.finetune import load_cases
    from course_lib.prompts import answer_prompt
    from course_lm.eval import load_items

    found = {digest(case["messages"][1]["content"]): case["id"] for case in load_cases() if "messages" in case}
    for name in ("locked", "corpus"):
        found |= {digest(answer_prompt(row["question"], row["sources"])): row["id"] for row in load_items(name)}
    return found | {digest(row["messages"][1]["content"]): row["id"] for row in load_items("tasks")}


def _pool() -> frozenset[str]:
    from course_lib.finetune import load_pool

    return frozenset(digest(row["messages"][1]["content"]) for row in load_pool())


def _counts(rows: list[Row[SftRow]], submission: Submission) -> Iterator[str]:
    plan, claimed = sums.plan_of(submission), sums.results_of(submission).training_rows
    if claimed != len(rows):
        yield f"{sums.RESULTS} {claimed} training rows are claimed, and {len(rows)} were handed in"
    if len(rows) > plan.training.rows:
        yield f"{DATA} {len(rows)} rows were trained on, and {plan.training.rows} were planned"
