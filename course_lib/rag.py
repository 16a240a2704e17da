"""From retrieved chunks to a cited answer: compress, ask, check the citations, remember under permissions."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from course_lib.access import decide, permission_fingerprint
from course_lib.chunking import Chunk, expand_query, split_sentences, terms
from course_lib.citations import (
    Citations,
    faithfulness,
    is_abstention,
    parse_citations,
    quote_supported,
    without_citations,
)
from course_lib.errors import UsageError
from course_lib.prompts import ABSTAIN, SYSTEM, answer_prompt

if TYPE_CHECKING:
    import anthropic

    from course_lib.corpus import User
    from course_lib.embeddings import Embedder
    from course_lib.ranker import Ranker
    from course_lib.retrieval import Hit, Index, Retrieval

__all__ = [
    "Answer", "AnswerCache", "CitationCheck", "Citations", "answer", "check_citations", "compress", "faithfulness",
    "is_abstention", "parse_citations", "quotable", "quote_supported", "sentence_scores", "without_citations",
]  # fmt: skip

MAX_SOURCES = 3
QUOTES = 3  # sentences shown to a small model as sources of their own; chosen on the dev questions
QUOTE_HITS = 12  # hits whose sentences are ranked for that: the ranker looks wider than the model
LEXICAL_SHARE = 0.2  # chosen on the dev questions, and on written ones whose ranker had not seen them


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and what it rests on.

    citation_numbers: the valid source numbers in order of first use; cited: their chunk ids. invalid_citations: numbers
    without a source. sources: the texts shown to the model, source_ids their chunk ids. usage: ``input_tokens`` and
    ``output_tokens``, both 0 when nothing was asked of a model.
    """

    text: str
    cited: tuple[str, ...]
    citation_numbers: tuple[int, ...]
    abstained: bool
    sources: tuple[str, ...]
    source_ids: tuple[str, ...]
    usage: Mapping[str, int] = field(default_factory=lambda: {"input_tokens": 0, "output_tokens": 0})
    invalid_citations: tuple[int, ...] = ()
    stop_reason: str | None = None
    cached: bool = False


@dataclass(frozen=True, slots=True)
class CitationCheck:
    """reasons: why the citations of an answer do not hold; empty when they do. An abstention needs none."""

    reasons: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.reasons


def sentence_scores(
    question: str, sentences: Sequence[str], embedder: Embedder | None = None, ranker: Ranker | None = None,
    lexical: float = LEXICAL_SHARE,
) -> list[float]:  # fmt: skip
    """How well each sentence fits the question, about 0 to 1: cosine similarity, and the share of its terms found.

    The part on terms, ``lexical``, keeps ``33(1)`` apart from ``33(2)``, which look alike to an embedding. The
    cosine is taken of the vectors as ``ranker`` changes them: by default the course's where it fits the embedder.
    """
    from course_lib.embeddings import default_embedder
    from course_lib.ranker import ranker_for

    if not sentences:
        return []
    model = embedder or default_embedder()
    asked = expand_query(question)
    vectors, vector = model.encode(list(sentences)), model.encode([asked], persist=False)[0]
    ranker = ranker or ranker_for(model)
    cosine = ranker.similarity(vector, vectors) if ranker else vectors @ vector
    wanted = set(terms(asked))
    shares = [len(wanted & set(terms(sentence))) / len(wanted) if wanted else 0.0 for sentence in sentences]
    mix = zip(cosine, shares, strict=True)
    return [round((1 - lexical) * float(near) + lexical * share, 6) for near, share in mix]


def compress(question: str, chunk: Chunk, max_words: int = 45, embedder: Embedder | None = None) -> str:
    """``title: sentences``: the whole sentences of a chunk that fit the question best, in their own order.

    max_words bounds the words of the sentences, not of the title. When no sentence fits, the best one is kept whole: a
    quotation is never cut. Extractive: everything in it stands in the source.
    """
    if max_words < 1:
        raise UsageError(f"A source of {max_words} words says nothing.", where="compress", fix="Use at least 1 word.")
    sentences = list(chunk.sentences) or split_sentences(chunk.text)
    lengths = [len(sentence.split()) for sentence in sentences]
    if sum(lengths) > max_words:
        scores = sentence_scores(question, sentences, embedder)
        order = sorted(range(len(sentences)), key=lambda i: (-scores[i], i))
        kept: list[int] = []
        for i in order:
            if sum(lengths[j] for j in kept) + lengths[i] <= max_words:
                kept.append(i)
        sentences = [sentences[i] for i in sorted(kept or order[:1])]
    return f"{chunk.title}: {' '.join(sentences)}"


