"""Sources as the real flow shows them: the sentences of the corpus that fit a question best, right or not.

A model that trains beside random neighbours meets its hardest ones only at work, where a retriever chose them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course_lib.embeddings import Embedder
    from course_lm.real import Passage

DEPTH = 12  # sentences looked at for each question


def nearest(
    found: Sequence[Passage], embedder: Embedder | None = None, most: int = DEPTH
) -> Callable[[str], list[tuple[Passage, str]]]:
    """A function from a question to its ``most`` best sentences, each with its passage, best first.

    Scored as ``rag.sentence_scores`` does it, cosine first: terms only order the best by cosine. Equal sentences of
    several documents count once.
    """
    import numpy as np

    from course_lib.embeddings import default_embedder
    from course_lib.rag import sentence_scores

    pairs = list({sentence: (passage, sentence) for passage in found for sentence in passage.sentences}.values())
    model = embedder or default_embedder()
    vectors = model.encode([sentence for _, sentence in pairs])

    @functools.lru_cache(maxsize=40_000)  # written questions come again and again
    def near(question: str) -> list[tuple[Passage, str]]:
        cosine = vectors @ model.encode([question], persist=False)[0]
        first = [pairs[i] for i in np.argsort(-cosine, kind="stable")[: 2 * most]]
        scores = sentence_scores(question, [sentence for _, sentence in first], model)
        order = sorted(range(len(first)), key=lambda i: (-scores[i], i))
        return [first[i] for i in order[:most]]

    return near
