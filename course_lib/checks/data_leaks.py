"""Lab 02, what must not be in the data: personal data, secrets, and cases of the course's locked tests."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from course_lib import leaks
from course_lib.artifacts_dataset import DATASET, SPLITS, SftRow
from course_lib.checks.common import KEPT_TEXTS, SHORT, Context, fail, ok, unscored, verdict
from course_lib.checks.data_rows import load_rows
from course_lib.checks.plain import plain_text
from course_lib.errors import CourseError
from course_lib.scans import personal, secrets
from course_lib.submission import Row, Submission
from course_lib.types import Finding

SPLIT_FILES = tuple(f"splits/{name}.jsonl" for name in SPLITS)
# The notebook is not scanned: its exercises bring the planted examples that a scan must find.
SCANNED = (DATASET, *SPLIT_FILES, "quality_rows.jsonl", "cleaning_log.jsonl", "sources.jsonl", "data-card.md",
           "quality-report.md", "README.md", "risk-notes.md", "cost-notes.md")  # fmt: skip
SHOWN = 12
COPIED = {"exact": "word for word", "normalised": "in other dress", "near": "nearly word for word"}


def check_privacy(submission: Submission, context: Context) -> list[Finding]:
    """data.no_pii and data.no_secrets, over every file of the packet but the notebook. Findings are not repeated."""
    load_rows(submission)
    people, keys = [], []
    for name in SCANNED:
        for number, line in enumerate(_lines(submission, name), 1):
            kinds = _kinds_short(line) if len(line) <= SHORT else _kinds(line)
            for found, kept in zip(kinds, (people, keys), strict=True):
                kept += [f"{name}:{number} {kind}" for kind in found]
    fix = "Remove the row, log only the kind of what was found, and mask it where a report shows it."
    return [
        verdict(rule, not found, f"The scan finds no {what} in {len(SCANNED)} files.",
                problem=f"The scan finds {what} in {len(found)} places: {', '.join(found[:4])}.", expected="none",
                actual=f"{len(found)} findings", where=found[0].split(" ")[0] if found else "", found=found[:SHOWN],
                fix=fix)
        for rule, what, found in (("data.no_pii", "personal data", people), ("data.no_secrets", "secrets", keys))
    ]  # fmt: skip


def _kinds(line: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Kinds of the personal data and of the secrets in a line."""
    return tuple(found.kind for found in personal(line)), tuple(found.kind for found in secrets(line))


_kinds_short = lru_cache(maxsize=KEPT_TEXTS)(_kinds)  # each row stands in the dataset, in its split and in the sample


def _lines(submission: Submission, name: str) -> Iterator[str]:
    if not submission.has(name):
        return
    if not name.endswith(".jsonl"):
        yield from plain_text(submission, name).split("\n")
        return
    for raw in submission.raw(name).split(b"\n"):  # strings as a reader sees them, one row at a time
        yield plain_text(Submission("line", {"line.jsonl": raw}), "line.jsonl")


def training_rows(submission: Submission) -> list[Row[SftRow]]:
    """The rows of the dataset and, where they differ from it, those of the split files."""
    rows = load_rows(submission)
    known = {row.value.model_dump_json() for row in rows}
    for name in SPLIT_FILES:
        if submission.has(name):
            rows += [row for row in submission.jsonl(name, SftRow) if row.value.model_dump_json() not in known]
    return rows


def check_leaks(submission: Submission, context: Context) -> list[Finding]:
    """data.leak_copied, data.leak_paraphrased and data.leak_unanswerable: no locked case is trained on."""
    rows = training_rows(submission)
    where = {row.value.id: row.where for row in rows}
    values = [row.value for row in rows]
    try:
        cases = context.once("locked cases", lambda: leaks.locked_cases(context.corpus))
    except (CourseError, OSError, ValueError) as error:
        what = f"Could not score: the locked tests are not at hand ({type(error).__name__})."
        return [unscored(rule, what) for rule in RULES]
    near = context.threshold("data.leak_copied")
    copied = leaks.copies(values, cases, near)
    return [_finding("data.leak_copied", copied, where, f"No locked case of {len(cases)} stands in a row."),
            *_reworded(values, cases, where, context, {(pair.row, pair.case) for pair in copied})]  # fmt: skip


RULES = ("data.leak_copied", "data.leak_paraphrased", "data.leak_unanswerable")


def _reworded(
    rows: list[SftRow], cases: list[leaks.LockedCase], where: dict[str, str], context: Context,
    named: set[tuple[str, str]],
) -> list[Finding]:  # fmt: skip
    """Pairs beside those that are ``named`` as copies already."""
    least = [context.threshold(rule) for rule in RULES[1:]]
    try:
        context.embedder.encode(["Is it there?"], persist=False)  # else nothing to compare would look like a pass
        crowd = context.once("open questions", lambda: leaks.open_questions(context.corpus))
        found = leaks.paraphrases(rows, cases, context.embedder, *least, crowd)
        found = [pair for pair in found if (pair.row, pair.case) not in named]
    except Exception as error:  # no weights, no library, no memory: whatever it is, nothing was compared
        what = f"Could not score: the embedding model is not at hand ({type(error).__name__}), so no paraphrase was " \
               "looked for."  # fmt: skip
        return [unscored(rule, what, fix="Run the check where the course's embedding model is installed.")
                for rule in RULES[1:]]  # fmt: skip
    kinds = {"data.leak_paraphrased": "paraphrase", "data.leak_unanswerable": "unanswerable"}
    good = {"data.leak_paraphrased": f"No row asks a locked question in other words and gives its answer; {least[0]:g} "
                                     "would count as alike.",
            "data.leak_unanswerable": "No row abstains on a locked question that has no answer."}  # fmt: skip
    return [_finding(rule, [p for p in found if p.kind == kind], where, good[rule]) for rule, kind in kinds.items()]


def _finding(rule: str, pairs: list[leaks.Pair], where: dict[str, str], good: str) -> Finding:
    if not pairs:
        return ok(rule, good, "none", "0 pairs")
    named = [f"{p.row} ({where.get(p.row, '?')}) is {p.case} "
             f"{COPIED.get(p.kind, f'in other words, similarity {p.similarity:.2f}')}" for p in pairs]
    return fail(
        rule, f"{len(pairs)} locked cases stand in the training data: {'; '.join(named[:3])}.", "none",
        f"{len(pairs)} pairs", where.get(pairs[0].row, DATASET), pairs=named[:SHOWN],
        fix="Remove these rows and every row on the same fact; a score on a test that was trained on means nothing.",
    )  # fmt: skip
