"""Lab 02, the rows: how many, each line valid, each reply from its sources, none twice, none without a right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydantic import ValidationError

from course_lib import datasets as ds
from course_lib.artifacts_dataset import DATASET, SftRow, SourceRow
from course_lib.checks.common import Context, percent, place, reason, verdict
from course_lib.strictjson import BadJson
from course_lib.submission import Malformed, Row, Submission
from course_lib.types import Finding

MOST = 50
SOURCES = "sources.jsonl"
TENANT = "meridian"


def load_rows(submission: Submission) -> list[Row[SftRow]]:
    return submission.jsonl(DATASET, SftRow)


def check_rows(submission: Submission, context: Context) -> list[Finding]:
    """data.rows_valid and data.row_count: line by line, so that the report names every line that is wrong."""
    lines = submission.raw(DATASET).removesuffix(b"\n").split(b"\n")
    if len(lines) > submission.limits.rows:
        raise Malformed(f"{DATASET} has {len(lines)} lines.", where=DATASET, fix=f"Hand in at most {MOST} rows.")
    wrong, names = [], Counter[str]()
    for number, line in enumerate(lines, 1):
        found = list(_line_problems(submission, line, names))
        wrong += [f"{DATASET}:{number} {problem}" for problem in found[:1]]
    least = int(context.threshold("data.row_count"))
    valid = verdict(
        "data.rows_valid", not wrong, f"All {len(lines)} lines are valid rows in the form of the course's prompts.",
        problem=f"{len(wrong)} of {len(lines)} lines are no valid row. First: {reason(wrong)}.",
        expected="every line valid", actual=f"{len(wrong)} lines are not", where=place(wrong), wrong=wrong[:8],
        fix="Build rows with make_row, and keep what problems() returns nothing for.",
    )  # fmt: skip
    count = verdict(
        "data.row_count", least <= len(lines) <= MOST, f"{len(lines)} rows.",
        problem=f"The dataset has {len(lines)} rows.", expected=f"{least} to {MOST} rows", actual=str(len(lines)),
        where=DATASET, fix="Draw more candidates, or fewer; do not fill up with copies.",
    )  # fmt: skip
    return [count, valid]


def _line_problems(submission: Submission, line: bytes, names: Counter[str]) -> Iterator[str]:
    try:
        row = SftRow.model_validate(submission.parsed(line))
    except BadJson as error:
        yield f"is no JSON: {error.reason}"
        return
    except ValidationError as error:
        head = error.errors(include_url=False, include_input=False)[0]
        yield f"field {'.'.join(map(str, head['loc'])) or 'row'}: {head['msg'].lower()}"
        return
    names[row.id] += 1
    if names[row.id] > 1:
        yield f"has the id {row.id} of another row"
    yield from ds.form_problems(row)


def faults(row: SftRow, context: Context) -> list[str]:
    """What the course's own rules find wrong with a row."""
    return ds.problems(row, context.corpus)


def check_replies(submission: Submission, context: Context) -> list[Finding]:
    """data.replies_hold: replies follow from the sources, and the sources from the documents."""
    rows, least = load_rows(submission), context.threshold("data.replies_hold")
    wrong = [f"{row.where} {row.value.id}: {found[0]}" for row in rows if (found := faults(row.value, context))]
    good = len(rows) - len(wrong)
    return [verdict(
        "data.replies_hold", good >= least * len(rows), f"{percent(good, len(rows))} of the replies hold.",
        problem=f"Only {percent(good, len(rows))} of the replies hold. First: {reason(wrong)}.",
        expected=f"at least {least:.0%} of all rows", actual=percent(good, len(rows)), where=place(wrong),
        wrong=wrong[:8], fix="Reject replies that are no quotation of their source, and sources that no document says.",
    )]  # fmt: skip


