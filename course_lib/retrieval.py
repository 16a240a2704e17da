"""Search that knows who asks: vectors and terms over the chunks a user may read, fused by reciprocal rank.

The order never changes: decide which documents the user may read, then search only those. Nothing forbidden is ranked
and thrown away afterwards, because what was never found cannot be counted, cached, logged or shown by mistake.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from course_lib.access import Allowance, allowance, decide
from course_lib.audit import AuditLog, AuditRecord
from course_lib.chunking import Chunk, chunk_document, expand_query
from course_lib.deletion import DeletionRecord, Tombstones, delete_document
from course_lib.embeddings import Embedder, default_embedder
from course_lib.errors import AccessDenied, DataError, UsageError
from course_lib.measure import hit_at_k, mrr, ndcg_at_k, recall_at_k
from course_lib.stores import ExactStore, TermStore, VectorStore, reciprocal_rank_fusion

if TYPE_CHECKING:
    import numpy as np

    from course_lib.corpus import Corpus, Document, User
    from course_lib.rag import AnswerCache

__all__ = [
    "MODES", "AuditLog", "AuditRecord", "Chunk", "DeletionRecord", "Hit", "Index", "Retrieval", "chunk_document",
    "hit_at_k", "mrr", "ndcg_at_k", "recall_at_k", "reciprocal_rank_fusion", "sentence_vectors",
]  # fmt: skip

Mode = Literal["dense", "bm25", "hybrid"]
MODES: tuple[Mode, ...] = ("dense", "bm25", "hybrid")


@dataclass(frozen=True, slots=True)
class Hit:
    """One retrieved chunk. score: cosine similarity, BM25 score or fused score, by mode; ranks count from 1."""

    chunk: Chunk
    rank: int
    score: float
    dense_rank: int | None = None
    bm25_rank: int | None = None


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Chunks in rank order, with who asked, in which mode, and the audit record of the search."""

    query: str
    user: User
    mode: Mode
    k: int
    hits: tuple[Hit, ...]
    audit: AuditRecord

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        return tuple(hit.chunk for hit in self.hits)

    @property
    def chunk_ids(self) -> tuple[str, ...]:
        return tuple(hit.chunk.id for hit in self.hits)

    @property
    def doc_keys(self) -> tuple[str, ...]:
        """Document keys in rank order; a document with two chunks stands there twice."""
        return tuple(hit.chunk.doc_key for hit in self.hits)


@dataclass(slots=True)
class Ranking:
    """How candidates become results; chosen on the development questions.

    per_document: most chunks of one document among the results, None for no limit. weights: of the two rankings in the
    fusion. candidates: how deep each ranking is read. min_coverage: in the fusion a keyword hit counts by the share of
    the question's term weight that it holds, and not at all below this share. A paraphrase has few words in common with
    its answer, and what has one of them by chance would only push the good neighbours down.
    """

    per_document: int | None = 2
    dense_weight: float = 1.0
    bm25_weight: float = 1.0
    candidates: int = 50
    min_coverage: float = 0.3


def sentence_vectors(chunks: Sequence[Chunk], embedder: Embedder) -> np.ndarray:
    """One vector per sentence: halfway between the sentence alone and its chunk with title and headings.

    A chunk of several facts has one blurred vector, a sentence alone has lost its topic; halfway keeps both. float32,
    shape (sentences of all chunks, dimension), each of length 1.
    """
    import numpy as np

    owners = [n for n, chunk in enumerate(chunks) for _ in chunk.sentences]
    whole = embedder.encode([chunk.search_text for chunk in chunks])
    mixed = whole[owners] + embedder.encode([sentence for chunk in chunks for sentence in chunk.sentences])
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


