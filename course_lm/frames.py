"""Facts in words: slots drawn from the lexicon, sentences and questions from frames, all from one generator."""

from __future__ import annotations

import json
import random
import re
import zlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from course_lm import lexicon

HELD_OUT_SHARE = 6  # one word in six is for the test alone
OPENED = 0.12  # share of facts of the wide split that begin with a phrase such as "in practice"
HELD_OUT_QUESTIONS = 2  # so are the last questions of each kind, and its last sentence


def words(text: str) -> list[str]:
    """The entries of a ``|`` list; line breaks inside an entry become spaces."""
    return [" ".join(entry.split()) for entry in text.split("|") if entry.strip()]


def held_out(text: str) -> bool:
    """Whether a word is one of the test's, about one in ``HELD_OUT_SHARE``; the same on every machine."""
    return zlib.crc32(text.encode()) % HELD_OUT_SHARE == 0


def part(entries: list[str], split: str) -> list[str]:
    """The entries of one split; ``train`` never sees what ``test`` is made of."""
    chosen = [entry for entry in entries if held_out(entry) == (split == "test")]
    return chosen if len(chosen) >= 2 else entries


@lru_cache(maxsize=2)
def written(split: str = "train") -> dict[str, Any]:
    """More words, sentences and questions for training alone: {"words": {list: entries}, "frames": {kind: {...}},
    "tasks": {list: entries}}, as ``data/wordings.json`` of the model folder holds them; ``wide`` has those of
    ``data/wordings_wide.json`` too."""
    from course_lib.models import model_folder
    from course_lib.strict import read_text

    found = json.loads(read_text(model_folder() / "data" / "wordings.json"))
    if split == "wide":
        wide = json.loads(read_text(model_folder() / "data" / "wordings_wide.json"))
        found["around"] = wide["around"]
        lists = [(found["tasks"], wide["tasks"]), *((found["frames"][k], wide["frames"][k]) for k in wide["frames"])]
        for own, more in lists:
            for name in more:
                own[name] += more[name]
    return found


def entries(name: str, split: str) -> list[str]:
    """The list ``name`` of the lexicon; training has more of it."""
    own = words(getattr(lexicon, name))
    return own if split == "test" else own + written(split)["words"][name]


@dataclass
class Vocabulary:
    """What one split may say. Lists of entries; verbs are (base, third person, participle, other words). The splits:
    ``train``, ``wide`` (training with every wording there is; ``train`` stays as it is, for what is drawn from it), and
    ``test``.

    The test asks in other words only where training taught them: its own words stand alone, and half of its object
    names join one of them to a word of the training lists (``known``). strange: share of object names and verbs that
    are put together from tokens (``joined``). said: the only sentence frame of a kind, where there is but one.
    """

    split: str
    actors: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    verbs: list[tuple[str, str, str, list[str]]] = field(default_factory=list)
    modifiers: list[str] = field(default_factory=list)
    nouns: list[str] = field(default_factory=list)
    known: tuple[list[str], list[str]] = ([], [])
    strange: float = 0.0
    said: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, split: str, strange: float = 0.0) -> Vocabulary:
        """The vocabulary of ``train``, ``wide`` or ``test``."""
        rows = [line.split("|") for line in lexicon.VERBS.splitlines()]
        verbs = [(r[0], r[1], r[2], r[3].split(",")) for r in rows if not held_out(r[0])]
        lists = (lexicon.ACTORS, lexicon.ROLES, lexicon.MODIFIERS, lexicon.NOUNS)
        actors, roles, modifiers, nouns = (part(words(text), split) for text in lists)
        if split != "test":
            more = written(split)["words"]
            verbs += [(r[0], r[1], r[2], r[3].split(",")) for r in (line.split("|") for line in more["VERBS"])]
            for own, name in ((actors, "ACTORS"), (roles, "ROLES"), (modifiers, "MODIFIERS"), (nouns, "NOUNS")):
                own += more[name]
            return cls(split, actors, roles, verbs, modifiers, nouns, strange=strange)
        verbs += [(r[0], r[1], r[2], [r[2]]) for r in rows if held_out(r[0])] * 3
        modifiers, nouns = ([entry.partition("=")[0] for entry in entries] for entries in (modifiers, nouns))
        known = tuple(part(words(text), "train") for text in (lexicon.MODIFIERS, lexicon.NOUNS))
        return cls(split, actors, roles, verbs, modifiers, nouns, (known[0], known[1]), strange)

    def narrowed(self, rng: random.Random) -> Vocabulary:
        """A training vocabulary of few words that says every fact of a kind in the same way, as one author does. Its
        sentences are alike up to the word that tells them apart."""
        few = {name: rng.sample(getattr(self, name), count) for name, count in
               (("actors", 6), ("roles", 6), ("verbs", 6), ("modifiers", 24), ("nouns", 24))}  # fmt: skip
        said = {kind: rng.choice(_sentences(kind, self.split)) for kind in lexicon.FRAMES}
        return replace(self, **few, said=said)


