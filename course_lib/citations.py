"""Reading citations and quotations: pure text functions that a checker can run without an index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from course_lib.chunking import split_sentences
from course_lib.prompts import ABSTAIN

_CITATION = re.compile(r"\[\s*(\d{1,9}(?:\s*,\s*\d{1,9})*)\s*\]")


class Citations(NamedTuple):
    """Source numbers in order of first use: those from 1 to n, and the others."""

    valid: tuple[int, ...]
    invalid: tuple[int, ...]


def _words(text: str) -> str:
    """Words in lower case between single spaces; punctuation and quotation marks gone, numbers whole."""
    return " " + " ".join(re.findall(r"\d+(?:[.,]\d+)*|\w+|[%€$£]", text.casefold())) + " "


def parse_citations(text: str, n: int) -> Citations:
    """Numbers in square brackets, ``[2]`` or ``[1, 3]``; invalid outside 1 to ``n``. ``[2018/389]`` is no citation."""
    found = [int(number) for group in _CITATION.findall(text) for number in group.split(",")]
    distinct = list(dict.fromkeys(found))
    return Citations(tuple(i for i in distinct if 1 <= i <= n), tuple(i for i in distinct if not 1 <= i <= n))


def without_citations(text: str) -> str:
    """The text without its source numbers, whitespace normalised."""
    return " ".join(_CITATION.sub(" ", text).split())


def is_abstention(text: str) -> bool:
    """Whether an answer says that the sources do not tell: it begins with that sentence and cites nothing after it."""
    return not _CITATION.search(text) and _words(text).startswith(_words(ABSTAIN))


def quote_supported(quote: str, source: str) -> bool:
    """Whether the words of ``quote`` stand in ``source`` in this order without a gap; case and punctuation ignored.

    ``2 hours`` is not supported by ``72 hours``. An empty quote supports nothing.
    """
    words = _words(without_citations(quote))
    return bool(words.strip()) and words in _words(source)


def faithfulness(text: str, cited_sources: Sequence[str]) -> float | None:
    """Share of the sentences of an answer that stand in a cited source, 0 to 1; None for an abstention.

    A strict measure for quoting models. A true paraphrase scores 0 here, so it is no measure of truth.
    """
    sentences = split_sentences(without_citations(text))
    if not sentences or is_abstention(text):
        return None
    supported = [any(quote_supported(sentence, source) for source in cited_sources) for sentence in sentences]
    return sum(supported) / len(supported)