class Index:
    """Chunks of a corpus, searched under the permissions of the asker. Make one with ``Index.build``.

    Text stays in memory; Chroma holds vectors, chunk ids and document keys. One process writes an index at a time.
    """

    def __init__(
        self, embedder: Embedder, as_of: date, max_words: int, overlap: int, *,
        path: Path | None = None, audit_key: bytes | None = None,
        audit_log: Callable[[AuditRecord], None] | None = None, exact: bool = False,
    ) -> None:  # fmt: skip
        self.embedder, self.as_of, self.max_words, self.overlap = embedder, as_of, max_words, overlap
        self.documents: dict[str, Document] = {}
        self.users: dict[str, User] = {}
        self.chunks: dict[str, Chunk] = {}
        self.caches: list[AnswerCache] = []
        self.ranking = Ranking()
        self.decide, self.fuse = decide, reciprocal_rank_fusion  # the lab puts the learner's own in their place
        self.audit_log = audit_log
        self.tombstones = Tombstones(path / "tombstones.json" if path else None)
        self.vectors, self.terms = ExactStore() if exact else VectorStore(path), TermStore()
        self.fingerprint = ""
        self._audit_key = audit_key or secrets.token_bytes(32)
        self._requests = 0

    @classmethod
    def build(
        cls, corpus: Corpus, embedder: Embedder | None = None, max_words: int = 90, overlap: int = 15,
        path: Path | str | None = None, *, audit_key: bytes | None = None,
        audit_log: Callable[[AuditRecord], None] | None = None, exact: bool = False,
    ) -> Index:  # fmt: skip
        """Index of every document of ``corpus``, whatever its status: access is decided at query time.

        path: a folder that Chroma keeps to itself; in memory without it. audit_key: secret of the query hashes, random
        without it; a fixed one makes audit records repeatable. exact: no Chroma, every row is compared, in memory only.
        Versions that were deleted under ``path`` stay out.
        Raises DataError for two documents with one key.
        """
        folder, embedder = Path(path) if path else None, embedder or default_embedder()
        index = cls(embedder, corpus.as_of, max_words, overlap, path=folder, audit_key=audit_key, audit_log=audit_log,
                    exact=exact)  # fmt: skip
        index.users = {user.id: user for user in corpus.users}
        index._add([document for document in corpus.documents if not index.tombstones.covers(document)])
        return index

    def add(self, document: Document) -> None:
        """Adds one version. Raises DataError when its key is taken, or it was deleted, under this or another key."""
        self.tombstones.refuse(document)
        self._add([document])

    def set_document(self, document: Document) -> None:
        """Replaces the metadata of a version (status, groups, dates); counts from the next query, nothing is indexed.

        Raises DataError when the version is unknown or its text differs: new text is a new version.
        """
        known = self.documents.get(document.key)
        if known is None or (known.body, known.title) != (document.body, document.title):
            raise DataError(f"{document.key} is not in the index with this text.", where="Index.set_document",
                            fix="Add a changed text as a new version.")  # fmt: skip
        self.documents[document.key] = document

    def set_user(self, user: User) -> None:
        """Replaces what the index knows of a user; counts from the next query that names the user by id."""
        self.users[user.id] = user

    def user(self, user: User | str) -> User:
        """The current record for an id. A record is taken as it is: whoever passes it has authenticated it."""
        if not isinstance(user, str) and isinstance(getattr(user, "id", None), str):
            return user
        if not isinstance(user, str) or user not in self.users:
            raise AccessDenied("This user is unknown.", where="Index.user", fix="Use an id from users.yaml.")
        return self.users[user]

    def permitted(self, user: User | str) -> Allowance:
        """What ``user`` may read right now, decided again at every call."""
        return allowance(self.user(user), self.documents.values(), self.as_of, self.decide)

    def search(
        self, query: str, user: User | str, mode: Mode = "hybrid", k: int = 3, request_id: str | None = None
    ) -> Retrieval:
        """The best ``k`` chunks among the documents that ``user`` may read now; see ``Ranking`` for the details.

        mode: ``dense`` (cosine), ``bm25``, or ``hybrid`` (reciprocal rank fusion of both, k = 60). Fewer hits, or none,
        when less is allowed or no term matches. Raises UsageError for an unknown mode or k < 1, AccessDenied for an
        unknown user id.
        """
        if mode not in MODES or k < 1:
            raise UsageError(f"Cannot search with mode {mode!r} and k={k}.", where="Index.search",
                             fix=f"Choose one of {', '.join(MODES)} and k of at least 1.")  # fmt: skip
        query = query.encode("utf-8", "replace").decode()  # lone surrogates reach neither tokenizer nor log
        asker = self.user(user)
        permitted = self.permitted(asker)
        hits = self._rank(query, permitted.keys, mode, k)
        if any(hit.chunk.doc_key not in permitted.keys for hit in hits):
            raise AccessDenied("A search engine returned a chunk outside its filter.", where="Index.search",
                               fix="Do not use this index; report the query id.")  # fmt: skip
        self._requests += 1
        record = AuditRecord(
            request_id or f"q-{self._requests:06d}", self.query_hmac(query), str(asker.id), str(asker.tenant), mode, k,
            len(permitted.keys), permitted.denied, tuple(hit.chunk.id for hit in hits), self.fingerprint,
        )  # fmt: skip
        if self.audit_log is not None:
            self.audit_log(record)
        return Retrieval(query, asker, mode, k, hits, record)

    def query_hmac(self, query: str) -> str:
        """HMAC-SHA-256 of the query (case and spacing ignored) under the secret of this index, as hex."""
        flat = " ".join(query.split()).casefold().encode("utf-8", "replace")
        return hmac.new(self._audit_key, flat, "sha256").hexdigest()

    def delete(self, doc_key: str, *, artifacts: Iterable[Path | str] = (), reason: str = "") -> DeletionRecord:
        """Removes a version from both engines, the embedding cache, the answer caches and the given files.

        The record proves it with counts before and after; see ``course_lib.deletion``.
        """
        return delete_document(self, doc_key, [Path(path) for path in artifacts], reason)

    def close(self) -> None:
        """Gives the memory of the collection back. The index cannot be searched afterwards."""
        self.vectors.close()

    def _rank(self, query: str, keys: frozenset[str], mode: Mode, k: int) -> tuple[Hit, ...]:
        if not query.strip() or not keys:
            return ()
        asked, depth = expand_query(query, self.terms.vocabulary), max(self.ranking.candidates, k)
        found: dict[str, list[tuple[str, float]]] = {}
        if mode != "bm25":
            found["dense"] = self.vectors.search(self.embedder.encode([asked], persist=False)[0], keys, depth)
        if mode != "dense":
            found["bm25"] = self.terms.search(asked, keys, depth)
        ranked = self._fuse(asked, found) if mode == "hybrid" else found[mode]
        ranks = {name: {chunk_id: n for n, (chunk_id, _) in enumerate(pairs, 1)} for name, pairs in found.items()}
        return tuple(
            Hit(self.chunks[name], rank, score, ranks.get("dense", {}).get(name), ranks.get("bm25", {}).get(name))
            for rank, (name, score) in enumerate(self._limit(ranked, k), 1)
        )

    def _fuse(self, asked: str, found: dict[str, list[tuple[str, float]]]) -> list[tuple[str, float]]:
        """Reciprocal rank fusion; drops the keyword hits below ``min_coverage`` from ``found``."""
        covered = self.terms.coverage(asked)
        found["bm25"] = [pair for pair in found["bm25"] if covered[pair[0]] >= self.ranking.min_coverage]
        by_coverage = {name: self.ranking.bm25_weight * covered[name] for name, _ in found["bm25"]}
        orders = {mode: [name for name, _ in pairs] for mode, pairs in found.items()}
        return self.fuse(orders, {"dense": self.ranking.dense_weight, "bm25": by_coverage})

    def _limit(self, ranked: Sequence[tuple[str, float]], k: int) -> list[tuple[str, float]]:
        most, taken, kept = self.ranking.per_document or k, {}, []
        for name, score in ranked:
            key = self.chunks[name].doc_key
            taken[key] = taken.get(key, 0) + 1
            if taken[key] <= most and len(kept) < k:
                kept.append((name, score))
        return kept

    def _add(self, documents: Sequence[Document]) -> None:
        keys = [document.key for document in documents]
        doubled = {key for key in keys if keys.count(key) > 1 or key in self.documents}
        if doubled:
            raise DataError(f"Two documents have the key {min(doubled)}.", where="Index.add",
                            fix="Raise the version of one of them.")  # fmt: skip
        chunks = [chunk for doc in documents for chunk in chunk_document(doc, self.max_words, self.overlap)]
        if chunks:
            self.vectors.add(chunks, sentence_vectors(chunks, self.embedder))
            self.terms.add(chunks)
        self.chunks.update((chunk.id, chunk) for chunk in chunks)
        self.documents.update(zip(keys, documents, strict=True))
        self._stamp()

    def remove_from_search(self, doc_key: str) -> None:
        """Takes a version out of both engines only. ``delete`` is what a data subject or an owner asks for."""
        self.documents.pop(doc_key, None)
        self.vectors.remove(doc_key)
        self.terms.remove(doc_key)
        self.chunks = {name: chunk for name, chunk in self.chunks.items() if chunk.doc_key != doc_key}
        self._stamp()

    def _stamp(self) -> None:
        """The fingerprint covers model, chunking and every indexed text, and no permission: those are decided live."""
        state = [self.embedder.fingerprint, self.max_words, self.overlap]
        state += [[name, chunk.search_text] for name, chunk in sorted(self.chunks.items())]
        self.fingerprint = hashlib.sha256(json.dumps(state).encode()).hexdigest()