def quotable(
    question: str, chunks: Sequence[Chunk], most: int, embedder: Embedder | None = None
) -> list[tuple[Chunk, str]]:
    """The ``most`` sentences of all chunks that fit the question best, each with its chunk and as ``title: sentence``.

    Best first, as course-lm learnt to read them. A source of one sentence leaves a small model one choice, which
    source, and the copy cannot drift into a neighbour.
    """
    pairs = [(chunk, s) for chunk in chunks for s in chunk.sentences or split_sentences(chunk.text)]
    scores = sentence_scores(question, [sentence for _, sentence in pairs], embedder)
    kept = sorted(range(len(pairs)), key=lambda i: (-scores[i], i))[:most]
    return [(pairs[i][0], f"{pairs[i][0].title}: {pairs[i][1]}") for i in kept]


def check_citations(answer: Answer, index: Index, user: User, *, verbatim: bool = True) -> CitationCheck:
    """Looks the citations of an answer up in the index, as of now.

    Reasons: ``no citation``, ``invalid number N``, ``not retrieved ID``, ``unknown chunk ID``, ``denied by RULE ID``,
    and with ``verbatim`` ``not in the cited sources: SENTENCE``.
    """
    if answer.abstained:
        return CitationCheck(())
    reasons = [f"invalid number {number}" for number in answer.invalid_citations]
    if not answer.cited:
        reasons.append("no citation")
    texts: list[str] = []
    for name in answer.cited:
        chunk = index.chunks.get(name)
        if name not in answer.source_ids:
            reasons.append(f"not retrieved {name}")
        elif chunk is None:
            reasons.append(f"unknown chunk {name}")
        else:
            decision = decide(user, index.documents[chunk.doc_key], index.as_of)
            if not decision.allowed:
                reasons.append(f"denied by {decision.rule} {name}")
            texts.append(f"{chunk.title}: {chunk.text}")
    if verbatim and answer.cited:
        sentences = split_sentences(without_citations(answer.text))
        missing = [s for s in sentences if not any(quote_supported(s, text) for text in texts)]
        reasons += [f"not in the cited sources: {sentence}" for sentence in missing]
    return CitationCheck(tuple(reasons))


@dataclass(slots=True)
class _Entry:
    answer: Answer
    doc_keys: frozenset[str]
    allowed: str


class AnswerCache:
    """Answers in memory, each under question, model, permissions of the asker and fingerprint of the index.

    Every read decides again: an answer whose sources the asker may not read now is thrown away and counted in
    ``denied``; one from before a change in what the asker may read is not used either. The index deletes through it.
    The question itself is kept as a keyed hash only.
    """

    def __init__(self, index: Index, max_entries: int = 1000) -> None:
        self.index, self.max_entries = index, max_entries
        self.hits = self.misses = 0
        self.denied: dict[str, int] = {}
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        index.caches.append(self)

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, question: str, user: User, *settings: object) -> str:
        """SHA-256 over the keyed question, permissions, index and settings. AccessDenied for an incomplete user."""
        facts = [self.index.query_hmac(question), permission_fingerprint(user), self.index.fingerprint, *settings]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def get(self, question: str, user: User, *settings: object) -> Answer | None:
        """The remembered answer, marked ``cached``, if this user may still read every source it was shown with."""
        key = self.key(question, user, *settings)
        entry = self._entries.get(key)
        if entry is not None:
            for doc_key in sorted(entry.doc_keys):
                decision = decide(user, self.index.documents.get(doc_key), self.index.as_of)  # type: ignore[arg-type]
                if not decision.allowed:
                    del self._entries[key]
                    self.denied[decision.rule] = self.denied.get(decision.rule, 0) + 1
                    entry = None
                    break
        if entry is None or entry.allowed != self.index.permitted(user).fingerprint:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return replace(entry.answer, cached=True, usage={"input_tokens": 0, "output_tokens": 0})

    def put(self, answer: Answer, question: str, user: User, *settings: object) -> None:
        """Remembers an answer; not one from a source that the user may not read or that is gone meanwhile."""
        permitted = self.index.permitted(user)
        doc_keys = frozenset(name.rpartition("#")[0] for name in answer.source_ids)
        if doc_keys <= permitted.keys:
            self._entries[self.key(question, user, *settings)] = _Entry(answer, doc_keys, permitted.fingerprint)
            while len(self._entries) > self.max_entries:
                self._entries.popitem(last=False)

    def count(self, doc_key: str) -> int:
        """How many remembered answers were shown with this document."""
        return sum(doc_key in entry.doc_keys for entry in self._entries.values())

    def forget(self, doc_key: str) -> int:
        """Drops every answer that was shown with this document; returns how many."""
        gone = [key for key, entry in self._entries.items() if doc_key in entry.doc_keys]
        for key in gone:
            del self._entries[key]
        return len(gone)


