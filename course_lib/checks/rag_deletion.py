"""Lab 06, deletion: searched again with and without the document, looked for in every file, and the record compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from course_lib.artifacts import Deletion, RagConfig
from course_lib.checks.common import (
    Context,
    doc_of,
    fail,
    first,
    flat,
    listed,
    place,
    reason,
    short,
    verdict,
)
from course_lib.checks.plain import plain_text
from course_lib.checks.rag_controls import load_deletion
from course_lib.checks.rag_rows import load_config
from course_lib.chunking import sections
from course_lib.corpus import Document
from course_lib.deletion import body_sha256
from course_lib.submission import Submission
from course_lib.types import Finding

MIN_QUOTED_WORDS = 6


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
        f"own sentences stands in {len(submission.files)} files.", problem=f"{reason(problems)}.",
        expected="found before, gone after, quoted nowhere", actual=f"{len(problems)} problems",
        where=place(problems), problems=problems[:6],
        fix="Delete through Index.delete and pass every artifact that may quote the document.",
    )  # fmt: skip
    faults = list(_faults(deletion, document, config, context))
    record = verdict(
        "rag.deletion_record", not faults, "The deletion record agrees with our own index and carries a valid seal.",
        problem=f"The deletion record does not hold: {first(faults)}.", expected="as Index.delete writes it",
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
    elif not context.same(config, deletion.user, deletion.question, deletion.after, without=key):
        yield f"deletion.json After the deletion our index returns {listed(after.chunk_ids)}, and the claim differs"
    own = _own_sentences(document, context)
    for name in submission.files:
        text = flat(plain_text(submission, name))
        left = sum(sentence in text for sentence in own)
        if left:
            spot = name.replace(" ", "\u00a0")
            yield f"{spot} The file {name} still holds {left} sentence(s) of the deleted document {key}"


def _own_sentences(document: Document, context: Context) -> set[str]:
    """Sentences of at least six words that stand in this version and in no other document."""
    def sentences(of: Document) -> set[str]:
        return {flat(s) for _, part in sections(of.body) for s in part if len(s.split()) >= MIN_QUOTED_WORDS}

    every = context.once("sentences", lambda: {other.key: sentences(other) for other in context.corpus.documents})
    return every[document.key].difference(*(own for key, own in every.items() if key != document.key))


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
