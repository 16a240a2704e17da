"""Lab 02, the inspection and the counts: the sample judged again, rejections that are real, numbers that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydantic import ValidationError

from course_lib.artifacts_dataset import DATASET, STEPS, DatasetMetrics, Inspection, RemovedRow, SftRow
from course_lib.checks.common import Context, percent, place, reason, verdict
from course_lib.checks.data_rows import faults, load_rows
from course_lib.scans import PERSONAL
from course_lib.submission import Row, Submission
from course_lib.types import Finding

QUALITY, LOG = "quality_rows.jsonl", "cleaning_log.jsonl"
JUDGED = 4  # words of a reason that no rule can confirm
_MASKS = tuple(f"[{kind.upper()}]" for kind in (*PERSONAL, "secret"))


def load_quality(submission: Submission) -> list[Row[Inspection]]:
    return submission.jsonl(QUALITY, Inspection)


def load_log(submission: Submission) -> list[Row[RemovedRow]]:
    return submission.jsonl(LOG, RemovedRow)


def load_metrics(submission: Submission) -> DatasetMetrics:
    return submission.json("metrics.json", DatasetMetrics)


def check_sample(submission: Submission, context: Context) -> list[Finding]:
    """data.sample_size and data.sample_good: enough rows of the dataset were looked at, and they are good."""
    kept = {row.value.id: row.value for row in load_rows(submission)}
    looked = [row for row in load_quality(submission) if row.value.kept]
    strangers = [f"{row.where} {row.value.id} is not, or not so, in {DATASET}" for row in looked
                 if kept.get(row.value.id) is None or kept[row.value.id] != _row(row.value)]  # fmt: skip
    different, least = {row.value.id for row in looked} & set(kept), int(context.threshold("data.sample_size"))
    strangers += [] if len(different) >= least else [f"{QUALITY} {len(different)} different rows were looked at"]
    size = verdict(
        "data.sample_size", not strangers, f"{len(different)} rows of the dataset were looked at.",
        problem=f"{reason(strangers)}.", expected=f"at least {least} different rows, as they stand in the dataset",
        actual=f"{len(different)} rows, {len(strangers)} problems", where=place(strangers), problems=strangers[:6],
        fix="Draw the sample from the finished dataset and keep each row as it is.",
    )  # fmt: skip
    bad = [f"{row.where} {row.value.id}: {_fault(row.value, kept, context)}" for row in looked
           if _fault(row.value, kept, context)]  # fmt: skip
    share, good = context.threshold("data.sample_good"), len(looked) - len(bad)
    return [size, verdict(
        "data.sample_good", bool(looked) and good >= share * len(looked),
        f"{percent(good, len(looked))} of the inspected rows are good, looked at again.",
        problem=f"{percent(good, len(looked))} of the inspected rows are good. First: {reason(bad)}.",
        expected=f"at least {share:.0%}", actual=percent(good, len(looked)), where=place(bad) or QUALITY, bad=bad[:6],
        fix="Repair the step that lets such rows through, then draw another sample.",
    )]  # fmt: skip


def _row(inspection: Inspection) -> SftRow | None:
    try:
        return SftRow.model_validate(inspection.row)
    except ValidationError:
        return None


def _fault(inspection: Inspection, kept: dict[str, SftRow], context: Context) -> str:
    """What is wrong with an inspected row: what the learner saw, or what our rules see."""
    row = kept.get(inspection.id)
    if not inspection.good:
        return "the inspection itself says that it is not good"
    return next(iter(faults(row, context)), "") if row else "it is not in the dataset"


def check_rejections(submission: Submission, context: Context) -> list[Finding]:
    """data.rejections: at least one rejected row is shown, it is out of the dataset, and its reason is a real one."""
    kept = {row.value.id for row in load_rows(submission)}
    log = {row.value.id: row.value for row in load_log(submission)}
    shown = [row for row in load_quality(submission) if not row.value.kept]
    wrong = [f"{row.where} {row.value.id}: {problem}" for row in shown
             if (problem := _unreal(row.value, kept, log, context))]  # fmt: skip
    least = int(context.threshold("data.rejections"))
    enough = len({row.value.id for row in shown}) >= least
    problem = f"Of {len(shown)} rejected rows {len(wrong)} were not: {reason(wrong)}." if wrong else (
        "No rejected row is shown.")  # fmt: skip
    return [verdict(
        "data.rejections", enough and not wrong, f"{len(shown)} rejected rows are shown, each for a real reason.",
        problem=problem, expected=f"at least {least}, each with its reason", where=place(wrong) or QUALITY,
        actual=f"{len(shown)} shown, {len(wrong)} without", wrong=wrong[:6],
        fix="Show rows that cleaning really removed, as they were, with personal data masked.",
    )]  # fmt: skip


def _unreal(row: Inspection, kept: set[str], log: dict[str, RemovedRow], context: Context) -> str:
    """Why a rejection is not one: it is in the data, not in the log, without a reason, or nothing is wrong with it."""
    entry = log.get(row.id)
    if row.id in kept:
        return "it stands in the dataset"
    if entry is None or row.good or not row.reasons:
        return "the log does not know it" if entry is None else "it has no reason"
    parsed = _row(row)
    if entry.step == "form" and parsed is not None and not faults(parsed, context):
        return "nothing is wrong with its form, reply or document"
    if entry.step == "privacy" and not any(mask in str(row.row) for mask in _MASKS):
        return "nothing in it was personal or secret"
    if entry.step == "inspection" and len(" ".join(row.reasons).split()) < JUDGED:
        return "its reason is no sentence"
    return ""


def check_counts(submission: Submission, context: Context) -> list[Finding]:
    """data.counts_follow: metrics.json follows from the dataset, the log and the inspection."""
    wrong = [f"metrics.json {text}" for text in _differences(submission)]
    return [verdict(
        "data.counts_follow", not wrong, "Every count follows from the rows, the log and the inspection.",
        problem=f"{len(wrong)} counts do not follow. First: {reason(wrong)}.", expected="counts of the files",
        actual=f"{len(wrong)} others", where=place(wrong), wrong=wrong[:8],
        fix="Log every candidate that is removed, once, and count in code.",
    )]  # fmt: skip


def _differences(submission: Submission) -> Iterator[str]:
    claim, rows, log = load_metrics(submission), load_rows(submission), load_log(submission)
    quality = load_quality(submission)
    ids = Counter([row.value.id for row in rows] + [row.value.id for row in log])
    for name in (name for name, n in ids.items() if n > 1):
        yield f"{name} is counted twice: as kept and removed, or as removed by two steps"
    for row in (row for row in log if row.value.other and row.value.other not in ids):
        yield f"{row.value.id} repeats {row.value.other}, which nobody knows"
    drafted = [row.value.id for row in rows if row.value.origin == "model"]
    removed = Counter(row.value.step for row in log)
    looked = [row.value for row in quality if row.value.kept]
    truth = {"candidates": len(rows) + len(log), "kept": len(rows), "drafted_kept": len(drafted),
             "drafted": len(drafted) + sum(row.value.origin == "model" for row in log), "inspected": len(looked),
             "inspected_good": sum(row.good for row in looked), "rejected": len(quality) - len(looked)}  # fmt: skip
    for name, value in truth.items():
        if getattr(claim, name) != value:
            yield f"{name} is claimed as {getattr(claim, name)}, the files give {value}"
    for step in STEPS:
        if claim.removed.get(step, 0) != removed[step]:
            yield f"removed by {step!r} is claimed as {claim.removed.get(step, 0)}, the log has {removed[step]}"
