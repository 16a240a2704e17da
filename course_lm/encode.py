"""Items to tensors: token ids, the labels of the reply, and labels inside the prompt that teach where to look.

The labels inside the prompt train small probes on inner layers; the probes are thrown away. They say, for each word of
a source, whether the question asks for it; for each sentence end, whether the sentence answers and its first two
tokens; for some words of a source, and for each word of a reply, which sentence of its source it stands in or repeats.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from course_lm.data import STOP, Item, prompt_texts, stems
from course_lm.lexicon import FRAMES
from course_lm.tokenizer import TURN_END, TURN_START

KINDS = ("", *FRAMES)
PLACES = 8  # sentences of a source that are told apart by number
FIRST = 6  # tokens of a reply that choose: the source, the sentence, and how it begins
EARLY, DOUBTFUL = 5.0, 6.0  # weights of these, and of tokens at which a copy may jump elsewhere
SILENT = 4.0  # how much heavier the first token of an abstention is than that of an answer, where facts are invented
BOLD = 0.6  # the same on the corpus, where half of the abstentions were wrong
ON_CORPUS = ("corpus", "retrieved")  # families of items on the corpus


@dataclass
class Example:
    """ids: prompt and reply. reply_at: index of the first reply token. weights: of the reply's tokens. The other lists
    hold (position, label)."""

    ids: list[int]
    reply_at: int
    asked: list[tuple[int, int]]
    answers: list[tuple[int, int]]
    begins: list[tuple[int, int]]
    spread: list[int]
    kinds: list[tuple[int, int]] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    copied: list[tuple[int, int]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    then: list[tuple[int, int]] = field(default_factory=list)


def chat_text(system: str, user: str) -> str:
    """The prompt as the chat template renders it, up to the assistant's turn."""
    return (f"{TURN_START}system\n{system}{TURN_END}\n" if system else "") + (
        f"{TURN_START}user\n{user}{TURN_END}\n{TURN_START}assistant\n"
    )


def plain_text(user: str) -> str:
    """The prompt without turns, as the base model reads it."""
    return f"{user}\nAnswer:\n"


def weights(ids: list[int], reply_at: int) -> list[float]:
    """How much each token of the reply counts: more at its start, and where the two tokens before it stand in the
    prompt more than once and other tokens follow them."""
    follow: dict[tuple[int, int], set[int]] = {}
    for p in range(2, reply_at):
        follow.setdefault((ids[p - 2], ids[p - 1]), set()).add(ids[p])
    return [EARLY if p - reply_at < FIRST else DOUBTFUL if len(follow.get((ids[p - 2], ids[p - 1]), ())) > 1 else 1.0
            for p in range(reply_at, len(ids))]  # fmt: skip


def encode(tokenizer: Any, item: Any, *, chat: bool = True, rng: random.Random | None = None) -> Example:
    """Ids and labels of one item; ``spread`` are prompt positions on which next-token prediction is trained too."""
    if not isinstance(item, Item):
        from course_lm.encode_task import encode_task

        return encode_task(tokenizer, item)
    system, user, reply = prompt_texts(item)
    head = chat_text(system, "\0").partition("\0")[0] if chat else ""
    prompt = chat_text(system, user) if chat else plain_text(user)
    coded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(coded["input_ids"]), coded["offset_mapping"]
    reply_at = len(ids)
    ids += tokenizer(reply + TURN_END, add_special_tokens=False)["input_ids"]
    start = [index for index, _ in offsets]
    asked, answers, begins, then, kinds, places = [], [], [], [], [], []
    if item.kind:
        ends = (len(head) + len(f"Question: {item.question}"), len(head) + len(user))
        kinds = [(token_at(offsets, end - 1, 0), KINDS.index(item.kind)) for end in ends]
    cursor = len(head) + len(f"Question: {item.question}\n\n")
    token = 0
    for number, text in enumerate(item.sources()):
        text = " ".join(text.split())
        cursor = prompt.index(text, cursor)
        asked += _asked_words(prompt, offsets, cursor, cursor + len(text), item.keys, start)
        place = cursor + (len(item.titles[number]) + 1 if item.titles[number] else 0)
        for index, sentence in enumerate(item.sentences[number]):
            place = prompt.index(sentence, place)
            first = token_at(offsets, place, token)
            last = token = token_at(offsets, place + len(sentence) - 1, first)
            answers.append((last, int(item.gold == (number, index))))
            begins.append((last, ids[first]))
            then.append((last, ids[first + 1]))
            if item.kinds:
                kinds.append((last, KINDS.index(item.kinds[number][index])))
            inner = rng.sample(range(first, last), min(3, last - first)) if rng else []
            places += [(p, min(index, PLACES - 1)) for p in (*inner, last)]
            place += len(sentence)
        cursor += len(text)
    spread = sorted(rng.sample(range(1, reply_at), min(reply_at - 1, 24))) if rng else []
    copied = []
    if item.gold is not None:  # from the token that closes the citation on
        copied = [(p, min(item.gold[1], PLACES - 1)) for p in range(reply_at + 1, len(ids) - 1)]
    heavy = weights(ids, reply_at)
    if item.gold is None:
        heavy[0] *= BOLD if item.family.startswith(ON_CORPUS) else SILENT
    return Example(ids, reply_at, asked, answers, begins, spread, kinds, places, copied, heavy, then)


def token_at(offsets: list[tuple[int, int]], char: int, hint: int) -> int:
    """Index of the token that covers a character, at or after ``hint``."""
    index = hint
    while offsets[index][1] <= char:
        index += 1
    return index


def _asked_words(
    prompt: str, offsets: Any, begin: int, end: int, keys: set[str], start: list[int]
) -> list[tuple[int, int]]:
    """(position, 1 or 0) for the last token of each content word between two characters."""
    import bisect
    import re

    found = []
    for match in re.finditer(r"[^\W_]+", prompt[begin:end]):
        word = match[0].lower()
        if word in STOP:
            continue
        index = bisect.bisect_right(start, begin + match.end() - 1) - 1
        found.append((index, int(bool(stems(word) & keys))))
    return found


def collate(examples: list[Example], pad: int) -> dict[str, Any]:
    """Right-padded ids and flat lists of labelled positions; position p predicts the label at p (already shifted)."""
    import torch

    longest = max(len(e.ids) for e in examples)
    longest += -longest % 8
    ids = torch.full((len(examples), longest), pad)
    flat: dict[str, list[tuple[int, int]]] = {
        name: [] for name in ("reply", "asked", "answers", "begins", "spread", "kinds", "places", "copied", "then")
    }
    weight: list[float] = []
    for row, e in enumerate(examples):
        ids[row, : len(e.ids)] = torch.tensor(e.ids)
        base = row * longest
        flat["reply"] += [(base + p - 1, e.ids[p]) for p in range(e.reply_at, len(e.ids))]
        weight += e.weights
        flat["spread"] += [(base + p - 1, e.ids[p]) for p in e.spread]
        for name in ("asked", "answers", "begins", "kinds", "places", "copied", "then"):
            flat[name] += [(base + p, label) for p, label in getattr(e, name)]
    out: dict[str, Any] = {name: torch.tensor(pairs).reshape(-1, 2).T for name, pairs in flat.items()}
    return {"ids": ids, "weight": torch.tensor(weight), **out}
