"""Documents to chunks, and text to search terms: what the index sees of a document."""

from __future__ import annotations

import functools
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from course_lib.errors import UsageError

if TYPE_CHECKING:
    from course_lib.corpus import Document

# Abbreviations that people ask with and documents spell out, or the other way round. Queries get the other form added.
GLOSSARY: Mapping[str, str] = MappingProxyType(
    {
        "aisp": "account information service provider",
        "aml": "anti-money laundering",
        "at1": "additional tier 1",
        "bcp": "business continuity plan",
        "cdd": "customer due diligence",
        "cet1": "common equity tier 1",
        "crr": "capital requirements regulation",
        "dora": "digital operational resilience act",
        "dpa": "data processing agreement",
        "dpia": "data protection impact assessment",
        "dpo": "data protection officer",
        "edd": "enhanced due diligence",
        "fiu": "financial intelligence unit",
        "gdpr": "general data protection regulation",
        "ict": "information and communication technology",
        "kyc": "know your customer",
        "lcr": "liquidity coverage ratio",
        "mfa": "multi-factor authentication",
        "mifid": "markets in financial instruments directive",
        "nsfr": "net stable funding ratio",
        "pep": "politically exposed person",
        "pisp": "payment initiation service provider",
        "psd2": "payment services directive",
        "rpo": "recovery point objective",
        "rto": "recovery time objective",
        "rwa": "risk-weighted assets",
        "sar": "suspicious activity report",
        "sca": "strong customer authentication",
        "sla": "service level agreement",
        "str": "suspicious transaction report",
        "tlpt": "threat-led penetration testing",
        "tpp": "third-party provider",
        "ubo": "beneficial owner",
    }
)

_HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*$")
_LIST_ITEM = re.compile(r"(?:[-*+]|\d{1,3}[.)])\s+")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:arts?|nos?|paras?|sec|ch|vol|pp?|cf|vs|approx|incl|etc|ca|e\.g|i\.e|dr|mr|ms|st)\.$", re.IGNORECASE
)
_BOUNDARY = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9§€])")
_TERM = re.compile(
    r"\d+(?:\([0-9a-z]{1,3}\))+"  # 33(1), 9(2)(a)
    r"|\d+(?:[./,:-]\d+)+"  # 2018/389, 4.5, 12,000
    r"|[a-z]+\d[a-z0-9]*|\d+[a-z]+"  # psd2, cet1, 24h
    r"|\d+|[a-z]+(?:[-'’][a-z]+)*",
)

