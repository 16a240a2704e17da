"""The two search engines under an index: Chroma for vectors, bm25s for terms. Both search only what they are told to.

Every search takes the document keys that the asker may read, and neither engine looks at any other row.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.chunking import Chunk, terms

if TYPE_CHECKING:
    import numpy as np

RRF_K = 60
ROWS_PER_CHUNK = 4
_PREFIX = "course-"


def _client(path: Path | None) -> Any:
    import chromadb
    from chromadb.config import Settings

    quiet = Settings(anonymized_telemetry=False)
    if path is None:
        return chromadb.EphemeralClient(quiet)
    path.mkdir(parents=True, exist_ok=True)
    client = chromadb.PersistentClient(str(path), settings=quiet)
    for old in client.list_collections():
        if old.name.startswith(_PREFIX):
            client.delete_collection(old.name)
    return client


class VectorStore:
    """A Chroma collection with cosine distance: one row per sentence of a chunk, with ids and vectors and no text.

    A chunk is as near to a query as its nearest row. In-memory collections of one process share a client, so each has a
    name of its own. With ``path`` the folder belongs to this store: collections of an earlier run are dropped first.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._client = _client(path)
        # The default space of Chroma is squared L2. At this size a wide search keeps filtered results exact.
        space = {"hnsw": {"space": "cosine", "ef_search": 500, "ef_construction": 200}}
        self._collection = self._client.create_collection(
            _PREFIX + uuid.uuid4().hex, configuration=space, embedding_function=None
        )

    def add(self, chunks: Sequence[Chunk], vectors: np.ndarray) -> None:
        """vectors: float32, shape (rows, dimension); one row per sentence of each chunk, in order."""
        rows = [(f"{chunk.id}.{n:03d}", chunk.doc_key) for chunk in chunks for n in range(len(chunk.sentences))]
        batch = self._client.get_max_batch_size()
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            self._collection.add(
                ids=[name for name, _ in part],
                embeddings=vectors[start : start + batch],
                metadatas=[{"doc_key": key} for _, key in part],
            )

    def remove(self, doc_key: str) -> None:
        self._collection.delete(where={"doc_key": doc_key})

    def ids(self, doc_key: str) -> list[str]:
        """The rows of a document that the collection holds now."""
        return sorted(self._collection.get(where={"doc_key": doc_key}, include=[])["ids"])

    def search(self, vector: np.ndarray, keys: Collection[str], n: int) -> list[tuple[str, float]]:
        """At most ``n`` pairs (chunk id, cosine similarity) from the documents ``keys``, best first.

        Reads the best ``ROWS_PER_CHUNK * n`` rows, so that fewer than ``n`` chunks can come back.
        """
        if not keys:
            return []
        found = self._collection.query(
            query_embeddings=[vector],
            n_results=ROWS_PER_CHUNK * n,
            where={"doc_key": {"$in": sorted(keys)}},
            include=["distances"],
        )
        best: dict[str, float] = {}
        for row, distance in zip(found["ids"][0], found["distances"][0], strict=True):
            name, similarity = row.rpartition(".")[0], round(1.0 - float(distance), 6)
            best[name] = max(similarity, best.get(name, -1.0))
        return sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:n]

    def close(self) -> None:
        self._client.delete_collection(self._collection.name)


