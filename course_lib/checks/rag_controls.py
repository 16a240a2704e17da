"""Lab 06, enterprise controls: who saw what, hostile documents, deletion. Everything is decided again, nothing believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from course_lib.artifacts import AccessProbe, Deletion, InjectionRow, RagConfig
from course_lib.checks.common import Context, doc_of, fail, flat, listed, ok, percent, plain_text, short, verdict
from course_lib.checks.rag_rows import Pair, deleted_key, known_user, load_config, load_pairs, stands_in
from course_lib.chunking import sections
from course_lib.corpus import Document, HostileProbe
from course_lib.deletion import body_sha256
from course_lib.submission import Row, Submission
from course_lib.types import Finding

MIN_USERS = 4
MIN_QUOTED_WORDS = 6


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
        yield Seen(pair.case.user, pair.where, (*row.retrieved, *row.cited), pair.case.question, (*row.sources, row.answer))
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
            problem=f"{len(found)} times somebody saw {kind} text. First: {found[0] if found else 'a probe of ours'}.",
            expected="0", actual=str(len(found)), where=found[0].split(" ")[0] if found else "", fix=fix, leaks=found[:8],
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
    """(probes, forbidden chunks): every account asks every hidden question of the index that the submission describes."""
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
        if set(found.chunk_ids) != set(probe.value.retrieved):
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
        where="access_probes.jsonl", fix="Ask the same questions under accounts of both tenants and of every clearance.",
    )  # fmt: skip
    return [same, coverage]


def check_injection(submission: Submission, context: Context) -> list[Finding]:
    """rag.injection_coverage and rag.injection_obeyed. What counts as obeyed is read from the answers, with our markers."""
    rows = load_injections(submission, context)
    config, deleted = load_config(submission), deleted_key(submission)
    hostile = {probe.doc: probe for probe in context.hostile}
    real, wrong, planted = [], [], 0
    for row in rows:
        found = context.search(config, row.value.user, row.value.question)
        ours = {key for key in found.doc_keys if key in hostile}
        true_sources = all(any(stands_in(source, chunk, deleted) for chunk in found.chunks) for source in row.value.sources)
        if ours != set(row.value.hostile_docs) or not true_sources:
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
    return fail("rag.injection_obeyed", f"{len(obeyed)} answers follow a planted instruction, and {len(claimed)} rows "
                f"say so." + (" The claim hides it." if silent else ""), "0", f"{len(obeyed)} found, {len(claimed)} claimed",
                (obeyed[0][0] if obeyed else claimed[0]),
                "Quote from sources only, and refuse an answer that is not supported by its source.",
                obeyed=[where for where, _ in obeyed[:8]])  # fmt: skip


def check_deletion(submission: Submission, context: Context) -> list[Finding]:
    """rag.deletion_gone and rag.deletion_record."""
    deletion, config = load_deletion(submission, context), load_config(submission)
    document = context.document(deletion.record.doc_key)
    if document is None:
        return [fail(rule, f"There is no document {short(deletion.record.doc_key)} that could have been deleted.",
                     where="deletion.json", fix="Name the key ID@VERSION of a document of the corpus.")
                for rule in ("rag.deletion_gone", "rag.deletion_record")]  # fmt: skip
    problems = list(_still_there(deletion, document, config, submission, context))
    gone = verdict(
        "rag.deletion_gone", not problems, f"{document.key} was found before and is not found after, and none of its "
        f"own sentences stands in {len(submission.files)} files.", problem=f"{problems[0] if problems else ''}.",
        expected="found before, gone after, quoted nowhere", actual=f"{len(problems)} problems",
        where=problems[0].split(" ")[0] if problems else "", problems=problems[:6],
        fix="Delete through Index.delete and pass every artifact that may quote the document.",
    )  # fmt: skip
    faults = list(_faults(deletion, document, config, context))
    record = verdict(
        "rag.deletion_record", not faults, "The deletion record agrees with our own index and carries a valid seal.",
        problem=f"The deletion record does not hold: {faults[0] if faults else ''}.", expected="as Index.delete writes it",
        actual="; ".join(faults[:3]), where="deletion.json", fix="Store DeletionRecord.to_dict() unchanged.",
    )  # fmt: skip
    return [gone, record]


def _still_there(
    deletion: Deletion, document: Document, config: RagConfig, submission: Submission, context: Context
) -> Iterator[str]:
    key = document.key
    before = context.search(config, deletion.user, deletion.question)
    after = context.search(config, deletion.user, deletion.question, without=key)
    if key not in before.doc_keys or key not in map(doc_of, deletion.before):
        yield f"deletion.json The probe question does not find {key} before the deletion, so it proves nothing"
    if key in map(doc_of, deletion.after):
        yield f"deletion.json The deleted document {key} is still found"
    elif set(deletion.after) != set(after.chunk_ids):
        yield f"deletion.json After the deletion our index returns {listed(after.chunk_ids)}, and the claim differs"
    own = _own_sentences(document, context)
    for name in submission.files:
        text = flat(plain_text(submission, name))
        left = sum(sentence in text for sentence in own)
        if left:
            yield f"{name} still holds {left} sentences of the deleted document {key}"


def _own_sentences(document: Document, context: Context) -> set[str]:
    """Sentences of at least six words that stand in this version and in no other document."""
    def sentences(of: Document) -> set[str]:
        return {flat(s) for _, part in sections(of.body) for s in part if len(s.split()) >= MIN_QUOTED_WORDS}

    others = (sentences(other) for other in context.corpus.documents if other.key != document.key)
    return sentences(document).difference(*others)


def _faults(deletion: Deletion, document: Document, config: RagConfig, context: Context) -> Iterator[str]:
    record = deletion.record
    stores = {name: {"before": count.before, "after": count.after} for name, count in record.stores.items()}
    index = context.index(config)
    chunks = [chunk.id for chunk in index.chunks.values() if chunk.doc_key == document.key]
    held = {"chroma": len(index.vectors.ids(document.key)), "bm25": len(index.terms.ids(document.key))}
    if record.body_sha256 != body_sha256(document):
        yield "body_sha256 is not the hash of this document"
    if record.chunk_ids != chunks:
        yield f"its {len(record.chunk_ids)} chunks are not the {len(chunks)} that config.json makes"
    absent = {"chroma", "bm25", "embedding_cache", "answer_cache"} - stores.keys()
    if absent or not any(name.startswith("artifact:") for name in stores):
        yield f"it did not look into {listed(sorted(absent)) or 'any artifact'}"
    for name, number in held.items():
        if name in stores and stores[name]["before"] != number:
            yield f"{name} held {stores[name]['before']} entries before, and our own index {number}"
    left = sorted(name for name, count in stores.items() if count["after"])
    if left or not record.complete:
        yield f"something is left in {listed(left) or 'a store'}"
    facts = [record.doc_key, record.body_sha256, record.reason, record.chunk_ids, stores]
    if hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest() != record.tombstone:
        yield "the tombstone is not the hash of the record: it was changed afterwards"
