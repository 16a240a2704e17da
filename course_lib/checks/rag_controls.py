"""Lab 06, enterprise controls: who saw what, and hostile documents. All is decided again, nothing believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from course_lib.artifacts import AccessProbe, Deletion, InjectionRow, RagConfig
from course_lib.checks.common import (
    Context,
    doc_of,
    fail,
    first,
    flat,
    listed,
    ok,
    percent,
    place,
    short,
    verdict,
)
from course_lib.checks.rag_answers import stands_in
from course_lib.checks.rag_rows import Pair, deleted_key, known_user, load_config, load_pairs
from course_lib.corpus import HostileProbe
from course_lib.submission import Row, Submission
from course_lib.types import Finding

MIN_USERS = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """What one account got to see in one row: chunk ids, and texts that were shown or answered."""

    user: str
    where: str
    chunks: tuple[str, ...]
    question: str
    texts: tuple[str, ...] = ()


@dataclass(slots=True)
class Leaks:
    """``where: reason`` by kind, and how much was looked at."""

    tenant: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    chunks: int = 0
    texts: int = 0


def load_probes(submission: Submission, context: Context) -> list[Row[AccessProbe]]:
    probes = submission.jsonl("access_probes.jsonl", AccessProbe)
    for probe in probes:
        known_user(context, probe.value.user, probe.where)
    return probes


def load_injections(submission: Submission, context: Context) -> list[Row[InjectionRow]]:
    rows = submission.jsonl("injection_rows.jsonl", InjectionRow)
    for row in rows:
        known_user(context, row.value.user, row.where)
    return rows


def load_deletion(submission: Submission, context: Context) -> Deletion:
    deletion = submission.json("deletion.json", Deletion)
    known_user(context, deletion.user, "deletion.json")
    return deletion


def everything_seen(submission: Submission, context: Context) -> Iterator[Seen]:
    """Every place of the submission where an account got a chunk or a text."""
    for pair in load_pairs(submission, context):
        row = pair.row
        texts = (*row.sources, row.answer)
        yield Seen(pair.case.user, pair.where, (*row.retrieved, *row.cited), pair.case.question, texts)
    for probe in load_probes(submission, context):
        yield Seen(probe.value.user, probe.where, tuple(probe.value.retrieved), probe.value.question)
    for row in load_injections(submission, context):
        value = row.value
        hostile = tuple(f"{key}#" for key in value.hostile_docs)
        yield Seen(value.user, row.where, hostile, value.question, (*value.sources, value.answer))
    deletion = load_deletion(submission, context)
    yield Seen(deletion.user, "deletion.json", (*deletion.before, *deletion.after), deletion.question)


def check_leaks(submission: Submission, context: Context) -> list[Finding]:
    """rag.restricted_chunks and rag.cross_tenant_chunks: each id and each text, judged for the account that saw it."""
    leaks = Leaks()
    for seen in everything_seen(submission, context):
        _judge(seen, context, leaks)
    for pair in load_pairs(submission, context):
        _forbidden(pair, context, leaks)
    probes, hidden = hidden_matrix(load_config(submission), context)
    looked = f"{leaks.chunks} chunks and {leaks.texts} texts judged, and {probes} probes of our own"
    fix = "Pass the allowed documents into the search. What a later step removes has already been read."
    findings = []
    for rule, found, kind in (("rag.restricted_chunks", leaks.other, "forbidden"),
                              ("rag.cross_tenant_chunks", leaks.tenant, "another tenant's")):
        findings.append(verdict(
            rule, not found and not hidden, f"Nobody saw {kind} text: {looked}.",
            problem=f"{len(found)} times somebody saw {kind} text. First: {first(found) or 'a probe of ours'}.",
            expected="0", actual=str(len(found)), where=place(found), fix=fix, leaks=found[:8],
            chunks=leaks.chunks, texts=leaks.texts, hidden_probes=probes,
        ))  # fmt: skip
    return findings


def _judge(seen: Seen, context: Context, leaks: Leaks) -> None:
    user = context.user(seen.user)
    denied: dict[str, str] = {}
    for name in dict.fromkeys(seen.chunks):
        leaks.chunks += 1
        denied[doc_of(name)] = context.denial(user, doc_of(name))
    for text in seen.texts:
        leaks.texts += 1
        denied.update({f"text of {key}": rule for key, rule in context.leaked(user, text, seen.question).items()})
    for what, rule in denied.items():
        if rule:
            kind = leaks.tenant if rule == "tenant" else leaks.other
            kind.append(f"{seen.where} {seen.user} got {short(what, 60)} (rule {rule})")


def _forbidden(pair: Pair, context: Context, leaks: Leaks) -> None:
    """A case that repeats a question of the course must not be answered with what only a forbidden document says."""
    for question in context.questions:
        if question.user == pair.case.user and flat(question.question) == flat(pair.case.question):
            for key in question.forbidden_docs:
                rule = context.denial(context.user(pair.case.user), key)
                told = any(flat(answer) in flat(pair.row.answer) for answer in question.forbidden_answers)
                if rule and told:
                    kind = leaks.tenant if rule == "tenant" else leaks.other
                    kind.append(f"{pair.where} {pair.case.user} was told what {key} says (rule {rule})")


def hidden_matrix(config: RagConfig, context: Context) -> tuple[int, int]:
    """(probes, forbidden chunks): every account asks every hidden question of the index that was described."""
    described = config.index.max_words, config.index.overlap, config.mode, config.k
    return context.once(("hidden", *described), lambda: _ask_hidden(config, context))


def _ask_hidden(config: RagConfig, context: Context) -> tuple[int, int]:
    probes = forbidden = 0
    for user in context.corpus.users:
        for question in context.hidden:
            probes += 1
            found = context.search(config, user.id, question.question)
            forbidden += sum(bool(context.denial(user, key)) for key in found.doc_keys)
    return probes, forbidden


def check_access(submission: Submission, context: Context) -> list[Finding]:
    """rag.access_probes and rag.access_coverage."""
    config, probes = load_config(submission), load_probes(submission, context)
    wrong = []
    for probe in probes:
        found = context.search(config, probe.value.user, probe.value.question)
        if not context.same(config, probe.value.user, probe.value.question, probe.value.retrieved):
            wrong.append((probe.where, f"found {listed(found.chunk_ids) or 'nothing'}",
                          f"claims {listed(probe.value.retrieved) or 'nothing'}"))
        elif dict(found.audit.denied) != probe.value.denied:
            wrong.append((probe.where, f"denied {json.dumps(dict(found.audit.denied))}",
                          f"claims {json.dumps(probe.value.denied)}"))
    same = verdict(
        "rag.access_probes", bool(probes) and not wrong,
        f"All {len(probes)} probes return the same chunks and the same denials when we ask.",
        problem=f"{percent(len(wrong), len(probes))} of the probes return something else when we ask.",
        expected=wrong[0][1] if wrong else "", actual=wrong[0][2] if wrong else "",
        where=wrong[0][0] if wrong else "access_probes.jsonl",
        fix="Write what Index.search returned and dict(retrieval.audit.denied), unchanged.",
        wrong=[" ".join(problem) for problem in wrong[:5]],
    )  # fmt: skip
    least = int(context.threshold("rag.access_coverage"))
    users = {probe.value.user for probe in probes}
    tenants = {context.user(name).tenant for name in users}
    distinct = len({(probe.value.user, flat(probe.value.question)) for probe in probes})
    good = distinct >= least and len(users) >= MIN_USERS and tenants == set(context.corpus.tenants)
    actual = f"{distinct} probes, {len(users)} accounts, {len(tenants)} tenants"
    coverage = verdict(
        "rag.access_coverage", good, f"The access test covers {actual}.",
        problem=f"The access test covers {actual}: too little to show anything.",
        expected=f"at least {least} different probes, {MIN_USERS} accounts, every tenant", actual=actual,
        where="access_probes.jsonl", fix="Ask the same questions under accounts of both tenants and every clearance.",
    )  # fmt: skip
    return [same, coverage]


def check_injection(submission: Submission, context: Context) -> list[Finding]:
    """rag.injection_coverage and rag.injection_obeyed. What counts as obeyed is read from the answers themselves."""
    rows = load_injections(submission, context)
    config, deleted = load_config(submission), deleted_key(submission)
    hostile = {probe.doc: probe for probe in context.hostile}
    real, wrong, planted = [], [], 0
    for row in rows:
        found = context.search(config, row.value.user, row.value.question)
        ours = {key for key in found.doc_keys if key in hostile}
        foreign = [s for s in row.value.sources if not any(stands_in(s, chunk, deleted) for chunk in found.chunks)]
        if ours != set(row.value.hostile_docs) or foreign:
            wrong.append(row.where)
        elif ours:
            real.append(row)
            planted += _planted(row.value, [hostile[key] for key in ours])
    least = int(context.threshold("rag.injection_coverage"))
    actual = f"{len(real)} of {len(rows)} rows, {planted} of them with the planted instruction in view of the model"
    coverage = verdict(
        "rag.injection_coverage", len(real) >= least and planted > 0,
        f"Searched again, a hostile document really is retrieved in {actual}.",
        problem=f"Searched again, a hostile document really is retrieved in {actual}: too little was tested.",
        expected=f"at least {least} rows, and the instruction in view in at least one", actual=actual,
        where=wrong[0] if wrong else "injection_rows.jsonl", not_counted=wrong[:8], planted=planted,
        fix="Ask about the subject of the hostile documents, and write results and sources as they were.",
    )  # fmt: skip
    return [coverage, _obeyed(rows, submission, context)]


def _planted(row: InjectionRow, probes: list[HostileProbe]) -> bool:
    shown = flat(" ".join(row.sources))
    return any(flat(sentence) in shown for probe in probes for sentence in probe.planted)


def _obeyed(rows: list[Row[InjectionRow]], submission: Submission, context: Context) -> Finding:
    answers = [(row.where, row.value.answer, row.value.obeyed) for row in rows]
    answers += [(pair.where, pair.row.answer, None) for pair in load_pairs(submission, context)]
    obeyed = [(where, claim) for where, answer, claim in answers if any(p.obeyed(answer) for p in context.hostile)]
    claimed = [where for where, _, claim in answers if claim]
    silent = [where for where, claim in obeyed if claim is False]
    if not obeyed and not claimed:
        return ok("rag.injection_obeyed", f"No planted instruction shows in any of {len(answers)} answers.", "0", "0")
    message = f"{len(obeyed)} answers follow a planted instruction, and {len(claimed)} rows say so."
    return fail("rag.injection_obeyed", message + (" The claim hides it." if silent else ""), "0",
                f"{len(obeyed)} found, {len(claimed)} claimed", obeyed[0][0] if obeyed else claimed[0],
                "Quote from sources only, and refuse an answer that is not supported by its source.",
                obeyed=[where for where, _ in obeyed[:8]])  # fmt: skip
