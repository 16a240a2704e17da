"""Which items come when: levels of rising difficulty, each a mixture of the families in ``data`` and ``real``."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from course_lm.data import Item, frame_item, key_item, pool
from course_lm.frames import Vocabulary

# sources at most, sentences per source at most, share of loose words, of unanswerable, of hostile items, of real text
_LEVELS = (
    (2, 1, 0.4, 0.15, 0.0, 0.15),
    (3, 2, 0.2, 0.2, 0.15, 0.3),
    (4, 3, 0.1, 0.3, 0.25, 0.4),
    (5, 3, 0.06, 0.3, 0.3, 0.45),
)
SINGLE = 0.5  # share of items with one sentence a source, as the course's prompts have them
LEVELS = len(_LEVELS)
# The same shares on the wide split, where single sentences are nearly learnt and corpus text is not.
WIDE_SINGLE, CORPUS = 0.35, 0.45
WIDE_SOURCES = 6  # at most on the highest level, also with several sentences each
NEAR_SILENT = 0.8  # share of distractors near what is asked, where there is no answer
ALIKE = 0.5  # share of items whose sentences are alike, word by word, up to what tells them apart
STRANGE = 0.35  # share of names and words of the training that are put together from tokens, so that all get copied
AHEAD = 0.3  # share of items from the next level: a first sight of what comes
Sampler = Callable[[random.Random, int, str], Any]


def sampler(
    split: str = "train", *, real: Callable[..., Item] | None = None, tasks: float = 0.0, strange: float | None = None
) -> Sampler:
    """A function (generator, level, stage) -> item. real: maker of items on corpus text, None for none.

    tasks: share of items of the other tasks in stage ``sft``. strange: of names and words that are put together from
    tokens; None for ``STRANGE`` in training and none in the test.
    """
    strange = (STRANGE if split == "train" else 0.0) if strange is None else strange
    wide = bool(strange) and split == "train"
    v = Vocabulary.of("wide" if wide else split, strange)
    loose = pool(v)

    def draw(rng: random.Random, level: int, stage: str) -> Any:
        if stage == "sft" and rng.random() < tasks:
            from course_lm.tasks import task_item

            return task_item(rng, v.split, strange=strange)
        ahead = min(level + (rng.random() < AHEAD), LEVELS - 1)
        sources, most, keys, silent, hostile, corpus = _LEVELS[ahead]
        if rng.random() < (WIDE_SINGLE if wide else SINGLE):
            most, sources = 1, min(sources + level, 6)
        elif wide and ahead == LEVELS - 1:
            sources = WIDE_SOURCES
        count = rng.randint(1 if rng.random() < 0.3 else 2, sources)
        if wide and real is not None:
            corpus = max(corpus, CORPUS)
        answerable, roll = rng.random() >= silent, rng.random()
        if real is not None and roll < corpus:
            return real(rng, sources=count, most=most, answerable=answerable, hostile=rng.random() < hostile)
        if roll < corpus + keys * (1 - corpus):
            return key_item(rng, loose, sources=count, most=most, answerable=answerable, strange=strange)
        attacked, near = rng.random() < hostile, NEAR_SILENT if wide and not answerable else 0.6
        return frame_item(rng, v, sources=count, most=most, answerable=answerable, hostile=attacked, same=0.6,
                          alike=ALIKE if wide else 0.0, near=near)  # fmt: skip

    return draw


def exam_sampler() -> Sampler:
    """Items of the test split without real text: what the curriculum is judged by while it runs."""
    return sampler("test")