def _sentences(kind: str, split: str) -> list[str]:
    """Sentence frames of a kind; the test has the last one of the lexicon alone."""
    own = words(lexicon.FRAMES[kind][0])
    return own[-1:] if split == "test" else own[:-1] + written(split)["frames"][kind]["sentences"]


_ONSETS = "b c d f g h k l m n p r s t v z br cl dr fl gr kr pl pr sk st tr vr th sh".split()
_VOWELS = "a e i o u a e i o ai ea io ou".split()
_CODAS = [*"n r l s t x m k th nd rn st v ck nt".split(), *[""] * 8]
_MONTHS = "January February March April May June July August September October November December".split()


def invented(rng: random.Random, syllables: int = 0) -> str:
    """A word that stands in no dictionary, lower case."""
    count = syllables or rng.choice((2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(count))


@lru_cache(maxsize=1)
def pieces() -> tuple[list[str], list[str]]:
    """Letters that begin a word, and letters that go on: what stands in the published tokenizer's vocabulary."""
    from course_lib.models import model_folder
    from course_lib.strict import read_text

    tokens = sorted(json.loads(read_text(model_folder() / "base" / "tokenizer.json"))["model"]["vocab"])
    begin = [t[1:] for t in tokens if t[0] == "\u0120" and len(t) > 2 and t[1:].isascii() and t[1:].isalpha()]
    return begin, [t for t in tokens if len(t) > 1 and t.isascii() and t.isalpha() and t.islower()]


@lru_cache(maxsize=1)
def kept_words() -> set[str]:
    """The words of the objects and verbs that only the test names."""
    test, train = Vocabulary.of("test"), Vocabulary.of("train")
    mine = test.nouns + test.modifiers + [form for verb in test.verbs for form in verb[:3]]
    others = train.nouns + train.modifiers + [form for verb in train.verbs for form in verb[:3]]
    return {word for entry in mine for word in entry.split()} - {w for e in others for w in re.split("[= ]", e)}


def joined(rng: random.Random) -> str:
    """A word of two or three tokens that seldom meet, and none of the test's. Every token is copied in training, also
    the test words' ones."""
    begin, on = pieces()
    while (word := rng.choice(begin) + "".join(rng.choice(on) for _ in range(rng.choice((1, 1, 2))))) in kept_words():
        continue
    return word


_UNITS = ("minutes", "hours", "working days", "days", "weeks", "months", "years", "calendar days", "business days")
_SPELT = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve"]


def span(rng: random.Random) -> str:
    """A time span such as ``72 hours`` or ``three months``."""
    number = rng.choice(_SPELT) if rng.random() < 0.35 else str(rng.choice((rng.randint(2, 99), rng.randint(2, 400))))
    return (
        "one " + rng.choice(("month", "year", "day", "week", "hour"))
        if rng.random() < 0.08
        else (f"{number} {rng.choice(_UNITS)}")
    )


def amount(rng: random.Random) -> str:
    """Money, a share, or a count."""
    roll = rng.random()
    if roll < 0.5:
        value = rng.choice((rng.randint(1, 99) * 10, rng.randint(1, 99) * 1000, rng.randint(5, 999)))
        return f"{rng.choice(('EUR', 'EUR', 'EUR', 'USD', 'CHF'))} {value:,}".replace(",", rng.choice((",", " ")))
    if roll < 0.7:
        return f"EUR {rng.randint(1, 90)} million"
    return f"{rng.randint(1, 99)} %" if roll < 0.9 else f"{rng.randint(2, 500)} items"


def _other_word(rng: random.Random, entry: str, chance: float) -> tuple[str, str]:
    """An entry ``word=other`` as it stands in a sentence and as a question says it."""
    plain, _, other = entry.partition("=")
    return plain, other if other and rng.random() < chance else plain


def date(rng: random.Random) -> str:
    """A day such as ``17 January 2027``, now and then a month or a year alone."""
    year, roll = rng.randint(2018, 2032), rng.random()
    return f"{rng.randint(1, 28)} {rng.choice(_MONTHS)} {year}" if roll < 0.8 else (
        f"{rng.choice(_MONTHS)} {year}" if roll < 0.92 else str(year))  # fmt: skip


@dataclass
class Fact:
    """One fact of one kind: its slots, and the sentence that says it. topic is the object's name."""

    kind: str
    slots: dict[str, str]
    sentence: str
    topic: str

    def question(self, rng: random.Random, split: str) -> str:
        """A question that this fact answers. A question about its article or term names only that."""
        frames = words(lexicon.FRAMES[self.kind][1])
        usable = frames[-HELD_OUT_QUESTIONS:] if split == "test" else (
            frames[:-HELD_OUT_QUESTIONS] + written(split)["frames"][self.kind]["questions"])  # fmt: skip
        if self.kind in ("article", "definition"):
            usable = [f for f in usable if set(_slots(f)) <= self.mentioned()] or usable
        else:
            usable = [f for f in usable if set(_slots(f)) - {"O2", "vp2", "v"} <= self.mentioned()] or usable
        text = rng.choice(usable).format_map(self.slots)
        return text if rng.random() > 0.1 else text[0].lower() + text[1:]

    def mentioned(self) -> set[str]:
        """Slots whose text stands in the sentence, with those a question may vary."""
        low = self.sentence.lower()
        return {name for name, text in self.slots.items() if text.lower() in low} | {"O2"}


def _slots(frame: str) -> list[str]:
    return [piece.split("}")[0] for piece in frame.split("{")[1:]]


def object_name(rng: random.Random, v: Vocabulary) -> tuple[str, str]:
    """A plural noun phrase, and the same in a question's words."""
    first, last, roll = v.modifiers, v.nouns, rng.random()
    if v.known[0] and roll < 0.5:
        first, last = (v.known[0], v.nouns) if roll < 0.25 else (v.modifiers, v.known[1])
    nouns = [_other_word(rng, rng.choice(last), 0.35)]
    modifiers = [_other_word(rng, m, 0.35) for m in rng.sample(first, 2 if rng.random() < 0.2 else 1)]
    if rng.random() < 0.22:
        word = invented(rng)
        modifiers = [(word, word)] if rng.random() < 0.6 else [*modifiers[:1], (word, word)]
    pairs = modifiers + nouns
    if v.strange and rng.random() < v.strange:
        word = joined(rng)
        pairs[rng.randrange(len(pairs))] = (word, word)
    return " ".join(p[0] for p in pairs), " ".join(p[1] for p in pairs)


def make_fact(rng: random.Random, v: Vocabulary, kind: str = "", topic: tuple[str, str] | None = None) -> Fact:
    """A fact of ``kind`` (any when empty) about ``topic`` (a new one when None)."""
    kind = kind or rng.choice(list(lexicon.FRAMES))
    verb, second = rng.choice(v.verbs), rng.choice(v.verbs)
    if v.strange and rng.random() < v.strange:
        base = joined(rng).lower()
        verb = (base, base + "s", base + "ed", [base + "ed"])
    plain, asked = topic or object_name(rng, v)
    regime = rng.choice(entries("REGIMES", v.split))
    if rng.random() < 0.6:
        regime = f"the {invented(rng).capitalize()} {rng.choice(words(lexicon.INVENTED_KINDS))}"
    number = str(rng.randint(1, 120)) + (f"({rng.randint(1, 7)})" if rng.random() < 0.35 else "")
    slots = {
        "A": rng.choice(v.actors), "R": rng.choice(v.roles), "O": plain, "O2": asked, "v": verb[0], "vs": verb[1],
        "vp": verb[2], "vp2": rng.choice(verb[3]) if rng.random() < 0.45 else verb[2], "v2": second[0],
        "T": span(rng), "G": rng.choice(entries("TRIGGERS", v.split)), "C": rng.choice(entries("CHANNELS", v.split)),
        "M": amount(rng), "N": rng.choice(entries("NEEDS", v.split)), "P": rng.choice(words(lexicon.PERIODS)),
        "Z": regime, "n": number, "W": rng.choice(entries("REASONS", v.split)), "D": date(rng),
        "X": invented(rng, 2).capitalize(), "d": rng.choice(words(lexicon.DOCUMENT_KINDS)),
    }  # fmt: skip
    usable = _sentences(kind, v.split)
    frame = v.said.get(kind) or (usable[0] if v.split == "test" else rng.choice(usable))
    sentence = frame.format_map(slots)
    if v.split == "wide" and rng.random() < OPENED:
        named = frame.startswith(("{Z}", "{X}", "{D}", "{M}", "Article"))
        sentence = f"{rng.choice(written('wide')['around']['OPENERS'])} " + (
            sentence if named else sentence[0].lower() + sentence[1:])  # fmt: skip
    if kind == "article" and rng.random() < 0.5:
        sentence = sentence.replace("Article ", "Art. ")
    return Fact(kind, slots, sentence[0].upper() + sentence[1:], plain)


def filler(rng: random.Random, v: Vocabulary) -> str:
    """A sentence that answers nothing that is asked."""
    slots = {"d": rng.choice(words(lexicon.DOCUMENT_KINDS)), "R": rng.choice(v.roles)}
    return rng.choice(entries("FILLER", v.split)).format_map(slots)


def title(rng: random.Random, facts: list[Fact]) -> str:
    """A document title that fits its facts more or less, as real titles do."""
    fact, roll = rng.choice(facts), rng.random()
    kind = rng.choice(words(lexicon.DOCUMENT_KINDS))
    owner = rng.choice(("Meridian Pay", "Halden Bank", invented(rng).capitalize() + " Bank", "Group"))
    if roll < 0.35:
        text = f"{fact.topic} {kind}"
    elif roll < 0.55:
        text = f"{owner} {fact.topic} {kind}"
    elif roll < 0.75:
        text = f"{fact.slots['Z'].removeprefix('the ')} {kind} on {fact.topic}"
    else:
        text = f"{owner} {invented(rng)} {kind}"
    return text[0].upper() + text[1:]
