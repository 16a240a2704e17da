"""Deletion that reaches everything made from a document, and a record that proves it by looking again.

Reached: both search engines, the embedding cache (memory of this process, and disk), the answer caches of the index,
and the evaluation files given by path. Not reached, and not promised: the file of the corpus itself, backups, other
processes' memory, free pages of a Chroma folder until it is compacted, and paraphrases of the text in other rows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.chunking import Chunk, sections
from course_lib.errors import DataError
from course_lib.files import replacing, write_text

if TYPE_CHECKING:
    from course_lib.corpus import Document
    from course_lib.retrieval import Index

REDACTED = "[deleted]"
MIN_QUOTED_WORDS = 4


@dataclass(frozen=True, slots=True)
class DeletionRecord:
    """What was deleted and where it stood before and after; counts come from looking into each store, twice.

    stores: store -> ``{"before": n, "after": n}``; ``artifact:NAME`` counts the rows of a file that quote the document.
    complete: every ``after`` is 0. tombstone: SHA-256 over the fields above it, kept so that the version stays away.
    """

    doc_key: str
    body_sha256: str
    reason: str
    chunk_ids: tuple[str, ...]
    stores: Mapping[str, Mapping[str, int]]
    complete: bool
    tombstone: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable; holds no text of the document."""
        return {**asdict(self), "chunk_ids": list(self.chunk_ids)}


def body_sha256(document: Document) -> str:
    """SHA-256 of the body with spacing and case ignored, so that a re-wrapped copy is recognised."""
    return hashlib.sha256(" ".join(document.body.split()).casefold().encode()).hexdigest()


