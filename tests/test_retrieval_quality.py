"""What retrieval reaches on the real corpus and the development questions, and that a deletion there leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from course_lib.access import decide
from course_lib.corpus import Question, load_corpus, load_hostile, load_questions
from course_lib.embeddings import SentenceEmbedder, default_embedder
from course_lib.measure import hit_at_k, reciprocal_rank
from course_lib.rag import Answer, AnswerCache, compress
from course_lib.retrieval import MODES, Index, sentence_vectors


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    built = Index.build(load_corpus(), audit_key=b"quality")
    yield built
    built.close()


@pytest.fixture(scope="module")
def questions(index: Index) -> list[Question]:
    rows = [question for question in load_questions("dev") if question.expected_docs]
    index.embedder.encode([question.question for question in rows], persist=False)
    return rows


def test_hybrid_reaches_the_bar_and_beats_its_parts(index: Index, questions: list[Question]) -> None:
    hits: dict[str, float] = {}
    ranks: dict[str, float] = {}
    for mode in MODES:
        found = [index.search(question.question, question.user, mode).doc_keys for question in questions]
        pairs = [(keys, question.expected_docs) for keys, question in zip(found, questions, strict=True)]
        hits[mode] = sum(hit_at_k(keys, wanted, 3) for keys, wanted in pairs) / len(pairs)
        ranks[mode] = sum(reciprocal_rank(keys, wanted) for keys, wanted in pairs) / len(pairs)
    assert hits["hybrid"] >= 0.90, hits
    assert hits["hybrid"] >= max(hits["dense"], hits["bm25"]), hits
    assert ranks["hybrid"] > max(ranks["dense"], ranks["bm25"]), ranks


def test_an_article_reference_is_found_at_once(index: Index, questions: list[Question]) -> None:
    articles = [question for question in questions if question.kind == "article"]
    first = [index.search(question.question, question.user, k=1).doc_keys for question in articles]
    right = sum(hit_at_k(keys, question.expected_docs, 1) for keys, question in zip(first, articles, strict=True))
    assert right / len(articles) >= 0.9


def test_the_compressed_sources_still_hold_the_answer(index: Index, questions: list[Question]) -> None:
    kept = 0
    for question in questions:
        chunks = index.search(question.question, question.user).chunks
        sources = [compress(question.question, chunk) for chunk in chunks]
        for source, chunk in zip(sources, chunks, strict=True):
            assert len(source.removeprefix(f"{chunk.title}: ").split()) <= 45
        kept += any(" ".join(span.split()) in source for span in question.answers for source in sources)
    assert kept / len(questions) >= 0.8


def test_filtered_search_over_the_corpus_is_exact(index: Index, questions: list[Question]) -> None:
    chunks = list(index.chunks.values())
    rows = sentence_vectors(chunks, index.embedder)
    owner = [chunk for chunk in chunks for _ in chunk.sentences]
    users = sorted(index.users)
    for n, question in enumerate(questions[:40]):
        keys = index.permitted(users[n % len(users)]).keys
        vector = index.embedder.encode([question.question], persist=False)[0]
        best: dict[str, float] = {}
        for score, chunk in zip(rows @ vector, owner, strict=True):
            if chunk.doc_key in keys:
                best[chunk.id] = max(float(score), best.get(chunk.id, -1.0))
        exact = sorted(best.values(), reverse=True)[:10]
        assert [score for _, score in index.vectors.search(vector, keys, 10)] == pytest.approx(exact, abs=1e-5)


def test_hostile_documents_are_found_like_any_other(index: Index) -> None:
    """An injection test that never retrieves its document proves nothing."""
    for probe in load_hostile():
        document = index.documents[probe.doc]
        readers = [user for user in index.users.values() if decide(user, document, index.as_of).allowed]
        if readers:
            assert probe.doc in index.search(f"{document.title} {probe.planted[0]}", readers[0]).doc_keys


def test_a_deletion_leaves_nothing_behind(tmp_path: Path, questions: list[Question]) -> None:
    shared = default_embedder()
    embedder = SentenceEmbedder(folder=tmp_path / "vectors")
    embedder._compute = shared.encode  # type: ignore[method-assign,assignment]  # its own cache, no second computation
    index = Index.build(load_corpus(), embedder, audit_key=b"quality", path=tmp_path / "chroma")
    cache = AnswerCache(index)
    question = next(q for q in questions if q.kind == "article" and len(q.expected_docs) == 1)
    key, user = question.expected_docs[0], index.user(question.user)
    chunks = [chunk for chunk in index.chunks.values() if chunk.doc_key == key]
    before = index.search(question.question, user)
    assert key in before.doc_keys
    sources = tuple(compress(question.question, chunk, embedder=embedder) for chunk in before.chunks)
    rows = tmp_path / "rows.jsonl"
    row = {"id": question.id, "retrieved": before.chunk_ids, "sources": sources, "cited": before.chunk_ids[:1],
           "answer": f"[1] {chunks[0].sentences[0]}"}  # fmt: skip
    rows.write_text(json.dumps(row, ensure_ascii=False) + "\n")
    cache.put(Answer(row["answer"], before.chunk_ids[:1], (1,), False, sources, before.chunk_ids), "q", user)
    record = index.delete(key, artifacts=[rows], reason="test")
    assert record.complete
    assert all(counts["before"] > 0 for counts in record.stores.values()), record.stores
    for mode in MODES:
        for query in (question.question, chunks[0].text, chunks[-1].sentences[0]):
            assert key not in index.search(query, user, mode, k=20).doc_keys
    own = {s for c in chunks for s in c.sentences} - {s for c in index.chunks.values() for s in c.sentences}
    assert own
    assert not any(" ".join(sentence.split()) in rows.read_text() for sentence in own)
    assert SentenceEmbedder(folder=tmp_path / "vectors").known(own) == 0
    again = Index.build(load_corpus(), embedder, audit_key=b"quality", path=tmp_path / "chroma")
    assert key not in again.documents
    assert again.fingerprint == index.fingerprint
