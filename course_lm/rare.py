"""Tokens that training hardly says: each step pushed them away from what is said, one like the other.

What all of them share is taken away again, so that they can be told apart and copied (``train`` no longer pushes them).
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

ITEMS, SELDOM = 4000, 4  # items that are drawn to count tokens, and the count below which a token is rare


def counts(tokenizer: Any, seed: int = 1, items: int = ITEMS) -> Counter[int]:
    """How many generated items of the ``train`` split hold each token; no corpus text, no words joined from tokens."""
    from course_lm import curriculum
    from course_lm.encode import encode

    rng, draw, found = random.Random(seed), curriculum.sampler("train", tasks=0.4, strange=0.0), Counter[int]()
    for _ in range(items):
        found.update(set(encode(tokenizer, draw(rng, curriculum.LEVELS - 1, "sft")).ids))
    return found


def straighten(model: Any, found: Counter[int]) -> int:
    """Moves the embeddings of rare tokens, in place, to where common ones lie along the direction in which the two
    differ, and to their length. Returns how many were moved."""
    import torch

    table = model.model.embed_tokens.weight
    rare = torch.tensor([found[index] < SELDOM for index in range(len(table))], device=table.device)
    with torch.no_grad():
        few, many = table[rare], table[~rare]
        apart = torch.nn.functional.normalize(few.mean(0) - many.mean(0), dim=0)
        few = few - (few @ apart - (many @ apart).mean()).outer(apart)
        table[rare] = few * (many.norm(dim=-1).mean() / few.norm(dim=-1, keepdim=True))
    return int(rare.sum())