def check_tasks(submission: Submission, context: Context) -> list[Finding]:
    """data.tasks_mixed: enough tasks, an abstention among them, and no task alone fills the set."""
    counts = Counter(row.value.task for row in load_rows(submission))
    least, total = int(context.threshold("data.tasks_mixed")), sum(counts.values())
    problems = []
    if len(counts) < least:
        problems.append(f"there are {len(counts)} tasks: {', '.join(sorted(counts))}")
    if not counts["abstain"]:
        problems.append("no row shows when to abstain")
    if counts and max(counts.values()) > 0.85 * total:
        problems.append(f"{counts.most_common(1)[0][0]} fills {percent(counts.most_common(1)[0][1], total)}")
    shown = ", ".join(f"{task} {n}" for task, n in sorted(counts.items()))
    return [verdict(
        "data.tasks_mixed", not problems, f"{len(counts)} tasks, answers and abstentions among them.",
        problem=f"{problems[0] if problems else ''}.", expected=f"at least {least} tasks, abstain among them",
        actual=shown, where=DATASET,
        fix="A model that only sees answers learns that there always is one. Add abstentions and another task.",
    )]  # fmt: skip


def check_duplicates(submission: Submission, context: Context) -> list[Finding]:
    """data.duplicates: no row repeats another, word for word or nearly."""
    rows, near = load_rows(submission), context.threshold("data.duplicates")
    pairs = ds.near_pairs([ds.own_text(row.value) for row in rows], near)
    named = [f"{rows[j].where} {rows[j].value.id} repeats {rows[i].value.id}, similarity {s:.2f}" for i, j, s in pairs]
    return [verdict(
        "data.duplicates", not pairs, f"No two of {len(rows)} rows share {near:.0%} of their runs of words.",
        problem=f"{len(pairs)} pairs of rows repeat each other. First: {reason(named)}.", expected="no near-duplicate",
        actual=f"{len(pairs)} pairs", where=place(named), pairs=named[:8],
        fix="Keep the first row of each pair, and write the other into the cleaning log.",
    )]  # fmt: skip


def check_rights(submission: Submission, context: Context) -> list[Finding]:
    """data.rights: sources.jsonl judges every document as the rules do, and no row rests on one that is not allowed."""
    rows, listed = load_rows(submission), submission.jsonl(SOURCES, SourceRow)
    right = context.once(("no right", TENANT), lambda: _reasons(context))
    said = Counter(row.value.document for row in listed)
    wrong = [f"{row.where} {row.value.document}: stated {row.value.reason or 'allowed'!r}, it is {why or 'allowed'!r}"
             for row in listed if (why := right.get(row.value.document)) is not None
             and (row.value.allowed, row.value.reason) != (not why, why)]  # fmt: skip
    wrong += [f"{SOURCES} {name} is no document of the corpus, or stands twice" for name, n in said.items()
              if name not in right or n > 1]  # fmt: skip
    wrong += [f"{SOURCES} {name} was not judged" for name in right if name not in said]
    wrong += [f"{row.where} {row.value.id} rests on {row.value.document}: {right[row.value.document]}" for row in rows
              if row.value.document and right.get(row.value.document)]  # fmt: skip
    wrong += [f"{row.where} {row.value.id} names {row.value.license}, {row.value.rights}" for row in rows
              if (row.value.license, row.value.rights) != (ds.LICENCE, ds.RIGHTS)]  # fmt: skip
    return [verdict(
        "data.rights", not wrong, f"{len(right)} documents were judged, and every row rests on one that may be used.",
        problem=f"{len(wrong)} documents or rows without the right to train. First: {reason(wrong)}.",
        expected="every document judged, none used without a right", actual=f"{len(wrong)} problems",
        where=place(wrong), wrong=wrong[:8], fix="Decide for each document before a row is made of it.",
    )]  # fmt: skip


def _reasons(context: Context) -> dict[str, str]:
    hostile, corpus = {probe.doc for probe in context.hostile}, context.corpus
    return {d.key: ds.no_right(d, TENANT, corpus.as_of, hostile) for d in corpus.documents}

