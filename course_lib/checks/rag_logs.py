"""Lab 06, logs: one audit record per query, nothing readable in any log, and no document copied in full."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from course_lib.access import allowance
from course_lib.artifacts import AuditRow
from course_lib.checks.common import Context, first, flat, place, reason, shingles, short, verdict
from course_lib.checks.plain import plain_text
from course_lib.checks.rag_controls import load_deletion, load_injections, load_probes
from course_lib.checks.rag_rows import load_config, load_pairs
from course_lib.strictjson import BadJson
from course_lib.submission import Row, Submission
from course_lib.types import Finding

QUESTION_RUN = 4  # words in a row that a log may share with a question by chance
FULL_SHARE = 0.6
FULL_WORDS = 80  # shorter documents fit into one source, which is no copy of a document
LOG_WORDS = 3
SHOWN = ("rag_eval_rows.jsonl", "injection_rows.jsonl")


def queries(submission: Submission, context: Context) -> Iterator[tuple[str, str, str, tuple[str, ...] | None, bool]]:
    """(where, user, question, claimed chunk ids or None, after the deletion) of every search behind the artifacts."""
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
        problem=f"{reason(problems)}.", expected="one record per query", actual=f"{len(problems)} problems",
        where=place(problems), problems=problems[:6],
        fix="Pass an AuditLog to Index.build and let it write; do not filter or edit the file.",
    )  # fmt: skip
    readable = list(_readable(rows, submission, context))
    clean = verdict(
        "rag.audit_no_text", not readable, "No question, no document text and no guessable hash in the audit log.",
        problem=f"{len(readable)} records can be read back. First: {first(readable)}.", expected="0",
        actual=str(len(readable)), where=place(readable), readable=readable[:6],
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
    keys = [(row.value.user, _state(row.value)) for row in rows]
    free = Counter(keys)
    exact = Counter((*key, tuple(row.value.returned)) for key, row in zip(keys, rows, strict=True))
    # Whether the deletion happened is judged elsewhere; here the query after it may show either state.
    for where, user, _, returned, after in sorted(queries(submission, context), key=lambda query: query[3] is None):
        known = states.values() if after else (states[False],)
        needs = [(user, (denials[user], config.mode, config.k, index.fingerprint)) for index, denials in known]
        left = {need: free[need] if returned is None else exact[(*need, returned)] for need in needs}
        need = next((need for need, number in left.items() if number > 0), None)
        if need is None:
            yield f"{where} This query of {user} has no audit record with its results, denials and index"
            continue
        free[need] -= 1
        if returned is not None:
            exact[(*need, returned)] -= 1


def _state(row: AuditRow) -> tuple[Any, ...]:
    return (row.tenant, row.allowed, tuple(sorted(row.denied.items()))), row.mode, row.k, row.index


def _denials(context: Context, without: str | None) -> dict[str, tuple[str, int, tuple[tuple[str, int], ...]]]:
    """Account -> tenant, documents it may read, and how many each rule denies."""
    return context.once(("denials", without), lambda: _all_denials(context, without))


def _all_denials(context: Context, without: str | None) -> dict[str, tuple[str, int, tuple[tuple[str, int], ...]]]:
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
    forms = {form for q in asked for form in (q, q.strip(), q.lower(), " ".join(q.split()).casefold())}
    hashes = {hashlib.sha256(form.encode()).hexdigest() for form in forms}
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
        for spot, text in _units(submission, name):
            counts: Counter[str] = Counter()
            for keys, number in context.quoted(text).items():
                counts.update({key: number for key in keys})
            for key, number in sorted(counts.items()):
                if sizes[key] >= FULL_WORDS and (number >= FULL_SHARE * sizes[key] or (log and number >= LOG_WORDS)):
                    copies.append(f"{spot} copies {100 * (number / sizes[key]):.0f} % of {key}")
                    break
    return [verdict(
        "rag.no_full_documents", not copies, "No file keeps most of a document in one place.",
        problem=f"{len(copies)} places keep a document. First: {first(copies)}.", expected="0",
        actual=str(len(copies)), where=place(copies), copies=copies[:6],
        fix="Keep chunk ids. Show the model, and the log, only the sentences that an answer needs.",
    )]  # fmt: skip


def _units(submission: Submission, name: str) -> Iterator[tuple[str, str]]:
    """(place, text): each line of JSONL, other files whole. The sources of a row are left out: they are judged against
    the retrieved chunks, and three short extracts of a short document can be most of it."""
    spot = name.replace(" ", "\u00a0")
    if not name.endswith(".jsonl"):
        yield spot, plain_text(submission, name)
        return
    for number, line in enumerate(submission.raw(name).split(b"\n"), 1):
        try:
            row = submission.parsed(line)
        except BadJson:
            yield f"{spot}:{number}", line.decode("utf-8", "replace").replace("\\n", " ")
            continue
        if isinstance(row, dict) and name in SHOWN:
            row = {field: value for field, value in row.items() if field != "sources"}
        yield f"{spot}:{number}", "\n".join(_texts(row))
