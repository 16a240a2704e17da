"""Where replies go wrong: the first token that a checkpoint would not write, teacher-forced, by kind of mistake.

Run it with ``python -m course_lm.mistakes FOLDER`` on any checkpoint. The items are new ones of the test split, never
the locked rows.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

from course_lm.encode import Example, collate, encode

SEED, COUNT, BATCH = 555, 400, 8


def first_mistakes(checkpoint: Path | str, most: int, count: int = COUNT, seed: int = SEED) -> Counter[str]:
    """How many of ``count`` replies are right, and the kinds of first mistake of the others.

    most: sentences per source at most. Kinds: missing abstention, wrong abstention, wrong source, first words, jump (a
    token that follows an equal token or pair of tokens elsewhere in the prompt), other.
    """
    import torch
    from transformers import LlamaForCausalLM

    from course_lm import tokenizer as lm_tokenizer
    from course_lm.data import frame_item
    from course_lm.frames import Vocabulary

    model = LlamaForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    tokenizer, rng, v = lm_tokenizer.load(checkpoint), random.Random(seed), Vocabulary.of("test")
    found: Counter[str] = Counter()
    items = [frame_item(rng, v, sources=1 + number % 4, most=most, answerable=rng.random() >= 0.25,
                        hostile=rng.random() < 0.4) for number in range(count)]  # fmt: skip
    for start in range(0, count, BATCH):
        batch = items[start : start + BATCH]
        examples = [encode(tokenizer, item) for item in batch]
        with torch.no_grad():
            ids = collate(examples, tokenizer.pad_token_id)["ids"]
            best = model(input_ids=ids, use_cache=False).logits.argmax(-1).tolist()
        found.update(kind_of(example, said, item.gold is not None)
                     for item, example, said in zip(batch, examples, best, strict=True))  # fmt: skip
    return found


def kind_of(example: Example, said: list[int], answerable: bool) -> str:
    """The kind of the first mistake. said: the model's first choice after each position."""
    ids, start = example.ids, example.reply_at
    wrong = next((p for p in range(start, len(ids)) if said[p - 1] != ids[p]), None)
    if wrong is None:
        return "right"
    if not answerable:
        return "missing abstention"
    if wrong - start < 4:
        return ("wrong abstention", "wrong source", "first words", "first words")[wrong - start]
    elsewhere = {ids[p] for p in range(1, start) if ids[p - 1] == ids[wrong - 1]}
    return "jump" if said[wrong - 1] in elsewhere else "other"


def main() -> None:
    """Prints one line for single sentences and one for up to three."""
    for folder in sys.argv[1:]:
        for most in (1, 3):
            print(folder, f"sentences a source: up to {most}", dict(first_mistakes(folder, most).most_common()))


if __name__ == "__main__":
    main()