_SAME_TERM = {"art": "article", "arts": "article", "articles": "article"}
_POSSESSIVE = re.compile(r"['’]s\b")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of whole sentences from one section of one document version.

    id: ``KEY#NN``, counted from 00 in reading order. heading: the path of headings above it, joined by `` > ``.
    text: the sentences joined by one space; sentences: the same, one by one.
    """

    id: str
    doc_key: str
    title: str
    heading: str
    text: str
    sentences: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def search_text(self) -> str:
        """What is embedded and counted: title and heading path first, because a section seldom repeats its topic."""
        context = " > ".join(part for part in (self.title, self.heading) if part)
        return f"{context}\n{self.text}"


def split_sentences(text: str) -> list[str]:
    """Sentences of running prose, whitespace normalised. ``Art. 33(1)`` and ``4.5 %`` stay whole.

    Joined by one space they give the normalised input again. Not promised: other languages than English.
    """
    text = " ".join(text.split())
    sentences, start = [], 0
    for boundary in _BOUNDARY.finditer(text):
        end = text.rfind(".", start, boundary.start() + 1)
        if end >= 0 and end + 1 >= len(text[: boundary.end()].rstrip()) and _ABBREVIATION.search(text[start : end + 1]):
            continue
        sentences.append(text[start : boundary.end()].strip())
        start = boundary.end()
    rest = text[start:].strip()
    return [*sentences, rest] if rest else sentences


def sections(body: str) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """(heading path, sentences) of a markdown body in reading order.

    A list item or a table row is never joined to the next one.
    """
    path: list[tuple[int, str]] = []
    sentences: list[str] = []
    block: list[str] = []

    def flush() -> None:
        sentences.extend(split_sentences(" ".join(block)))
        block.clear()

    for line in body.splitlines():
        stripped = line.strip()
        heading = _HEADING.match(stripped)
        if heading:
            flush()
            if sentences:
                yield tuple(name for _, name in path), list(sentences)
                sentences.clear()
            level = len(heading.group(1))
            path = [entry for entry in path if entry[0] < level] + [(level, heading.group(2))]
            continue
        item = _LIST_ITEM.match(stripped)
        if not stripped or item or stripped.startswith("|"):
            flush()
        if stripped:
            block.append(stripped[item.end() :] if item else stripped)
    flush()
    if sentences:
        yield tuple(name for _, name in path), sentences


def _words(text: str) -> int:
    return len(text.split())


def _pack(sentences: list[str], max_words: int, overlap: int) -> Iterator[tuple[str, ...]]:
    """Windows of whole sentences, up to ``max_words``; each repeats the end of the one before, up to ``overlap`` words.

    The repeated part is dropped where keeping it would leave no room for a new sentence.
    """
    window: list[str] = []
    for sentence in sentences:
        if window and sum(map(_words, window)) + _words(sentence) > max_words:
            yield tuple(window)
            kept: list[str] = []
            for earlier in reversed(window):
                if sum(map(_words, kept)) + _words(earlier) > overlap:
                    break
                kept.insert(0, earlier)
            fits = sum(map(_words, kept)) + _words(sentence) <= max_words
            window = kept if fits else []
        window.append(sentence)
    if window:
        yield tuple(window)


def chunk_document(doc: Document, max_words: int = 90, overlap: int = 15) -> list[Chunk]:
    """Chunks of one document version, structure first: no chunk crosses a heading and no sentence is cut.

    max_words and overlap count the words of the text, not of title and headings. A sentence longer than ``max_words``
    is a chunk of its own. Raises UsageError unless ``0 <= overlap < max_words``.
    """
    if not 0 <= overlap < max_words:
        raise UsageError(
            f"Chunks of {max_words} words cannot overlap by {overlap}.",
            where="chunk_document",
            fix="Choose max_words of at least 1 and an overlap from 0 to max_words - 1.",
        )
    metadata = MappingProxyType(
        {name: getattr(doc, name) for name in ("tenant", "owner", "version")}
    )
    chunks: list[Chunk] = []
    for path, sentences in sections(doc.body):
        names = path[1:] if path and path[0] == doc.title else path
        for window in _pack(sentences, max_words, overlap):
            name = f"{doc.key}#{len(chunks):02d}"
            chunks.append(Chunk(name, doc.key, doc.title, " > ".join(names), " ".join(window), window, metadata))
    return chunks


@functools.lru_cache(maxsize=4096)
def terms(text: str) -> tuple[str, ...]:
    """Search terms in lower case, without stop words. There is no stemming.

    ``33(1)`` and ``2018/389`` survive; ``33(1)`` also counts as ``33``, a hyphenated word whole and in parts; ``Art.``
    is ``article``. Words of asking (how, what, when) are stop words too: in a question they would match everything.
    """
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    stop, found = frozenset(STOPWORDS_EN_PLUS), []
    for term in _TERM.findall(_POSSESSIVE.sub("", text.lower())):
        if term in stop:
            continue
        found.append(_SAME_TERM.get(term, term))
        if "(" in term:
            found.append(term[: term.index("(")])
        elif "-" in term and term[0].isalpha():
            found.extend(part for part in term.split("-") if part not in stop)
    return tuple(found)


def expand_query(query: str, vocabulary: Container[str] | None = None) -> str:
    """The query, followed by the long form of each abbreviation in it and the abbreviation of each long form.

    Only terms of ``GLOSSARY`` are added; a query without them comes back unchanged. vocabulary: the terms of the
    documents. With it, nothing is spelled out that the documents abbreviate as the query does, and no abbreviation is
    added that they do not use: both would only blur the question.
    """
    words = re.findall(r"[a-z0-9]+", query.lower())
    flat = f" {' '.join(words)} "
    added: list[str] = []
    for short, long in GLOSSARY.items():
        used = vocabulary is None or short in vocabulary
        spelled = f" {' '.join(re.findall(r'[a-z0-9]+', long))} " in flat
        if short in words and not spelled and (vocabulary is None or not used):
            added.append(long)
        elif spelled and short not in words and used:
            added.append(short.upper())
    return f"{query} ({'; '.join(added)})" if added else query