class Tombstones:
    """The versions that were deleted and must not come back: key -> hash of the body. Kept in a file, given a path."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.bodies: dict[str, str] = {}
        if path is not None and path.exists():
            try:
                self.bodies = {str(key): str(value) for key, value in json.loads(path.read_text("utf-8")).items()}
            except (ValueError, AttributeError) as error:
                raise DataError(
                    "The list of deleted versions cannot be read.",
                    where=str(path),
                    fix="Restore the file; without it deleted documents could come back.",
                ) from error

    def covers(self, document: Document) -> bool:
        """Whether this version, or the same text under another key, was deleted."""
        return document.key in self.bodies or body_sha256(document) in self.bodies.values()

    def refuse(self, document: Document) -> None:
        """Raises DataError for a version that was deleted."""
        if self.covers(document):
            raise DataError(
                f"{document.key} was deleted and cannot be added again.",
                where="Index.add",
                fix="Publish a new version with a new text, approved by its owner.",
            )

    def add(self, doc_key: str, digest: str) -> None:
        self.bodies[doc_key] = digest
        if self.path is not None:
            write_text(self.path, json.dumps(dict(sorted(self.bodies.items())), indent=1) + "\n", mode=None, sync=True)


def delete_document(index: Index, doc_key: str, artifacts: Iterable[Path], reason: str = "") -> DeletionRecord:
    """Deletes one version everywhere and looks again. ``Index.delete`` is the usual way to call it.

    Raises DataError, before anything is changed, for an unknown key, for an artifact that does not exist, and for two
    of one file name.
    """
    document = index.documents.get(doc_key)
    if document is None:
        raise DataError(f"There is no document {doc_key} in the index.", where="Index.delete", fix="Check the key.")
    paths = list(artifacts)
    for path in paths:
        if not path.is_file():
            raise DataError("An artifact to clean does not exist.", where=str(path), fix="Check the path.")
    if len({path.name for path in paths}) < len(paths):
        raise DataError("Two artifacts have one name, and the record would show one.", where="artifacts",
                        fix="Rename one of them, or delete in two calls.")  # fmt: skip
    chunks = [chunk for chunk in index.chunks.values() if chunk.doc_key == doc_key]
    texts = _own_texts(index, document, chunks)
    quote = _quotes(index, document)
    digest = body_sha256(document)

    def look() -> dict[str, int]:
        return {
            "chroma": len(index.vectors.ids(doc_key)),
            "bm25": len(index.terms.ids(doc_key)),
            "embedding_cache": index.embedder.known(texts),
            "answer_cache": sum(cache.count(doc_key) for cache in index.caches),
            **{f"artifact:{path.name}": count_quotes(path, doc_key, quote) for path in paths},
        }

    before = look()
    index.tombstones.add(doc_key, digest)
    index.remove_from_search(doc_key)
    index.embedder.forget(texts)
    for cache in index.caches:
        cache.forget(doc_key)
    for path in paths:
        redact_artifact(path, doc_key, quote)
    after = look()
    stores = {name: {"before": before[name], "after": after[name]} for name in before}
    facts = [doc_key, digest, reason, [chunk.id for chunk in chunks], stores]
    seal = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    complete = not any(after.values())
    return DeletionRecord(doc_key, digest, reason, tuple(chunk.id for chunk in chunks), stores, complete, seal)


def _sentences(document: Document) -> set[str]:
    return {sentence for _, part in sections(document.body) for sentence in part}


def _own_texts(index: Index, document: Document, chunks: list[Chunk]) -> list[str]:
    """Texts whose vectors belong to this document alone: its chunks and sentences, but none of another document."""
    others = {chunk.search_text for chunk in index.chunks.values() if chunk.doc_key != document.key}
    for other in index.documents.values():
        if other.key != document.key:
            others |= _sentences(other)
    own = {chunk.search_text for chunk in chunks} | _sentences(document)
    return sorted(own - others)


def _quotes(index: Index, document: Document) -> re.Pattern[str] | None:
    """Matches any sentence of this document that no other has, whatever its spacing, block-quote marks and case."""

    def flat(sentence: str) -> str:
        return " ".join(sentence.split()).casefold()

    kept = {flat(s) for other in index.documents.values() if other.key != document.key for s in _sentences(other)}
    own = [s for s in _sentences(document) if flat(s) not in kept and len(s.split()) >= MIN_QUOTED_WORDS]
    if not own:
        return None
    longest_first = sorted(own, key=lambda sentence: (-len(sentence), sentence))
    return re.compile("|".join(r"[\s>]+".join(map(re.escape, s.split())) for s in longest_first), re.IGNORECASE)


def _scrub(value: Any, doc_key: str, quote: re.Pattern[str] | None) -> Any:
    """The value with quoted text replaced. In a row that names chunks of the document, its own fields go as well."""
    if isinstance(value, str):
        return quote.sub(REDACTED, value) if quote else value
    if isinstance(value, list):
        return [_scrub(item, doc_key, quote) for item in value]
    if not isinstance(value, dict):
        return value
    row = {_scrub(name, doc_key, quote): _scrub(item, doc_key, quote) for name, item in value.items()}

    def of_document(item: Any) -> bool:
        return isinstance(item, str) and (item == doc_key or item.startswith(f"{doc_key}#"))

    retrieved, sources = row.get("source_ids") or row.get("retrieved"), row.get("sources")
    if isinstance(retrieved, list) and isinstance(sources, list) and len(retrieved) >= len(sources):
        pairs = zip(retrieved, sources, strict=False)
        row["sources"] = [REDACTED if of_document(name) else source for name, source in pairs]
    if isinstance(row.get("cited"), list) and any(map(of_document, row["cited"])) and "answer" in row:
        row["answer"] = REDACTED
    return row


def _scrub_text(path: Path, doc_key: str, quote: re.Pattern[str] | None) -> tuple[str, int]:
    """(cleaned content, places changed): places are lines of JSONL, one JSON file, or quotes in other text."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        text = stream.read()
    if path.suffix not in (".json", ".jsonl"):
        return quote.subn(REDACTED, text) if quote else (text, 0)
    rows = re.findall(r"[^\n]*\n|[^\n]+", text) if path.suffix == ".jsonl" else [text]
    out, changed = [], 0
    for row in rows:
        new = _scrub_json(row, doc_key, quote, indent=None if path.suffix == ".jsonl" else 2)
        changed += new != row
        out.append(new)
    return "".join(out), changed


def _scrub_json(row: str, doc_key: str, quote: re.Pattern[str] | None, indent: int | None) -> str:
    try:
        value = json.loads(row)
    except (ValueError, RecursionError):
        return quote.sub(REDACTED, row) if quote else row
    clean = _scrub(value, doc_key, quote)
    if clean == value:
        return row
    ending = row[len(row.rstrip()) :]
    return json.dumps(clean, ensure_ascii=False, indent=indent) + ending


def count_quotes(path: Path, doc_key: str, quote: re.Pattern[str] | None) -> int:
    """How many rows of a file hold text of the document."""
    return _scrub_text(path, doc_key, quote)[1]


def redact_artifact(path: Path, doc_key: str, quote: re.Pattern[str] | None) -> int:
    """Replaces the text of the document by ``[deleted]``, row by row, and the file in one step. Returns rows changed.

    Other rows stay byte for byte as they were. Ids stay: they say what happened and hold no text.
    """
    text, changed = _scrub_text(path, doc_key, quote)
    if changed:
        with replacing(path, sync=True) as new:
            new.write_bytes(text.encode("utf-8", "surrogateescape"))
    return changed
