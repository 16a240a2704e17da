"""Trains the sentence ranker (``course_lib.ranker``) on questions written for the sentences of the corpus.

For the data of course-lm it is trained several times, each without a part of the questions, and each question is
ranked by the one that has not seen it: as well, and as badly, as new questions will be.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from course_lib.rag import QUOTE_HITS
from course_lib.ranker import Ranker

if TYPE_CHECKING:
    from course_lib.embeddings import Embedder

FOLDS = 5
STEPS, BATCH, RATE = 600, 256, 1e-3
TEMPERATURE = 0.05  # of the softmax over all sentences
NEAR = 0.9  # cosine from which a written question counts as a near copy
CLOSE = 0.3  # how strongly the matrices are held to the identity


def pairs(sentences: Sequence[str]) -> tuple[list[str], list[list[int]]]:
    """The written questions, and for each the indices of the sentences that answer it."""
    from course_lib.chunking import expand_query
    from course_lm.real import written_questions

    questions, answers = [], []
    for part, texts in [*written_questions().items(), *written_questions("questions_wide").items()]:
        if places := [i for i, sentence in enumerate(sentences) if part in sentence]:
            questions += [expand_query(text) for text in texts]
            answers += [places] * len(texts)
    return questions, answers


def fold_of(question: str) -> int:
    """Which fold a question belongs to: a hash of its text."""
    return hashlib.sha256(question.encode()).digest()[0] % FOLDS


def train(
    embedder: Embedder, sentences: Sequence[str], *, steps: int = STEPS, tick: Callable[[int], None] = lambda step: None
) -> Ranker:
    """Two matrices near the identity, by a softmax over all sentences; bit-equal only on the same machine and threads.

    Source of the form: DPR's loss (Karpukhin et al. 2020) on frozen vectors.
    """
    return next(_trained(embedder, sentences, [None], steps, tick))


def crossfit(embedder: Embedder, sentences: Sequence[str], *, steps: int = STEPS) -> list[Ranker]:
    """For each fold of the questions a ranker that has not seen it."""
    return list(_trained(embedder, sentences, range(FOLDS), steps, lambda step: None))


def _trained(
    embedder: Embedder, sentences: Sequence[str], left_out: Iterable[int | None], steps: int,
    tick: Callable[[int], None],
) -> Iterator[Ranker]:  # fmt: skip
    import torch

    questions, answers = pairs(sentences)
    folds = torch.tensor([fold_of(text) for text in questions])
    asked = torch.from_numpy(embedder.encode(questions))
    texts = torch.from_numpy(embedder.encode(list(sentences)))
    right = torch.zeros(len(questions), len(sentences), dtype=torch.bool)
    for row, places in enumerate(answers):
        right[row, places] = True
    for fold in left_out:
        kept = torch.nonzero(folds != (-1 if fold is None else fold))[:, 0]
        matrices = _fit(asked, texts, right, kept, steps, tick)
        yield Ranker(*(m.detach().numpy() for m in matrices), fingerprint=embedder.fingerprint)


def _fit(asked: Any, texts: Any, right: Any, kept: Any, steps: int, tick: Callable[[int], None]) -> list[Any]:
    import torch

    generator, identity = torch.Generator().manual_seed(1), torch.eye(texts.shape[1])
    matrices = [identity.clone().requires_grad_() for _ in range(2)]
    optimiser = torch.optim.Adam(matrices, lr=RATE)
    unit = torch.nn.functional.normalize
    for step in range(steps):
        rows = kept[torch.randint(len(kept), (BATCH,), generator=generator)]
        logits = unit(asked[rows] @ matrices[0], dim=1) @ unit(texts @ matrices[1], dim=1).T / TEMPERATURE
        found = torch.logsumexp(logits.masked_fill(~right[rows], -1e9), 1)
        drift = sum(((m - identity) ** 2).sum() for m in matrices) / len(identity)
        loss = (torch.logsumexp(logits, 1) - found).mean() + CLOSE * drift
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        tick(step + 1)
    return matrices


def measure(split: str = "dev") -> dict[str, dict[str, float]]:
    """Of the answerable questions of ``split`` the share whose best sentence of the hits answers, with 95 % interval.

    ``cosine``: without a ranker; ``published``; ``other documents``: with a ranker that was trained without the
    documents expected; ``no near copy``: published, of questions to which no written one has a cosine of ``NEAR``.
    """
    import numpy as np

    from course_lib.chunking import expand_query
    from course_lib.corpus import load_corpus, load_questions
    from course_lib.embeddings import default_embedder
    from course_lib.rag import sentence_scores
    from course_lib.ranker import ranker_for
    from course_lib.retrieval import Index
    from course_lm.eval import share
    from course_lm.real import clean_passages
    from course_lm.real import sentences as sentences_of

    corpus, model, found = load_corpus(), default_embedder(), clean_passages()
    titles = {document.key: document.title for document in corpus.documents}
    folds = [train(model, list(sentences_of([p for p in found if fold_of(p.title) != fold]))) for fold in range(FOLDS)]
    written = model.encode(pairs(list(sentences_of(found)))[0])
    plain = Ranker.unchanged(written.shape[1], model.fingerprint)
    right: dict[str, list[bool]] = {"cosine": [], "published": [], "other documents": [], "no near copy": []}
    index = Index.build(corpus)
    users = {user.id: user for user in corpus.users}
    for question in load_questions(split):
        if question.abstain:
            continue
        hits = index.search(question.question, users[question.user], k=QUOTE_HITS)
        shown = [(chunk, sentence) for chunk in hits.chunks for sentence in chunk.sentences]
        chosen = {"cosine": plain, "published": ranker_for(model),
                  "other documents": folds[fold_of(titles[question.expected_docs[0]])]}  # fmt: skip
        for name, ranker in chosen.items():
            scores = sentence_scores(question.question, [s for _, s in shown], model, ranker)
            chunk, text = shown[int(np.argmax(scores))]
            right[name].append(chunk.doc_key in question.expected_docs and any(a in text for a in question.answers))
        if (written @ model.encode([expand_query(question.question)], persist=False)[0]).max() < NEAR:
            right["no near copy"].append(right["published"][-1])
    index.close()
    return {name: share(flags) for name, flags in right.items()}


def measure_choices(
    count: int = 1200, hits: Sequence[int] = (3, QUOTE_HITS), lexical: Sequence[float] = (0.0, 0.1, 0.2, 0.35)
) -> dict[str, dict[str, float]]:
    """Of written questions, each ranked by a ranker that has not seen it, the share with a right sentence first.

    For every number of hits and weight of shared terms; ``count`` questions are drawn, and those kept whose answer the
    reader with the most documents may see. ``QUOTE_HITS`` and ``LEXICAL_SHARE`` were chosen by this and by ``measure``.
    """
    import numpy as np

    from course_lib.corpus import load_corpus
    from course_lib.embeddings import default_embedder
    from course_lib.rag import sentence_scores
    from course_lib.retrieval import Index
    from course_lm.eval import share
    from course_lm.real import clean_passages
    from course_lm.real import sentences as sentences_of

    corpus, model = load_corpus(), default_embedder()
    sentences = list(sentences_of(clean_passages()))
    questions, answers = pairs(sentences)
    rankers, index = crossfit(model, sentences), Index.build(corpus)
    user = max(corpus.users, key=lambda user: len(index.permitted(user).keys))
    keys = index.permitted(user).keys
    readable = {s for chunk in index.chunks.values() if chunk.doc_key in keys for s in chunk.sentences}
    right: dict[str, list[bool]] = {}
    for i in random.Random(0).sample(range(len(questions)), count):
        wanted = {sentences[place] for place in answers[i]} & readable
        for most in hits if wanted else ():
            shown = [s for chunk in index.search(questions[i], user, k=most).chunks for s in chunk.sentences]
            for weight in lexical:
                scores = sentence_scores(questions[i], shown, model, rankers[fold_of(questions[i])], weight)
                best = shown[int(np.argmax(scores))]
                right.setdefault(f"{most} hits, {weight}", []).append(best in wanted)
    index.close()
    return {name: share(flags) for name, flags in right.items()}


if __name__ == "__main__":
    for name, found in (measure_choices() if sys.argv[1:] == ["written"] else measure(*sys.argv[1:])).items():
        print(f"{name:16} {found['value']:.3f}  [{found['low']:.3f}, {found['high']:.3f}]  n = {found['n']}")
