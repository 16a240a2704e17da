"""Lab 06, logs: one audit record per query, nothing readable in any log, and no document copied in full."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from course_lib.access import allowance
from course_lib.artifacts import AuditRow
from course_lib.checks.common import Context, flat, listed, plain_text, shingles, short, verdict
from course_lib.checks.rag_controls import load_deletion, load_injections, load_probes
from course_lib.checks.rag_rows import load_config, load_pairs
from course_lib.submission import Row, Submission
from course_lib.types import Finding

QUESTION_RUN = 4  # words in a row that a log may share with a question by chance
FULL_SHARE = 0.6
FULL_WORDS = 80  # shorter documents fit into one source, which is no copy of a document
LOG_WORDS = 3


def queries(submission: Submission, context: Context) -> Iterator[tuple[str, str, str, tuple[str, ...] | None, bool]]:
    """(where, user, question, claimed chunk ids or None, after the deletion) of every search that the artifacts imply."""
    for pair in load_pairs(submission, context):
        yield pair.where, pair.case.user, pair.case.question, tuple(pair.row.retrieved), False
    for probe in load_probes(submission, context):
        yield probe.where, probe.value.user, probe.value.question, tuple(probe.value.retrieved), False
    for row in load_injections(submission, context):
        yield row.where, row.value.user, row.value.question, None, False
    deletion = load_deletion(submission, context)
    yield "deletion.json", deletion.user, deletion.question, tuple(deletion.before), False
    yield "deletion.json", deletion.user, deletion.question, tuple(deletion.after), True


def check_audit(submission: Submission, context: Context) -> list[Finding]:
    """rag.audit_complete and rag.audit_no_text."""
    rows = submission.jsonl("audit.jsonl", AuditRow)
    problems = list(_gaps(rows, submission, context))
    complete = verdict(
        "rag.audit_complete", not problems,
        f"{len(rows)} audit records; every query of the artifacts has its own, with account, denials and index.",
        problem=f"{problems[0] if problems else ''}.", expected="one record per query", actual=f"{len(problems)} problems",
        where=problems[0].split(" ")[0] if problems else "", problems=problems[:6],
        fix="Pass an AuditLog to Index.build and let it write; do not filter or edit the file.",
    )  # fmt: skip
    readable = list(_readable(rows, submission, context))
    clean = verdict(
        "rag.audit_no_text", not readable, "No question, no document text and no guessable hash in the audit log.",
        problem=f"{len(readable)} records can be read back. First: {readable[0] if readable else ''}.", expected="0",
        actual=str(len(readable)), where=readable[0].split(" ")[0] if readable else "", readable=readable[:6],
        fix="Log ids, counts and a keyed hash (HMAC) of the query; a plain hash of a short text can be guessed.",
    )  # fmt: skip
    return [complete, clean]


def _gaps(rows: list[Row[AuditRow]], submission: Submission, context: Context) -> Iterator[str]:
    config = load_config(submission)
    ids = Counter(row.value.request_id for row in rows)
    for row in rows:
        if ids[row.value.request_id] > 1:
            yield f"{row.where} The request id {short(row.value.request_id)} stands twice"
            break
    deleted = load_deletion(submission, context).record.doc_key
    without = deleted if context.document(deleted) else None
    states = {after: (context.index(config, without if after else None), _denials(context, without if after else None))
              for after in (False, True)}  # fmt: skip
    unused = Counter((row.value.user, tuple(row.value.returned), _state(row.value)) for row in rows)
    for where, user, question, claimed, after in queries(submission, context):
        returned = claimed if claimed is not None else context.search(config, user, question).chunk_ids
        # Whether the deletion happened is judged elsewhere; here the query after it may show either state.
        needs = []
        for index, denials in (states[True], states[False]) if after else (states[False],):
            tenant, allowed, denied = denials[user]
            needs.append((user, returned, (tenant, config.mode, config.k, allowed, denied, index.fingerprint)))
        need = next((need for need in needs if unused[need]), None)
        if need is None:
            yield f"{where} This query of {user} has no audit record with its results, denials and index"
        else:
            unused[need] -= 1


def _state(row: AuditRow) -> tuple[Any, ...]:
    return row.tenant, row.mode, row.k, row.allowed, tuple(sorted(row.denied.items())), row.index


def _denials(context: Context, without: str | None) -> dict[str, tuple[str, int, tuple[tuple[str, int], ...]]]:
    """Account -> tenant, documents it may read, and how many each rule denies."""
    documents = [document for document in context.corpus.documents if document.key != without]
    out = {}
    for user in context.corpus.users:
        allowed = allowance(user, documents, context.corpus.as_of)
        out[user.id] = (user.tenant, len(allowed.keys), tuple(sorted(allowed.denied.items())))
    return out


def _readable(rows: list[Row[AuditRow]], submission: Submission, context: Context) -> Iterator[str]:
    asked = {question for _, _, question, _, _ in queries(submission, context)}
    runs = {run for question in asked for run in shingles(question, QUESTION_RUN)}
    runs |= {flat(question).strip() for question in asked}
    hashes = {hashlib.sha256(form.encode()).hexdigest() for question in asked
              for form in (question, " ".join(question.split()).casefold(), question.lower(), question.strip())}  # fmt: skip
    for row, line in zip(rows, submission.raw("audit.jsonl").split(b"\n"), strict=False):
        values = [text for text in _texts(json.loads(line)) if " " in text.strip()]
        if any(context.quoted(text) for text in values):
            yield f"{row.where} holds words of a document"
        elif any(run in runs for text in values for run in (*shingles(text, QUESTION_RUN), flat(text).strip())):
            yield f"{row.where} holds the words of a question"
        elif row.value.query_hmac in hashes:
            yield f"{row.where} holds a plain hash of the question, which anyone can try"


def _texts(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend([*item, *item.values()])


def check_full_documents(submission: Submission, context: Context) -> list[Finding]:
    """rag.no_full_documents: no line of a log or artifact, no output and no page copies most of a document."""
    sizes = context.sizes()
    copies = []
    for name in submission.files:
        log = name.endswith(".log") or name.rpartition("/")[2].startswith("log")
        for place, text in _units(submission, name):
            counts: Counter[str] = Counter()
            for keys, number in context.quoted(text).items():
                counts.update({key: number for key in keys})
            for key, number in counts.items():
                if sizes[key] >= FULL_WORDS and (number >= FULL_SHARE * sizes[key] or (log and number >= LOG_WORDS)):
                    copies.append(f"{place} copies {number / sizes[key]:.0%} of {key}")
                    break
    return [verdict(
        "rag.no_full_documents", not copies, "No file keeps most of a document in one place.",
        problem=f"{len(copies)} places keep a document. First: {copies[0] if copies else ''}.", expected="0",
        actual=str(len(copies)), where=copies[0].split(" ")[0] if copies else "", copies=copies[:6],
        fix="Keep chunk ids. Show the model, and the log, only the sentences that an answer needs.",
    )]  # fmt: skip


def _units(submission: Submission, name: str) -> Iterator[tuple[str, str]]:
    text = plain_text(submission, name)
    if not name.endswith(".jsonl"):
        yield name, text
        return
    for number, line in enumerate(submission.raw(name).split(b"\n"), 1):
        yield f"{name}:{number}", line.decode("utf-8", "replace").replace("\\n", " ")