class ExactStore:
    """``VectorStore`` by comparing with every row: for a grader, who asks often and trusts no approximation.

    At a few thousand rows that takes a fraction of a millisecond, and nothing need be imported or started for it.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._keys: list[str] = []
        self._rows: np.ndarray | None = None

    def add(self, chunks: Sequence[Chunk], vectors: np.ndarray) -> None:
        """As ``VectorStore.add``."""
        import numpy as np

        rows = [(chunk.id, chunk.doc_key) for chunk in chunks for _ in chunk.sentences]
        self._names += [name for name, _ in rows]
        self._keys += [key for _, key in rows]
        wide = vectors.astype(np.float64)
        self._rows = wide if self._rows is None else np.concatenate([self._rows, wide])

    def remove(self, doc_key: str) -> None:
        kept = [place for place, key in enumerate(self._keys) if key != doc_key]
        self._names, self._keys = [self._names[place] for place in kept], [self._keys[place] for place in kept]
        self._rows = None if self._rows is None else self._rows[kept]

    def ids(self, doc_key: str) -> list[str]:
        """One entry for each row of a document."""
        return sorted(name for name, key in zip(self._names, self._keys, strict=True) if key == doc_key)

    def search(self, vector: np.ndarray, keys: Collection[str], n: int) -> list[tuple[str, float]]:
        """As ``VectorStore.search``."""
        import numpy as np

        places = [place for place, key in enumerate(self._keys) if key in keys]
        if self._rows is None or not places:
            return []
        near = (self._rows @ vector.astype(np.float64))[places]
        best: dict[str, float] = {}
        for place in np.argsort(-near, kind="stable")[: ROWS_PER_CHUNK * n]:
            best.setdefault(self._names[places[place]], round(float(near[place]), 6))
        return sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:n]

    def close(self) -> None:
        """Nothing is held elsewhere."""


class TermStore:
    """BM25 (Lucene variant, k1 = 1.5, b = 0.75) over the terms of the chunks, rebuilt at every change.

    Term weights count all documents, forbidden ones too: a *score* can hint that a word is rare elsewhere. Where that
    matters, keep one store per tenant.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, tuple[str, ...]]] = []
        self._postings: dict[str, list[int]] = {}
        self._engine: Any = None

    @property
    def vocabulary(self) -> Collection[str]:
        """Every term of the store."""
        return self._postings.keys()

    def add(self, chunks: Sequence[Chunk]) -> None:
        self._rows += [(chunk.id, chunk.doc_key, terms(chunk.search_text)) for chunk in chunks]
        self._rebuild()

    def remove(self, doc_key: str) -> None:
        self._rows = [row for row in self._rows if row[1] != doc_key]
        self._rebuild()

    def ids(self, doc_key: str) -> list[str]:
        """The chunk ids of a document that the store holds now."""
        return sorted(name for name, key, _ in self._rows if key == doc_key)

    def search(self, query: str, keys: Collection[str], n: int) -> list[tuple[str, float]]:
        """At most ``n`` pairs (chunk id, BM25 score) from the documents ``keys`` that share a term, best first."""
        asked = self._asked(query)
        known = [term for term in asked if term in self._postings]
        allowed = [position for position, row in enumerate(self._rows) if row[1] in keys]
        if not known or not allowed:
            return []
        scores = self._engine.get_scores(known)
        pairs = [(self._rows[place][0], round(float(scores[place]), 6)) for place in allowed if scores[place] > 0]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:n]

    def coverage(self, query: str) -> dict[str, float]:
        """Chunk id -> share of the query's term weight (inverse document frequency) that the chunk holds, above 0 to 1.

        A term that no chunk holds weighs most: a question full of unknown words is covered by nothing.
        """
        held: dict[int, float] = {}
        total = 0.0
        for term in self._asked(query):
            rows = self._postings.get(term, [])
            weight = math.log(1 + (len(self._rows) - len(rows) + 0.5) / (len(rows) + 0.5))
            total += weight
            for row in rows:
                held[row] = held.get(row, 0.0) + weight
        return {self._rows[row][0]: weight / total for row, weight in held.items()}

    def _asked(self, query: str) -> list[str]:
        """The distinct terms of a query. Who asks for 33(1) does not ask for every 33, where some text has 33(1)."""
        found = list(dict.fromkeys(terms(query)))
        exact = {term[: term.index("(")] for term in found if "(" in term and term in self._postings}
        return [term for term in found if term not in exact]

    def _rebuild(self) -> None:
        import bm25s

        self._engine, self._postings = None, {}
        for position, row in enumerate(self._rows):
            for term in dict.fromkeys(row[2]):
                self._postings.setdefault(term, []).append(position)
        if self._postings:
            self._engine = bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend="numpy")
            self._engine.index([list(row[2]) for row in self._rows], show_progress=False)


def reciprocal_rank_fusion(
    rankings: Mapping[str, Sequence[str]],
    weights: Mapping[str, float | Mapping[str, float]] | None = None,
    k: int = RRF_K,
) -> list[tuple[str, float]]:
    """(id, score) by descending sum of weight / (k + rank) over the rankings; ties in order of the id.

    weights: of each ranking, a number or one number per id; 1 without it, as published.
    """
    scores: dict[str, float] = {}
    for name, ranking in rankings.items():
        weight = 1.0 if weights is None else weights[name]
        for rank, item in enumerate(ranking, 1):
            own = weight[item] if isinstance(weight, Mapping) else weight
            scores[item] = scores.get(item, 0.0) + own / (k + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
