"""Where replies go wrong: the first token that a checkpoint would not write, teacher-forced, by kind of mistake.

Run it with ``python -m course_lm.mistakes FOLDER`` on any checkpoint. The items are new ones, never the locked rows.
Its lines cross the words of training and test with the wordings of both, and so say which of the two is not learnt.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

from course_lm.encode import Example, collate, encode

SEED, COUNT, BATCH = 555, 400, 8


def first_mistakes(
    checkpoint: Path | str, most: int, count: int = COUNT, seed: int = SEED, *, of: str = "test", said: str = "test"
) -> Counter[str]:
    """How many of ``count`` replies are right, and the kinds of first mistake of the others.

    most: sentences per source at most. of, said: the splits of the words and of the wordings. Kinds: missing
    abstention, wrong abstention, wrong source, first words, jump (a token that follows an equal token or pair of tokens
    elsewhere in the prompt), other.
    """
    import torch
    from transformers import LlamaForCausalLM

    from course_lm import tokenizer as lm_tokenizer
    from course_lm.data import frame_item
    from course_lm.frames import Vocabulary

    model = LlamaForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    tokenizer, rng, v = lm_tokenizer.load(checkpoint), random.Random(seed), replace(Vocabulary.of(of), split=said)
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
    """Prints a line for each pair of splits, for single sentences and for up to three."""
    for folder, most, (of, said) in product(sys.argv[1:], (1, 3), product(("train", "test"), repeat=2)):
        found = first_mistakes(folder, most, of=of, said=said)
        print(f"{folder}: up to {most} a source, words of {of}, wordings of {said}:", dict(found.most_common()))


if __name__ == "__main__":
    main()
