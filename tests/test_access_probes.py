"""Ten thousand random questions by random users over the real corpus: searches, remembered answers, after revocations.

The judge is a second writing of the policy, not the function under test.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from course_lib.chunking import sections
from course_lib.corpus import Corpus, Document, User, load_corpus
from course_lib.embeddings import default_embedder
from course_lib.rag import Answer, AnswerCache
from course_lib.retrieval import MODES, Index

PROBES = 10_000
LEVELS = ["public", "internal", "confidential", "restricted", "privileged"]


def may_read(user: User, doc: Document, corpus: Corpus) -> bool:
    """The policy as one expression, written apart from course_lib.access."""
    reach = LEVELS.index(user.clearance)
    if user.clearance == "restricted" and "legal" in user.groups:
        reach += 1
    return all([
        doc.tenant in (user.tenant, "shared"), doc.status == "approved", doc.approved_source,
        doc.fresh_until >= corpus.as_of, doc.retention_until >= corpus.as_of,
        LEVELS.index(doc.classification) <= reach, bool({*user.groups} & {*doc.groups}),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


@pytest.fixture
def index(corpus: Corpus) -> Iterator[Index]:
    built = Index.build(corpus, default_embedder(), audit_key=b"probe")
    yield built
    built.close()


@pytest.fixture(scope="module")
def queries(corpus: Corpus) -> list[str]:
    """Titles and sentences of all documents, most of them of documents that some user may not read."""
    rng = random.Random(6)
    sentences = [s for doc in corpus.documents for _, part in sections(doc.body) for s in part]
    pool = [doc.title for doc in corpus.documents] + rng.sample(sentences, min(150, len(sentences)))
    default_embedder().encode(pool, persist=False)
    return pool


def random_user(rng: random.Random, corpus: Corpus) -> User:
    if rng.random() < 0.4:
        return rng.choice(corpus.users)
    return User(
        id="u-random", role="role", tenant=rng.choice(["meridian", "halden", "elsewhere"]),
        clearance=rng.choice(LEVELS[:4]), groups=tuple(rng.sample(sorted(corpus.groups), rng.randint(1, 5))),
    )  # fmt: skip


def revoke(rng: random.Random, index: Index, corpus: Corpus) -> None:
    """One change of the kind that happens in an office: a version withdrawn or restored, a user who moves."""
    if rng.random() < 0.6:
        doc = index.documents[rng.choice(sorted(index.documents))]
        changes: list[dict[str, Any]] = [
            {"status": rng.choice(["withdrawn", "approved"])}, {"groups": (rng.choice(sorted(corpus.groups)),)},
            {"classification": rng.choice(LEVELS)}, {"fresh_until": corpus.as_of.replace(day=rng.randint(1, 28))},
        ]  # fmt: skip
        index.set_document(doc.model_copy(update=rng.choice(changes)))
    else:
        user = index.users[rng.choice(sorted(index.users))]
        groups = tuple(rng.sample(sorted(corpus.groups), rng.randint(1, 4)))
        index.set_user(user.model_copy(update={"groups": groups, "clearance": rng.choice(LEVELS[:4])}))


def test_no_search_shows_a_forbidden_chunk(index: Index, corpus: Corpus, queries: list[str]) -> None:
    rng = random.Random(1)
    leaks, found, denied = 0, 0, Counter()  # type: ignore[var-annotated]
    for _ in range(PROBES):
        user = random_user(rng, corpus)
        result = index.search(rng.choice(queries), user, rng.choice(MODES), k=rng.choice([1, 3, 10]))
        leaks += sum(not may_read(user, corpus.document(key), corpus) for key in result.doc_keys)
        found += len(result.hits)
        denied.update(result.audit.denied)
    assert leaks == 0
    assert found > PROBES, "the probes must find something, or they prove nothing"
    assert {"tenant", "status", "freshness", "classification", "groups"} <= set(denied)


def test_no_remembered_answer_and_no_search_after_a_revocation_leaks(
    index: Index, corpus: Corpus, queries: list[str]
) -> None:
    rng = random.Random(2)
    pool = rng.sample(queries, 12)
    cache = AnswerCache(index, max_entries=5000)
    leaks = cached = searched = 0
    for step in range(PROBES):
        if step % 100 == 0:
            revoke(rng, index, corpus)
        user = index.users[rng.choice(sorted(index.users))]
        question = rng.choice(pool)
        result = cache.get(question, user)
        cached += result is not None
        if result is None:
            names = index.search(question, user.id).chunk_ids
            searched += 1
            result = Answer("[1] x", names[:1], (1,), False, tuple("x" * len(names)), names)
            cache.put(result, question, user)
        leaks += sum(not may_read(user, index.documents[name.rpartition("#")[0]], corpus) for name in result.source_ids)
    assert leaks == 0
    assert cached > PROBES // 4, "answers must come from the cache, or the test proves nothing about it"
    assert searched > PROBES // 20
    assert cache.denied, "some remembered answers must have been refused on reading"
