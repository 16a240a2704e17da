"""Sources as the real flow shows them: the sentences of the corpus that fit a question best, right or not.

A model that trains beside random neighbours meets its hardest ones only at work, where a retriever chose them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from course_lib.embeddings import Embedder
    from course_lib.ranker import Ranker
    from course_lm.real import Passage

DEPTH = 12  # sentences looked at for each question


def nearest(
    found: Sequence[Passage], embedder: Embedder | None = None, most: int = DEPTH,
    rankers: Sequence[Ranker] | None = None,
) -> Callable[[str], list[tuple[Passage, str]]]:  # fmt: skip
    """A function from a question to its ``most`` best sentences, each with its passage, best first.

    Scored as ``rag.sentence_scores`` does it, cosine first: terms only order the best by cosine. Equal sentences of
    several documents count once. rankers: one for each fold of the questions, that has not seen it (``rank``); by
    default they are trained here, which takes a minute or two.
    """
    import numpy as np

    from course_lib.chunking import expand_query
    from course_lib.embeddings import default_embedder
    from course_lib.rag import sentence_scores
    from course_lm import rank, real

    pairs = [(passage, sentence) for sentence, passage in real.sentences(found).items()]
    model = embedder or default_embedder()
    sentences = [sentence for _, sentence in pairs]
    rankers = rankers or rank.crossfit(model, sentences)
    plain = model.encode(sentences)
    vectors = [ranker.sentences(plain) for ranker in rankers]

    @functools.lru_cache(maxsize=40_000)  # written questions come again and again
    def near(question: str) -> list[tuple[Passage, str]]:
        asked = expand_query(question)
        fold = rank.fold_of(asked) % len(rankers)
        turned = model.encode([asked], persist=False)[0] @ rankers[fold].of_question
        first = [pairs[i] for i in np.argsort(-(vectors[fold] @ turned), kind="stable")[: 2 * most]]
        scores = sentence_scores(question, [sentence for _, sentence in first], model, rankers[fold])
        order = sorted(range(len(first)), key=lambda i: (-scores[i], i))
        return [first[i] for i in order[:most]]

    return near
