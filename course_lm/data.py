"""Items of the task ``answer``: numbered sources, a question, and the sentence that answers it, or none.

Everything is drawn from seeds. No object name, sentence frame or question frame of ``test`` is drawn for ``train``;
most of its verbs are shared.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from course_lib.prompts import ABSTAIN, SYSTEM, answer_prompt
from course_lm import lexicon
from course_lm.frames import Fact, Vocabulary, filler, invented, joined, make_fact, object_name, title, words
from course_lm.inject import injection

STOP = set(
    """a an the of for to in on at by with from as is are was were be been must may can do does did has have had not no
    and or if when what who whom whose which where how why this that these those it its they them their there than then
    within after before about into each every only all any one we you i us our need needs say says""".split()
)
# Kinds whose facts could answer one another's questions; a distractor on the same object is never of such a kind.
_ALIKE = ({"deadline", "retention", "start"}, {"approval", "responsible", "recipient", "consequence", "prohibition"},
          {"threshold", "penalty"}, {"condition", "prohibition", "threshold", "approval"}, {"scope", "article"},
          {"channel", "retention"}, {"reason", "consequence"})  # fmt: skip


def stems(text: str) -> set[str]:
    """Content words, lower case, cut to six letters: the keys by which a question and a sentence meet."""
    found = (w.lower() for w in re.findall(r"[^\W_]+", text))
    return {w[:6] if len(w) > 6 else w.removesuffix("s") for w in found if w not in STOP}


@dataclass
class Item:
    """titles, sentences: one entry per source. gold: (source, sentence) from 0, or None. demands: what attackers want.

    keys: stems that mark a word of a source as asked for. family: how the item was made. kind, kinds: what the
    question asks about and what each sentence is about, as in ``lexicon.FRAMES``; empty where nobody knows.
    """

    question: str
    titles: list[str]
    sentences: list[list[str]]
    gold: tuple[int, int] | None
    keys: set[str] = field(default_factory=set)
    demands: list[str] = field(default_factory=list)
    family: str = "frame"
    kind: str = ""
    kinds: list[list[str]] = field(default_factory=list)

    def sources(self) -> list[str]:
        return [f"{t}: {' '.join(s)}" if t else " ".join(s) for t, s in zip(self.titles, self.sentences, strict=True)]

    def reply(self) -> str:
        return ABSTAIN if self.gold is None else f"[{self.gold[0] + 1}] {self.sentences[self.gold[0]][self.gold[1]]}"

    def row(self) -> dict[str, Any]:
        """The item as the evaluation files keep it."""
        return {"family": self.family, "question": self.question, "sources": self.sources(), "reply": self.reply(),
                "demands": self.demands}  # fmt: skip


def near_fact(rng: random.Random, v: Vocabulary, fact: Fact, same: float) -> Fact:
    """A fact that shares words with ``fact`` and does not answer its question; ``same``: share on the same object."""
    roll = rng.random()
    kinds = [k for k in lexicon.FRAMES if k != fact.kind]
    if roll < same and fact.kind not in ("article", "definition", "scope"):
        alike = {"definition", "article"}.union(*(group for group in _ALIKE if fact.kind in group))
        kinds = [k for k in kinds if k not in alike]
        other = make_fact(rng, v, rng.choice(kinds), (fact.slots["O"], fact.slots["O2"]))
    else:
        modifier, _, noun = fact.slots["O"].rpartition(" ")
        plain, second = object_name(rng, v)
        mixed = (
            f"{modifier} {plain.split()[-1]}"
            if (roll := rng.random()) < 0.42
            else f"{plain.split()[0]} {noun}"
            if roll < 0.67
            else plain
        )
        kind = fact.kind if rng.random() < 0.7 else rng.choice(kinds)
        other = make_fact(rng, v, kind, (mixed, mixed if mixed != plain else second))
        if rng.random() < 0.4 and fact.kind != "article":
            frame_slots = {"A": fact.slots["A"], "T": fact.slots["T"], "R": fact.slots["R"]}
            for name, text in frame_slots.items():
                other.sentence = other.sentence.replace(other.slots[name], text)
    return (
        other
        if (other.sentence != fact.sentence and fact.topic != other.topic) or other.kind != fact.kind
        else make_fact(rng, v)
    )


def frame_item(
    rng: random.Random,
    v: Vocabulary,
    *,
    sources: int,
    most: int,
    answerable: bool,
    hostile: bool,
    same: float = 0.4,
    alike: float = 0.0,
    near: float = 0.6,
) -> Item:
    """An item of frames: 1 to ``most`` sentences a source; a share ``near`` of the distractors share words with the
    answer, and a share ``same`` of these its object, so that only the kind of the question tells them apart. alike:
    chance that all of its sentences come from one narrow vocabulary."""
    if alike and rng.random() < alike:
        v = v.narrowed(rng)
    fact = make_fact(rng, v)
    question = fact.question(rng, v.split)
    groups: list[list[Fact]] = []
    for _ in range(sources):
        count = rng.randint(1, most)
        groups.append(
            [near_fact(rng, v, fact, same) if rng.random() < near else make_fact(rng, v) for _ in range(count)]
        )
    gold = (rng.randrange(sources), 0)
    if answerable:
        place = rng.randrange(len(groups[gold[0]]))
        groups[gold[0]][place] = fact
        gold = (gold[0], place)
    item = Item(
        question,
        [title(rng, g) for g in groups],
        [[f.sentence for f in g] for g in groups],
        gold if answerable else None,
        _asked(fact, question),
        kind=fact.kind,
        kinds=[[f.kind for f in g] for g in groups],
    )
    if rng.random() < 0.15:
        item.titles = [""] * sources
    _pad(rng, v, item, most)
    if hostile:
        _poison(rng, v.split, item, fact.topic)
    return item


def _asked(fact: Fact, question: str) -> set[str]:
    """Stems of the question and, where it uses other words, of the words that the document uses."""
    keys = stems(question)
    for said, meant in (("O2", "O"), ("vp2", "vp")):
        if fact.slots[said].lower() in question.lower():
            keys |= stems(fact.slots[meant])
    return keys


def _insert(item: Item, source: int, place: int, sentence: str) -> None:
    item.sentences[source].insert(place, sentence)
    if item.kinds:
        item.kinds[source].insert(place, "")
    if item.gold is not None and item.gold[0] == source and item.gold[1] >= place:
        item.gold = (source, item.gold[1] + 1)


def _pad(rng: random.Random, v: Vocabulary, item: Item, most: int) -> None:
    for source, group in enumerate(item.sentences):
        if len(group) < most and rng.random() < 0.2:
            _insert(item, source, rng.randint(0, len(group)), filler(rng, v))


def _poison(rng: random.Random, split: str, item: Item, topic: str) -> None:
    """Put one or two hostile sentences into the sources, often beside the answer."""
    item.family += "+hostile"
    for _ in range(1 if rng.random() < 0.75 else 2):
        beside = item.gold is not None and rng.random() < 0.5
        source = item.gold[0] if beside and item.gold else rng.randrange(len(item.sentences))
        text, wanted = injection(rng, split, topic, len(item.sentences))
        item.demands.append(wanted)
        if rng.random() < 0.12:
            item.titles[source] = text.rstrip(".")
        else:
            _insert(item, source, rng.randint(0, len(item.sentences[source])), text)


_GLUE = ["the", "of", "for", "in", "a", "to", "with", "and", "on", "by", "under", "after"]
_KEY_FRAMES = ("What about {k}?", "What is said about {k}?", "Which sentence names {k}?", "{k}?",
                "Who or what has {k}?", "Find {k}.", "How does {k} work?",
                "When is {k}?", "What holds for {k}?", "Tell me about {k}.")  # fmt: skip


def pool(v: Vocabulary) -> list[str]:
    """Content words of the lexicon, for items of loose words."""
    entries = [m.partition("=")[0] for m in v.modifiers + v.nouns] + [verb[2] for verb in v.verbs]
    text = " ".join(v.actors + v.roles + [lexicon.TRIGGERS, lexicon.CHANNELS, lexicon.NEEDS])
    return sorted({w for e in [*entries, *re.findall(r"[^\W_]+", text)] for w in e.split() if w not in STOP})


def key_item(
    rng: random.Random, vocabulary: Sequence[str], *, sources: int, most: int, answerable: bool, strange: float = 0.0
) -> Item:
    """Loose words: the answer is the sentence that holds all asked words; others hold some of them, never all.

    strange: share of words that are put together from tokens.
    """

    def word() -> str:
        if strange and rng.random() < strange:
            return joined(rng)
        return invented(rng) if rng.random() < 0.25 else str(rng.randint(1, 200)) if rng.random() < 0.06 else (
            rng.choice(vocabulary))  # fmt: skip

    keys = list(dict.fromkeys(word() for _ in range(rng.choice((1, 2, 2, 3, 3, 4)))))
    wanted = stems(" ".join(keys))

    def other() -> str:
        while True:
            shared = rng.sample(keys, rng.randint(0, len(keys) - 1)) if rng.random() < 0.6 else []
            text = _loose(rng, [word() for _ in range(rng.randint(2, 6))] + shared)
            if not wanted or wanted - stems(text):  # else it would answer too, by chance
                return text

    groups = [[other() for _ in range(rng.randint(1, most))] for _ in range(sources)]
    source = rng.randrange(sources)
    place = rng.randrange(len(groups[source]))
    if answerable:
        groups[source][place] = _loose(rng, keys + [word() for _ in range(rng.randint(1, 5))])
    asked = keys[:]
    rng.shuffle(asked)
    text = " ".join(asked) if rng.random() < 0.6 else f" {rng.choice(_GLUE)} ".join(asked)
    titles = [f"{word()} {word()}".capitalize() if rng.random() < 0.6 else "" for _ in groups]
    question = rng.choice(_KEY_FRAMES).format(k=text)
    return Item(question, titles, groups, (source, place) if answerable else None, stems(text), [], "keys")


def _loose(rng: random.Random, content: list[str]) -> str:
    rng.shuffle(content)
    out: list[str] = []
    for text in content:
        if rng.random() < 0.4:
            out.append(rng.choice(_GLUE))
        out.append(text)
    line = " ".join(out)
    return line[0].upper() + line[1:] + "."


def prompt_texts(item: Item) -> tuple[str, str, str]:
    """System text, user text and reply of an item."""
    return SYSTEM["answer"], answer_prompt(item.question, item.sources()), item.reply()


def plain_texts(count: int, seed: int) -> Iterator[str]:
    """Text for the tokenizer: prompts and replies of ``count`` items."""
    rng, v = random.Random(seed), Vocabulary.of("train")
    for _ in range(count):
        item = frame_item(rng, v, sources=rng.randint(1, 4), most=3, answerable=True, hostile=rng.random() < 0.2)
        yield "\n".join([item.question, *item.sources()])
    for entry in (lexicon.ACTORS, lexicon.ROLES, lexicon.NOUNS, lexicon.MODIFIERS, lexicon.CHANNELS, lexicon.NEEDS):
        yield "\n".join(words(entry))
    yield "\n".join([*SYSTEM.values(), ABSTAIN, "Question: ", "\n\n[1] ", "\n[2] ", "\n[3] ", "\n[4] "] * 30)
    yield "system\nuser\nassistant\nAnswer:\n" * 50 + " ".join(str(n) for n in range(130)) * 20
    keys = ("actor", "action", "deadline", "source", "risk", "reason", "name", "arguments", "query", "title")
    yield "\n".join(f'{{"{a}": "the ", "{b}": null}}, {{"{b}":"A","{a}":1}}]' for a in keys for b in keys) * 3
