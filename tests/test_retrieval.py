"""Chunking, embeddings, both search engines, access inside the search, revocation, audit, deletion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_world import AS_OF, BREACH, DOCUMENTS, USERS, corpus, document, metadata_strategy, user, users_strategy

from course_lib import embeddings
from course_lib.access import decide
from course_lib.chunking import GLOSSARY, chunk_document, expand_query, sections, split_sentences, terms
from course_lib.embeddings import SentenceEmbedder, default_embedder
from course_lib.errors import AccessDenied, DataError, ModelError, UsageError
from course_lib.retrieval import MODES, AuditLog, Index, Retrieval, sentence_vectors
from course_lib.stores import ExactStore, TermStore, VectorStore, reciprocal_rank_fusion

OFFICER, ANALYST, COUNSEL, HALDEN = "u-officer", "u-analyst", "u-counsel", "u-halden"


class HashedWords:
    """An embedder for tests: word counts hashed into 256 dimensions. Shared words mean similar vectors."""

    name = fingerprint = "hashed-words"

    def __init__(self) -> None:
        self.cached: set[str] = set()

    def encode(self, texts: Any, *, persist: bool = True) -> np.ndarray:
        rows = np.zeros((len(texts), 256), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for term in terms(text) or ("",):
                row[sum(term.encode()) * 31 % 256] += 1
        if persist:
            self.cached.update(texts)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def forget(self, texts: Any) -> int:
        found = self.cached & set(texts)
        self.cached -= found
        return len(found)

    def known(self, texts: Any) -> int:
        return len(self.cached & set(texts))


@pytest.fixture
def index() -> Iterator[Index]:
    built = Index.build(corpus(), HashedWords(), audit_key=b"k" * 32)
    yield built
    built.close()


# Chunking


def test_sentences_are_split_and_lose_nothing() -> None:
    text = 'Notify under Art. 33(1) of the GDPR.  The ratio is 4.5 % now. "Is it due?" It is, e.g. EUR 20 million. End'
    assert split_sentences(text) == [
        "Notify under Art. 33(1) of the GDPR.", "The ratio is 4.5 % now.", '"Is it due?"',
        "It is, e.g. EUR 20 million.", "End",
    ]  # fmt: skip


@given(st.text(alphabet="aB1 .?!\"'()\n-", max_size=200))
def test_splitting_keeps_every_character(text: str) -> None:
    assert " ".join(split_sentences(text)) == " ".join(text.split())


def test_chunks_keep_the_heading_path_and_never_cross_a_heading() -> None:
    chunks = chunk_document(document("breach-policy", BREACH, title="Breach policy"))
    assert [chunk.id for chunk in chunks] == ["breach-policy@1#00", "breach-policy@1#01", "breach-policy@1#02"]
    assert [chunk.heading for chunk in chunks] == ["", "Deadline", "Contact"]
    assert chunks[1].search_text.startswith("Breach policy > Deadline\n")
    assert chunks[2].sentences == ("Write to the privacy desk first.", "Call the duty officer at night.")


@given(
    st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), min_size=1, max_size=5),
    st.integers(5, 60), st.integers(0, 20),
)  # fmt: skip
def test_chunks_cover_the_text_in_order_without_cutting(shape: list[list[int]], max_words: int, overlap: int) -> None:
    overlap = min(overlap, max_words - 1)
    body = "\n\n".join(
        f"## Part {p}\n\n" + " ".join(" ".join(["W" + str(n)] * n) + f" s{p}x{i}." for i, n in enumerate(part))
        for p, part in enumerate(shape)
    )
    chunks = chunk_document(document("long", body), max_words, overlap)
    for p, (_, sentences) in enumerate(sections(body)):
        own = [chunk for chunk in chunks if chunk.heading == f"Part {p}"]
        seen = [sentence for chunk in own for sentence in chunk.sentences]
        assert list(dict.fromkeys(seen)) == sentences
        for earlier, later in pairwise(own):
            shared = [s for s in later.sentences if s in earlier.sentences]
            assert sum(len(s.split()) for s in shared) <= overlap
            assert set(later.sentences) - set(earlier.sentences), "a chunk must bring something new"
        for chunk in own:
            assert len(chunk.text.split()) <= max_words or len(chunk.sentences) == 1


@pytest.mark.parametrize(("max_words", "overlap"), [(10, 10), (10, -1), (0, 0)])
def test_an_overlap_that_never_advances_is_refused(max_words: int, overlap: int) -> None:
    with pytest.raises(UsageError):
        chunk_document(document("breach-policy", BREACH), max_words, overlap)


def test_article_numbers_survive_as_terms() -> None:
    found = terms("Article 33(1), Art. 9(2)(a), Regulation 2018/389, PSD2's 4.5 % and third-party risk")
    assert {"33(1)", "33", "9(2)(a)", "2018/389", "psd2", "4.5", "third-party", "third", "party"} <= set(found)
    assert "and" not in found
    assert "s" not in found


def test_a_query_is_not_expanded_to_forms_that_the_documents_do_not_need() -> None:
    documents = {"gdpr", "authority"}
    assert expand_query("What does the GDPR say?", documents) == "What does the GDPR say?"
    assert expand_query("General Data Protection Regulation", documents).endswith("(GDPR)")
    assert expand_query("When is SCA needed?", documents).endswith("(strong customer authentication)")
    assert expand_query("strong customer authentication", documents) == "strong customer authentication"


def test_a_query_is_expanded_both_ways_and_only_from_the_glossary() -> None:
    assert expand_query("When is SCA needed?") == "When is SCA needed? (strong customer authentication)"
    assert expand_query("strong customer authentication limits").endswith("(SCA)")
    assert expand_query("branch opening hours") == "branch opening hours"
    assert all(short == short.lower() and long == long.lower() for short, long in GLOSSARY.items())


# Embeddings


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> SentenceEmbedder:
    return SentenceEmbedder(folder=tmp_path_factory.mktemp("vectors"))


def test_the_pinned_model_measures_what_the_course_says(minilm: SentenceEmbedder) -> None:
    texts = ["I love programming", "I enjoy coding", "cat", "automobile"]
    rows = minilm.encode(texts)
    assert rows.shape == (4, 384)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[0] @ rows[1] == pytest.approx(0.82, abs=0.01)
    assert rows[2] @ rows[3] == pytest.approx(0.36, abs=0.01)


def test_the_disk_cache_answers_without_the_model(minilm: SentenceEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = minilm.encode(["a text that will be cached"])
    again = SentenceEmbedder(folder=minilm._folder)
    monkeypatch.setattr(embeddings, "_load", lambda name: pytest.fail("the model was loaded"))
    assert np.array_equal(again.encode(["a text that will be cached"]), rows)
    assert again.known(["a text that will be cached", "another"]) == 1


def test_a_query_is_not_written_to_disk(minilm: SentenceEmbedder) -> None:
    minilm.encode(["who may see the merger memo"], persist=False)
    assert SentenceEmbedder(folder=minilm._folder).known(["who may see the merger memo"]) == 0
    minilm.encode(["who may see the merger memo"])
    assert SentenceEmbedder(folder=minilm._folder).known(["who may see the merger memo"]) == 1


def test_a_damaged_vector_is_computed_again(minilm: SentenceEmbedder) -> None:
    good = minilm.encode(["soon damaged"]).copy()
    path = next(minilm.folder.rglob(f"{embeddings._key('soon damaged')}.f32"))
    assert path.stat().st_mode & 0o077 == 0, "vectors of a confidential text are for their owner alone"
    for content in (b"", b"not a vector", path.read_bytes()[:200]):
        path.write_bytes(content)
        assert np.allclose(SentenceEmbedder(folder=minilm._folder).encode(["soon damaged"]), good, atol=1e-5)


def test_several_writers_share_one_cache(tmp_path: Path) -> None:
    """Each reader sees no vector or a whole one, whoever writes it at the same time."""
    texts = [f"text {n}" for n in range(40)]

    def work(_: int) -> np.ndarray:
        own = SentenceEmbedder(folder=tmp_path)
        own._compute = HashedWords().encode  # type: ignore[method-assign,assignment]
        return np.concatenate([own.encode(texts[n : n + 10]) for n in (0, 10, 20, 30)])

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(24)))
    assert all(np.array_equal(rows, results[0]) for rows in results)
    assert SentenceEmbedder(folder=tmp_path).known(texts) == 40
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_cache_that_cannot_be_written_costs_only_the_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    own = SentenceEmbedder(folder=tmp_path / "file")
    own._compute = HashedWords().encode  # type: ignore[method-assign,assignment]
    assert own.encode(["text"]).shape == (1, 256)


def test_forgetting_reaches_memory_and_disk(minilm: SentenceEmbedder) -> None:
    minilm.encode(["to be forgotten", "to be kept"])
    assert minilm.forget(["to be forgotten", "never seen"]) == 1
    assert minilm.known(["to be forgotten"]) == 0
    assert SentenceEmbedder(folder=minilm._folder).known(["to be forgotten", "to be kept"]) == 1


def test_weights_that_are_not_pinned_are_refused() -> None:
    with pytest.raises(DataError, match="not the pinned ones"):
        embeddings._pinned_folder("0" * 64)


def test_a_model_that_cannot_be_reached_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import sentence_transformers

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", unreachable)
    with pytest.raises(ModelError, match="some/other-model"):
        default_embedder("some/other-model").encode(["text"])


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COURSE_CACHE_DIR", str(tmp_path))
    assert SentenceEmbedder().folder.is_relative_to(tmp_path / "embeddings")


# Search engines


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_the_exact_store_finds_what_chroma_finds(seed: int, n: int) -> None:
    draw = np.random.default_rng(seed)
    chunks = [chunk for doc in DOCUMENTS for chunk in chunk_document(doc)]
    vectors = draw.normal(size=(sum(len(chunk.sentences) for chunk in chunks), 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = {doc.key for doc in DOCUMENTS if draw.random() < 0.7}
    gone, asked = DOCUMENTS[int(draw.integers(len(DOCUMENTS)))].key, vectors[0] + 2 * vectors[-1]  # no tie
    stores = VectorStore(), ExactStore()
    for store in stores:
        store.add(chunks, vectors)
    for _ in range(2):
        chroma, exact = (store.search(asked / np.linalg.norm(asked), keys, n) for store in stores)
        assert [name for name, _ in exact] == [name for name, _ in chroma]
        assert [score for _, score in exact] == pytest.approx([score for _, score in chroma], abs=2e-6)
        assert len(stores[0].ids(gone)) == len(stores[1].ids(gone))
        for store in stores:
            store.remove(gone)
    stores[0].close()


def test_fusion_is_the_published_formula() -> None:
    fused = reciprocal_rank_fusion({"dense": ["a", "b"], "bm25": ["b", "c"]})
    assert [name for name, _ in fused] == ["b", "a", "c"]
    assert dict(fused)["b"] == pytest.approx(1 / 62 + 1 / 61)
    tied = reciprocal_rank_fusion({"dense": ["b", "a"], "bm25": ["a", "b"]})
    assert tied[0][0] == "a", "a tie goes to the smaller id"
    weighted = reciprocal_rank_fusion({"dense": ["a"], "bm25": ["b"]}, {"dense": 1.0, "bm25": 2.0})
    assert weighted[0][0] == "b"
    each = reciprocal_rank_fusion({"dense": ["a", "b"], "bm25": ["c", "b"]}, {"dense": 1.0, "bm25": {"b": 0.5, "c": 0}})
    assert dict(each) == pytest.approx({"a": 1 / 61, "b": 1 / 62 + 0.5 / 62, "c": 0.0})


def test_coverage_is_the_share_of_the_term_weight() -> None:
    store = TermStore()
    bodies = ("The cat sleeps.", "The cat eats fish.", "A dog barks.")
    store.add([chunk for n, body in enumerate(bodies) for chunk in chunk_document(document(f"d-{n}", body, title="X"))])
    covered = store.coverage("cat fish")
    assert covered["d-1@1#00"] == pytest.approx(1.0)
    assert 0 < covered["d-0@1#00"] < 0.5, "the rarer word weighs more"
    assert "d-2@1#00" not in covered
    assert store.coverage("cat unknown words")["d-0@1#00"] < 0.3
    assert store.coverage("") == {}


def test_filtered_vector_search_equals_exact_cosine() -> None:
    rng = np.random.default_rng(7)
    docs = [document(f"d-{i}", "One here. Two here.\n\n## Two\n\nAnother one. More.") for i in range(60)]
    chunks = [chunk for doc in docs for chunk in chunk_document(doc)]
    vectors = rng.normal(size=(2 * len(chunks), 32)).astype(np.float32)
    store = VectorStore()
    store.add(chunks, vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for _ in range(50):
        keys = {docs[i].key for i in rng.choice(60, size=rng.integers(1, 30), replace=False)}
        query = rng.normal(size=32).astype(np.float32)
        cosine = (unit @ (query / np.linalg.norm(query))).reshape(-1, 2).max(axis=1)
        exact = sorted(((float(cosine[i]), c.id) for i, c in enumerate(chunks) if c.doc_key in keys), reverse=True)[:5]
        found = store.search(query, keys, 5)
        assert [name for name, _ in found] == [name for _, name in exact]
        assert [score for _, score in found] == pytest.approx([score for score, _ in exact], abs=1e-5)
    store.close()


@pytest.mark.parametrize("mode", MODES)
def test_search_finds_the_obvious(index: Index, mode: Any) -> None:
    result = index.search("When is the authority notified under Article 33(1)?", ANALYST, mode)
    assert isinstance(result, Retrieval)
    assert result.chunk_ids[0] == "breach-policy@1#01"
    assert [hit.rank for hit in result.hits] == list(range(1, len(result.hits) + 1))


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 2), (None, 3)])
def test_the_number_of_chunks_of_one_document_is_limited(index: Index, limit: int | None, expected: int) -> None:
    index.ranking.per_document = limit
    keys = index.search("breach policy privacy desk", ANALYST, k=9).doc_keys
    assert keys.count("breach-policy@1") == expected


def test_a_keyword_hit_by_chance_does_not_count_in_the_fusion(index: Index) -> None:
    asked = "In which two months did the gardener prune seven apple trees?"
    assert index.search(asked, ANALYST, "bm25").doc_keys[0] == "psd2-note@1", "two is all they share"
    assert all(hit.bm25_rank is None for hit in index.search(asked, ANALYST).hits)
    exact = index.search("What does Art. 33(1) GDPR say?", ANALYST).hits[0]
    assert (exact.chunk.id, exact.bm25_rank) == ("breach-policy@1#01", 1)


def test_a_fused_score_is_rank_based_and_weighed_by_coverage(index: Index) -> None:
    asked = "notified within 72 hours of dawn"
    hit = index.search(asked, ANALYST).hits[0]
    share = index.terms.coverage(asked)[hit.chunk.id]
    assert 0.3 < share < 1
    assert hit.dense_rank is not None and hit.bm25_rank is not None
    assert hit.score == pytest.approx(1 / (60 + hit.dense_rank) + share / (60 + hit.bm25_rank))


def test_an_abbreviation_finds_its_long_form(index: Index) -> None:
    assert index.search("SCA", ANALYST, "bm25").doc_keys == ("psd2-note@1",)


def test_an_exact_article_is_not_drowned_by_its_neighbours() -> None:
    body = "Art. 33(2) and Art. 33(3) and Art. 33(4) GDPR.\n\n## Next\n\nArt. 33(1) GDPR is about an authority."
    built = Index.build(corpus((document("articles", body),)), HashedWords())
    assert built.search("Art. 33(1) GDPR", ANALYST, "bm25").chunk_ids[0] == "articles@1#01"
    assert built.terms._asked("Art. 33(1) GDPR") == ["article", "33(1)", "gdpr"]
    assert built.search("Art. 33 GDPR", ANALYST, "bm25").chunk_ids[0] == "articles@1#00"
    assert len(built.search("Art. 33(9)", ANALYST, "bm25").hits) == 2, "an unknown paragraph falls back to its article"


def test_a_sentence_vector_lies_between_the_sentence_and_its_chunk() -> None:
    chunks = chunk_document(document("breach-policy", BREACH))
    model = HashedWords()
    rows = sentence_vectors(chunks, model)
    assert rows.shape == (sum(len(chunk.sentences) for chunk in chunks), 256)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    alone, whole = model.encode([chunks[-1].sentences[-1], chunks[-1].search_text])
    last = rows[-1]
    assert min(last @ alone, last @ whole) >= alone @ whole
    assert last @ alone == pytest.approx(float(last @ whole), abs=1e-5)


@pytest.mark.parametrize("query", ["", "   ", "\n"])
def test_an_empty_query_finds_nothing_and_is_audited(index: Index, query: str) -> None:
    assert index.search(query, ANALYST).hits == ()


@pytest.mark.parametrize("query", ["??!", "zzzz", "'; DROP TABLE chunks", "\x00", "漢字", "a" * 5000, "\ud800"])
@pytest.mark.parametrize("mode", MODES)
def test_odd_queries_do_not_break(index: Index, query: str, mode: Any) -> None:
    assert len(index.search(query, ANALYST, mode).hits) <= 3


def test_wrong_arguments_are_named(index: Index) -> None:
    with pytest.raises(UsageError):
        index.search("x", ANALYST, "sparse")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        index.search("x", ANALYST, k=0)
    for nobody in ("u-nobody", "", None, 7, object()):
        with pytest.raises(AccessDenied):
            index.search("x", nobody)  # type: ignore[arg-type]


def test_two_builds_are_equal_and_the_fingerprint_follows_content() -> None:
    first, second = (Index.build(corpus(), HashedWords()) for _ in range(2))
    other = Index.build(corpus(), HashedWords(), max_words=40)
    assert first.fingerprint == second.fingerprint != other.fingerprint
    before = first.fingerprint
    first.set_document(DOCUMENTS[0].model_copy(update={"status": "withdrawn"}))
    assert first.fingerprint == before
    first.add(document("new-note", "# New note\n\nSomething new."))
    assert first.fingerprint != before


def test_a_key_cannot_stand_twice(index: Index) -> None:
    with pytest.raises(DataError, match="breach-policy@1"):
        index.add(document("breach-policy", "Another text."))
    with pytest.raises(DataError):
        Index.build(corpus((*DOCUMENTS, DOCUMENTS[0])), HashedWords())


def test_an_index_on_disk_holds_no_text(tmp_path: Path) -> None:
    built = Index.build(corpus(), HashedWords(), path=tmp_path / "chroma")
    assert built.search("merger price", OFFICER).chunk_ids[0] == "merger-memo@1#00"
    content = b"".join(path.read_bytes() for path in (tmp_path / "chroma").rglob("*") if path.is_file())
    assert b"merger-memo@1" in content
    assert b"Harbour" not in content


# Access inside the search


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("asker", [asker.id for asker in USERS])
def test_every_question_about_every_document_stays_inside_the_permission(index: Index, asker: str, mode: Any) -> None:
    for doc in DOCUMENTS:
        result = index.search(doc.body, asker, mode, k=20)
        for chunk in result.chunks:
            assert decide(index.users[asker], index.documents[chunk.doc_key], AS_OF).allowed
        if decide(index.users[asker], doc, AS_OF).allowed:
            assert doc.key in result.doc_keys


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(metadata_strategy, min_size=1, max_size=8), st.lists(users_strategy, min_size=1, max_size=3),
    st.lists(st.sampled_from(["breach", "merger", "33(1)", "euro", "desk", "halden", "appeal"]), min_size=1),
    st.sampled_from(MODES), st.integers(1, 30),
)  # fmt: skip
def test_no_chunk_outside_the_decision_for_random_documents_users_and_queries(
    fields: list[dict[str, Any]], askers: list[Any], words: list[str], mode: Any, k: int
) -> None:
    docs = tuple(document(f"doc-{i}", DOCUMENTS[i % len(DOCUMENTS)].body, **f) for i, f in enumerate(fields))
    built = Index.build(corpus(docs), HashedWords())
    for asker in askers:
        allowed = {doc.key for doc in docs if decide(asker, doc, AS_OF).allowed}
        result = built.search(" ".join(words), asker, mode, k)
        assert set(result.doc_keys) <= allowed
        assert result.audit.allowed == len(allowed)
        assert sum(result.audit.denied.values()) == len(docs) - len(allowed)
        if mode == "dense":
            assert set(result.doc_keys) == allowed or len(result.hits) == k
    built.close()


def test_the_engines_are_never_asked_for_a_forbidden_document(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[str]] = []

    def spy(real: Any) -> Any:
        return lambda query, keys, *rest: asked.append(set(keys)) or real(query, keys, *rest)

    for store in (index.vectors, index.terms):
        monkeypatch.setattr(store, "search", spy(store.search))
    index.search("merger price", ANALYST)
    assert asked == [{"breach-policy@1", "card-limits@1", "psd2-note@1"}] * 2


def test_an_engine_that_ignores_its_filter_is_stopped(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index.terms, "search", lambda query, keys, *n: [("merger-memo@1#00", 9.0)])
    with pytest.raises(AccessDenied):
        index.search("merger price", ANALYST, "bm25")


def test_a_withdrawn_document_is_gone_at_the_next_query(index: Index) -> None:
    asked = "When is the authority notified?"
    assert "breach-policy@1" in index.search(asked, ANALYST).doc_keys
    index.set_document(index.documents["breach-policy@1"].model_copy(update={"status": "withdrawn"}))
    assert "breach-policy@1" not in index.search(asked, ANALYST).doc_keys
    index.set_document(index.documents["breach-policy@1"].model_copy(update={"status": "approved"}))
    assert "breach-policy@1" in index.search(asked, ANALYST).doc_keys


def test_a_user_who_loses_a_group_loses_the_documents(index: Index) -> None:
    assert "merger-memo@1" in index.search("Harbour Ledger price", OFFICER).doc_keys
    index.set_user(index.users[OFFICER].model_copy(update={"groups": ("all-staff",)}))
    result = index.search("Harbour Ledger price", OFFICER)
    assert "merger-memo@1" not in result.doc_keys
    assert result.audit.denied["groups"] == 1


def test_metadata_can_change_but_text_cannot(index: Index) -> None:
    with pytest.raises(DataError):
        index.set_document(document("breach-policy", "Another text."))
    with pytest.raises(DataError):
        index.set_document(document("unknown", "Text."))


# Audit


def test_the_audit_holds_counts_and_ids_and_no_text(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    built = Index.build(corpus(), HashedWords(), audit_key=b"k" * 32, audit_log=log)
    question = "Harbour Ledger purchase price in euros"
    built.search(question, ANALYST, request_id="r-1")
    built.search("  harbour ledger PURCHASE price in euros ", OFFICER, "bm25")
    text = log.path.read_text()
    first, second = map(json.loads, text.splitlines())
    assert (first["request_id"], second["request_id"]) == ("r-1", "q-000002")
    assert first["query_hmac"] == second["query_hmac"] != built.query_hmac("another question")
    assert first["denied"] == {"approved_source": 1, "classification": 2, "freshness": 1, "status": 1, "tenant": 1}
    assert second["returned"] == ["merger-memo@1#00"]
    assert (first["user"], first["tenant"], first["mode"], first["allowed"]) == (ANALYST, "meridian", "hybrid", 3)
    assert first["index"] == built.fingerprint
    for word in [*question.lower().split(), "acquiring", "harbour ledger", "90 million"]:
        if len(word) > 3:
            assert word not in text.lower()


def test_the_query_hash_needs_the_key() -> None:
    first, second, third = (Index.build(corpus(), HashedWords(), audit_key=key) for key in (b"a", b"a", None))
    hashes = [built.query_hmac("who leaves in March") for built in (first, second, third)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_equal_runs_write_equal_audit_files_and_a_clock_is_optional(tmp_path: Path) -> None:
    for name in ("a", "b"):
        built = Index.build(corpus(), HashedWords(), audit_key=b"k", audit_log=AuditLog(tmp_path / name))
        for asker in (ANALYST, OFFICER, HALDEN):
            built.search("breach deadline", asker)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    built.audit_log = AuditLog(tmp_path / "c", clock=lambda: "2026-11-01T09:00:00Z")
    built.search("breach deadline", ANALYST)
    assert json.loads((tmp_path / "c").read_text())["at"] == "2026-11-01T09:00:00Z"


# Deletion


@pytest.fixture
def artifacts(tmp_path: Path) -> list[Path]:
    quoted = "The purchase of Harbour Ledger closes in March for EUR 90 million."
    rows = [
        {"id": "a", "retrieved": ["merger-memo@1#00", "psd2-note@1#00"], "cited": ["merger-memo@1#00"],
         "sources": [f"Merger memo: {quoted}", "Strong authentication: Two of three."], "answer": "[1] In March."},
        {"id": "b", "retrieved": ["psd2-note@1#00"], "cited": ["psd2-note@1#00"], "sources": ["Two of three."],
         "answer": "[1] Two of three."},
        {"id": "c", "deep": {quoted: 1, "list": [f"He said: the  purchase of\nHarbour ledger {quoted[30:]} So."]}},
    ]  # fmt: skip
    files = [tmp_path / "rows.jsonl", tmp_path / "results.json", tmp_path / "notes.md"]
    files[0].write_bytes("".join(json.dumps(row) + "\r\n" for row in rows).encode())
    files[1].write_text(json.dumps({"failed": [{"reason": quoted}]}, indent=2))
    files[2].write_text(f"# Notes\n\n> {quoted.replace(' closes', chr(10) + '> closes')}\n\n{quoted}\n")
    return files


def test_deletion_reaches_everything_and_proves_it(index: Index, artifacts: list[Path]) -> None:
    chunk = index.chunks["merger-memo@1#00"]
    untouched = artifacts[0].read_bytes().splitlines()[1]
    record = index.delete("merger-memo@1", artifacts=artifacts, reason="request of the owner")
    assert record.complete
    assert {name: dict(counts) for name, counts in record.stores.items()} == {
        "chroma": {"before": 1, "after": 0}, "bm25": {"before": 1, "after": 0},
        "embedding_cache": {"before": 2, "after": 0}, "answer_cache": {"before": 0, "after": 0},
        "artifact:rows.jsonl": {"before": 2, "after": 0}, "artifact:results.json": {"before": 1, "after": 0},
        "artifact:notes.md": {"before": 2, "after": 0},
    }  # fmt: skip
    rows = [json.loads(line) for line in artifacts[0].read_text().splitlines()]
    assert rows[0]["sources"] == ["[deleted]", "Strong authentication: Two of three."]
    assert rows[0]["answer"] == "[deleted]"
    assert rows[0]["retrieved"] == ["merger-memo@1#00", "psd2-note@1#00"]
    assert "Harbour" not in json.dumps(rows[2])
    assert artifacts[0].read_bytes().splitlines()[1] == untouched
    assert index.embedder.known([chunk.search_text]) == 0  # type: ignore[attr-defined]
    for mode in MODES:
        assert "merger-memo@1" not in index.search("Harbour Ledger price", OFFICER, mode, k=20).doc_keys
    assert "Harbour" not in json.dumps(record.to_dict())
    assert [path.name for path in artifacts[0].parent.iterdir() if path.name.startswith(".")] == []


def test_a_deleted_version_does_not_come_back(index: Index, tmp_path: Path) -> None:
    merger = index.documents["merger-memo@1"]
    index.delete("merger-memo@1")
    with pytest.raises(DataError, match="was deleted"):
        index.add(merger)
    with pytest.raises(DataError, match="was deleted"):
        index.add(document("renamed-memo", merger.body.replace(" ", "  ").upper()))
    with pytest.raises(DataError):
        index.delete("merger-memo@1")
    index.add(document("merger-memo", "# Merger memo\n\nThe purchase was called off.", version=2))
    assert "merger-memo@2" in index.search("merger purchase", ANALYST).doc_keys


def test_tombstones_on_disk_survive_a_rebuild_from_the_corpus(tmp_path: Path) -> None:
    first = Index.build(corpus(), HashedWords(), path=tmp_path)
    first.delete("merger-memo@1")
    second = Index.build(corpus(), HashedWords(), path=tmp_path)
    assert "merger-memo@1" not in second.documents
    assert len(second.documents) == len(DOCUMENTS) - 1
    (tmp_path / "tombstones.json").write_text("{")
    with pytest.raises(DataError, match="deleted versions"):
        Index.build(corpus(), HashedWords(), path=tmp_path)


def test_what_another_version_still_says_is_kept(tmp_path: Path) -> None:
    shared = "The desk keeps a record of every breach."
    docs = (
        document("policy", f"# Policy\n\n{shared} The old limit was ten days in all."),
        document("policy", f"# Policy\n\n{shared} The new limit is five days in all.", version=2),
    )
    built = Index.build(corpus(docs), HashedWords())
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"answer": f"{shared} The old limit was ten days in all."}) + "\n")
    assert built.delete("policy@1", artifacts=[rows]).complete
    assert json.loads(rows.read_text())["answer"] == f"{shared} [deleted]"
    assert built.search("limit days", ANALYST).doc_keys == ("policy@2",)


def test_a_wrong_artifact_stops_the_deletion_before_anything_changes(index: Index, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        index.delete("merger-memo@1", artifacts=[tmp_path / "absent.jsonl"])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="Two artifacts have one name"):
        index.delete("merger-memo@1", artifacts=[tmp_path / "a" / "rows.jsonl", tmp_path / "b" / "rows.jsonl"])
    assert "merger-memo@1" in index.search("Harbour Ledger price", OFFICER).doc_keys


@pytest.mark.parametrize("content", [b"{broken Harbour\n", b"\xff\xfe\n", b"", b"[1, 2]\nnull\n", b'{"a": NaN}\n'])
def test_odd_artifacts_are_left_as_they_are(index: Index, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_bytes(content)
    assert index.delete("merger-memo@1", artifacts=[path]).complete
    assert path.read_bytes() == content


def test_small_world_covers_every_rule() -> None:
    rules = {decide(asker, doc, AS_OF).rule for asker in USERS for doc in small_world.DOCUMENTS}
    assert rules >= {"allowed", "tenant", "status", "approved_source", "freshness", "classification", "groups"}
    assert user().tenant == "meridian"
