"""Lab 06, measurement: the cases, the rows made for them, and whether retrieval really returns those rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from course_lib.artifacts import Deletion, RagCase, RagConfig, RagRow
from course_lib.checks.common import Context, doc_of, flat, listed, percent, short, verdict
from course_lib.corpus import Kind
from course_lib.deletion import REDACTED
from course_lib.errors import ArtifactError
from course_lib.submission import Incomplete, Row, Submission
from course_lib.types import Finding

TOP = 3
SLACK = 1e-9  # 0.9 * 70 may come out a hair above 63


@dataclass(frozen=True, slots=True)
class Pair:
    """A case and the row for it. where: file and line of the row. redacted: a deletion took the answer away."""

    case: RagCase
    row: RagRow
    where: str
    redacted: bool = False

    @property
    def answerable(self) -> bool:
        return bool(self.case.expected_docs)

    @property
    def claimed_hit(self) -> bool:
        return hit(self.case.expected_docs, self.row.retrieved)


def hit(expected: Iterable[str], retrieved: Iterable[str]) -> bool:
    """Whether an expected document stands in the first three results."""
    return bool(set(expected) & {doc_of(name) for name in list(retrieved)[:TOP]})


def load_config(submission: Submission) -> RagConfig:
    return submission.json("config.json", RagConfig)


def known_user(context: Context, name: str, where: str) -> None:
    """Raises Incomplete for an account that does not exist: then nobody can say what it may read."""
    if context.user(name) is None:
        raise Incomplete(f"The account {short(name)!r} does not exist, so access cannot be judged.", where=where,
                         fix="Use the id of an account of users.yaml.")


def load_cases(submission: Submission, context: Context) -> list[Row[RagCase]]:
    cases = submission.jsonl("rag_eval_cases.jsonl", RagCase)
    seen: set[str] = set()
    for case in cases:
        known_user(context, case.value.user, case.where)
        if case.value.id in seen:
            raise Incomplete(f"The case {short(case.value.id)} stands twice.", where=case.where, fix="Keep one.")
        seen.add(case.value.id)
    return cases


def load_pairs(submission: Submission, context: Context) -> list[Pair]:
    """Cases with their rows, in the order of the cases. Raises Incomplete when a row is missing, doubled or foreign."""
    cases = load_cases(submission, context)
    rows = {}
    for row in submission.jsonl("rag_eval_rows.jsonl", RagRow):
        if row.value.id in rows:
            raise Incomplete(f"The row {short(row.value.id)} stands twice.", where=row.where, fix="Keep one per case.")
        rows[row.value.id] = row
    foreign = sorted(rows.keys() - {case.value.id for case in cases})
    if foreign:
        raise Incomplete(f"The row {short(foreign[0])} has no case.", where=rows[foreign[0]].where,
                         fix="Write rows for the cases that you hand in.")
    for case in cases:
        if case.value.id not in rows:
            raise Incomplete(f"The case {short(case.value.id)} has no row.", where=case.where,
                             fix="Run every case, also those that you expect to fail.")
    deleted = deleted_key(submission)
    return [_pair(case.value, rows[case.value.id], deleted) for case in cases]


def _pair(case: RagCase, row: Row[RagRow], deleted: str) -> Pair:
    """An answer counts as cleaned only where the deleted document was among the results."""
    redacted = REDACTED in row.value.answer and deleted in map(doc_of, row.value.retrieved)
    return Pair(case, row.value, row.where, redacted)


def deleted_key(submission: Submission) -> str:
    """The document that deletion.json says is gone; empty when the file cannot be read, which is judged elsewhere."""
    try:
        return submission.json("deletion.json", Deletion).record.doc_key
    except ArtifactError:
        return ""


def check_cases(submission: Submission, context: Context) -> list[Finding]:
    """rag.case_count and rag.case_kinds."""
    cases = load_cases(submission, context)
    least = int(context.threshold("rag.case_count"))
    distinct = len({flat(case.value.question) for case in cases})
    answerable = sum(bool(case.value.expected_docs) for case in cases)
    count = verdict(
        "rag.case_count", distinct >= least and 2 * answerable >= least,
        f"{distinct} different cases, {answerable} of them answerable.",
        problem=f"{distinct} different cases, {answerable} of them answerable: too few to measure anything.",
        expected=f"at least {least}, half of that number answerable", actual=f"{distinct}, {answerable} answerable",
        where="rag_eval_cases.jsonl", fix="Add cases of your own; repeated questions count once.",
    )  # fmt: skip
    missing = sorted(set(get_args(Kind)) - {case.value.kind for case in cases})
    unsound = [(row.where, reason) for row in cases if (reason := _unsound(row.value, context))]
    problem = f"No case of kind {listed(missing)}." if missing else ""
    if unsound:
        problem = f"{len(unsound)} cases do not hold against the corpus: {unsound[0][1]}. {problem}".strip()
    kinds = verdict(
        "rag.case_kinds", not missing and not unsound, "Every kind of question is there, and each expectation holds.",
        problem=problem, expected="all kinds: " + ", ".join(get_args(Kind)),
        actual=", ".join(sorted({short(case.value.kind, 20) for case in cases})),
        where=unsound[0][0] if unsound else "rag_eval_cases.jsonl",
        fix="Expected documents must exist, be readable by the user, and contain the expected answers word for word.",
        unsound=[f"{where}: {reason}" for where, reason in unsound[:5]],
    )  # fmt: skip
    return [count, kinds]


def _unsound(case: RagCase, context: Context) -> str:
    """Why a case cannot be what it says: documents, permissions, answers, or a course question that was changed."""
    for key in case.expected_docs:
        denied = context.denial(context.user(case.user), key)
        if denied:
            return f"{case.user} may not read the expected document {short(key)} ({denied})"
    bodies = [flat(context.document(key).body) for key in case.expected_docs]
    for answer in case.answers:
        if answer.strip() != REDACTED and not any(flat(answer) in body for body in bodies):
            return f"the answer {short(answer, 40)!r} stands in no expected document"
    for question in context.questions:
        same = question.user == case.user and flat(question.question) == flat(case.question)
        if same and set(question.expected_docs) != set(case.expected_docs):
            return f"{case.id} expects other documents than the question of the course that it repeats"
    return ""


def check_retrieval(submission: Submission, context: Context) -> list[Finding]:
    """rag.hit_rate and rag.retrieval_recomputed: every case is searched again, under its own user."""
    config, pairs = load_config(submission), load_pairs(submission, context)
    own = {pair.case.id: context.search(config, pair.case.user, pair.case.question).chunk_ids for pair in pairs}
    answerable = [pair for pair in pairs if pair.answerable]
    hits = [pair for pair in answerable if hit(pair.case.expected_docs, own[pair.case.id])]
    least = context.threshold("rag.hit_rate")
    actual = percent(len(hits), len(answerable))
    missed = [pair for pair in answerable if pair not in hits]
    rate = verdict(
        "rag.hit_rate", bool(answerable) and len(hits) + SLACK >= least * len(answerable),
        f"Searched again: an expected document in the top {TOP} for {actual}.",
        problem=f"Searched again: an expected document in the top {TOP} for {actual} only.",
        expected=f"at least {100 * least:.0f} % of answerable cases", actual=actual,
        where=missed[0].where if missed else "rag_eval_cases.jsonl",
        fix="Look at the missed cases: wrong chunk size, wrong mode, or vocabulary that the documents do not use.",
        value=len(hits) / len(answerable) if answerable else 0.0, missed=[short(pair.case.id) for pair in missed[:10]],
    )  # fmt: skip
    different = [pair for pair in pairs
                 if not context.same(config, pair.case.user, pair.case.question, pair.row.retrieved)]  # fmt: skip
    equal = percent(len(pairs) - len(different), len(pairs))
    example = different[0] if different else None
    same = verdict(
        "rag.retrieval_recomputed", bool(pairs) and not different,
        f"Our own search with config.json returns the same chunks in the same order for {equal}.",
        problem=f"Our own search with config.json returns the same chunks for {equal} only.",
        expected=listed(own[example.case.id]) or "no chunk" if example else "all rows equal",
        actual=listed(example.row.retrieved) or "no chunk" if example else equal,
        where=example.where if example else "",
        fix="Write what Index.search returned for the case's own user, and record the settings you really used. "
        "If nothing matches, the run was made with another version of the course: run it again.",
        different=[pair.where for pair in different[:10]],
    )  # fmt: skip
    return [rate, same]