def answer(
    client: anthropic.Anthropic,
    model: str,
    question: str,
    retrieval: Retrieval,
    *,
    cache: AnswerCache | None = None,
    index: Index | None = None,
    embedder: Embedder | None = None,
    max_words: int = 45,
    quotes: int | None = None,
    max_tokens: int = 160,
    options: Mapping[str, Any] | None = None,
) -> Answer:
    """Asks the model with the first three hits and reads its citations.

    A source is a compressed hit; with ``quotes`` it is one sentence, and the ``quotes`` best of all hits are shown.
    Where the course's ranker orders them, ``QUOTE_HITS`` hits serve better than three; by the plain cosine they do not.

    With ``index`` or ``cache`` every source is authorised once more before its text leaves. Without a source the answer
    is an abstention, and no model is asked. options: extra arguments of ``messages.create``, by default what
    ``models.sampling`` says for this client. Raises what the SDK raises when the endpoint fails.
    """
    index = cache.index if cache is not None else index
    user = retrieval.user
    settings = (model, retrieval.mode, retrieval.k, max_words, quotes, max_tokens,
                SYSTEM["answer"], repr(options))  # fmt: skip
    if cache is not None and (known := cache.get(question, user, *settings)) is not None:
        return known
    hits = [hit for hit in retrieval.hits if index is None or _readable(hit, user, index)]
    model_of_text = embedder or (index.embedder if index is not None else None)
    chunks = [hit.chunk for hit in hits][: None if quotes else MAX_SOURCES]
    shown = quotable(question, chunks, quotes, model_of_text) if quotes else [
        (chunk, compress(question, chunk, max_words, model_of_text)) for chunk in chunks
    ]  # fmt: skip
    sources, source_ids = tuple(text for _, text in shown), tuple(chunk.id for chunk, _ in shown)
    if not sources:
        return Answer(ABSTAIN, (), (), True, (), ())
    result = _ask(client, model, question, sources, source_ids, max_tokens, options)
    if cache is not None and retrieval.audit.index == cache.index.fingerprint:
        cache.put(result, question, user, *settings)
    return result


def _readable(hit: Hit, user: User, index: Index) -> bool:
    document = index.documents.get(hit.chunk.doc_key)
    return document is not None and hit.chunk.id in index.chunks and decide(user, document, index.as_of).allowed


def _ask(
    client: anthropic.Anthropic, model: str, question: str, sources: tuple[str, ...], source_ids: tuple[str, ...],
    max_tokens: int, options: Mapping[str, Any] | None,
) -> Answer:  # fmt: skip
    if options is None:
        from course_lib.models import sampling

        options = sampling(client, model)
    message = client.messages.create(
        model=model,
        max_tokens=max_tokens,
        system=SYSTEM["answer"],
        messages=[{"role": "user", "content": answer_prompt(question, sources)}],
        **options,
    )
    text = "".join(block.text for block in message.content if block.type == "text").strip()
    valid, invalid = parse_citations(text, len(sources))
    usage = {"input_tokens": message.usage.input_tokens, "output_tokens": message.usage.output_tokens}
    cited = tuple(source_ids[number - 1] for number in valid)
    return Answer(text, cited, valid, is_abstention(text), sources, source_ids, usage, invalid, message.stop_reason)
