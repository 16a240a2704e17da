"""Items on the corpus: real sentences, real neighbours as distractors, and questions made from the sentences by rule.

The locked questions of the retrieval evaluation are never read here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from course_lm import lexicon
from course_lm.data import STOP, Item, _poison, stems
from course_lm.frames import Vocabulary, words

_TIME = re.compile(
    r"\b(?:within|for|after|every|before|at least|at most|no later than|up to|until|by)?\s*"
    r"(?:at least |at most |up to )?"
    r"(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|twelve) (?:further |working |business |calendar )?"
    r"(?:minute|hour|day|week|month|year)s?\b", re.I)  # fmt: skip
_OFTEN = re.compile(
    r"\b(?:every (?:\w+ )?(?:day|week|month|quarter|year|hour)s?|daily|weekly|monthly|quarterly|yearly|once a \w+)\b",
    re.I,
)
_MONEY = re.compile(r"\b(?:EUR|USD|GBP|CHF) ?[\d ,.]+(?: million| billion)?|\b\d+(?:\.\d+)? ?%")
_ARTICLE = re.compile(r"\bArt\. (\d+[a-z]?(?:\(\w+\))*) ([A-Z][\w ]*?(?= [a-z]))")
_AUX = re.compile(r"^(.+?) (is|are|must|may|can|was|were|will|should|cannot) (?:not )?(.+)\.$")
_ASKS = {
    "time": ("How long", "How soon", "When", "By when", "What is the deadline:", "How many days or months",
             "How quickly"),
    "often": ("How often", "How frequently", "At what interval"),
    "money": ("How much", "What amount", "What is the limit:", "Up to what amount", "What is the percentage:",
              "How high"),
    "other": ("What", "Which", "What", "Who", "Where", "How", "Why", "Under what condition", "What happens when"),
}  # fmt: skip
_EXTRA = """notify=report|must=have to|staff=employees|delete=erase|customer=client|supplier=vendor|confirm=acknowledge|
kept=retained|kept=stored|approves=signs off|begins=starts|fine=penalty|complaint=grievance|merchant=shop|breach=leak|
payment=transfer|refund=money back|card=payment card|password=secret|laptop=computer|salary=pay|limit=ceiling|
board=directors|outage=downtime|incident=event|fee=charge|loan=credit|transaction=payment|employee=worker|manager=boss|
firm=company|review=check|reviewed=checked|reviews=checks|tested=tried|ends=stops|reports=informs|sends=passes|holds=keeps|grants=gives|
requires=demands|covers=includes|allows=permits|forbids=prohibits|names=lists|quickly=soon|yearly=every year|
once=one time|annually=each year|identity=who someone is|deadline=time limit|backup=copy|access=entry|
authority=regulator|
person=individual"""
RETRIEVED = 0.8  # share of corpus items whose sources a retriever chose
UNRELATED = 0.3  # share of these without an answer whose sources have nothing to do with the question
RANKED = 0.9  # share of these whose sources stand as the retriever ranked them, best first


@dataclass(frozen=True)
class Passage:
    """Sentences that stand together in one document, with the document's title and key."""

    key: str
    title: str
    sentences: tuple[str, ...]


def passages(root: str | None = None) -> list[Passage]:
    """All sections of the corpus as passages of whole sentences, in a fixed order."""
    from course_lib.chunking import chunk_document
    from course_lib.corpus import load_corpus

    found = []
    for document in load_corpus(root).documents:
        for chunk in chunk_document(document, 90, 0):
            if chunk.sentences:
                found.append(Passage(document.key, chunk.title, tuple(chunk.sentences)))
    return found


@lru_cache(maxsize=1)
def synonyms() -> dict[str, list[str]]:
    """Other words for a word, both ways."""
    table: dict[str, list[str]] = {}
    pairs = [e.split("=") for e in words(lexicon.MODIFIERS) + words(lexicon.NOUNS) + words(_EXTRA) if "=" in e]
    for line in lexicon.VERBS.splitlines():
        base, third, participle, others = line.split("|")
        pairs += [[w, o] for o in others.split(",") for w in (base, third, participle)]
    for left, right in pairs:
        table.setdefault(left.lower(), []).append(right)
        if " " not in right:
            table.setdefault(right.lower(), []).append(left)
    return table


def _reword(rng: random.Random, text: str, chance: float, keys: set[str]) -> str:
    """Words replaced by others of like meaning or another ending; what they replaced joins ``keys``."""
    out = []
    for word in text.split():
        core = re.sub(r"\W", "", word).lower()
        options = synonyms().get(core, [])
        if options and rng.random() < chance:
            keys |= stems(core)
            word = rng.choice(options)
        elif core not in STOP and len(core) > 4 and rng.random() < chance * 0.5:
            keys |= stems(core)
            word = _other_ending(rng, word)
        out.append(word)
    return " ".join(out)


def _other_ending(rng: random.Random, word: str) -> str:
    for ending, others in (("ies", ("y",)), ("ing", ("", "ed")), ("ed", ("", "ing", "es")), ("ation", ("ated", "e")),
                           ("ment", ("",)), ("s", ("",)), ("e", ("es", "ing")), ("", ("s", "ed", "ing"))):  # fmt: skip
        if word.lower().endswith(ending) and len(word) - len(ending) > 3:
            return word[: len(word) - len(ending)] + rng.choice(others)
    return word


def question_for(rng: random.Random, sentence: str, title: str) -> tuple[str, set[str]]:
    """A question that ``sentence`` answers, in words that vary, and the stems that it asks for."""
    keys: set[str] = set()
    article = _ARTICLE.search(sentence)
    if article and rng.random() < 0.45:
        number, law = article[1], article[2].strip()
        rest = " ".join(_content(rng, sentence[article.end() :], 0.4))
        text = rng.choice((f"What does Art. {number} {law} require?", f"What does article {number} of the {law} say?",
                           f"What follows from Article {number} {law}?", 
                            f"What does {law} Art. {number} say about {rest}?",
                           f"Which article of {law} is about {rest}?", f"What is in Article {number}?"))  # fmt: skip
        return text, stems(text)
    kinds = [
        (name, m) for name, p in (("often", _OFTEN), ("time", _TIME), ("money", _MONEY)) if (m := p.search(sentence))
    ]
    name, match = rng.choice(kinds) if kinds and rng.random() < 0.75 else ("other", None)
    rest = sentence if match is None else sentence[: match.start()] + sentence[match.end() :]
    rest = " ".join(rest.split()).replace(" .", ".")
    text = _inverted(rng, rest, name) or _keyword_form(rng, rest, name)
    text = _reword(rng, text, rng.choice((0.0, 0.2, 0.45)), keys)
    if rng.random() < 0.25 and title:
        extra = " ".join(w for w in title.split() if w.lower() not in STOP)
        text = rng.choice((f"{text} in the {title}", f"{title}: {text}", f"{text} at {extra}"))
    text = text.strip(" .?") + "?"
    return text, stems(text) | keys


def _inverted(rng: random.Random, rest: str, kind: str) -> str | None:
    """``The file is kept.`` to ``How long is the file kept``; None where the sentence has no auxiliary to move."""
    match = _AUX.match(rest)
    if match is None or rng.random() < 0.35 or len(match[1].split()) > 12:
        return None
    subject, aux, tail = match.groups()
    if kind == "other" and rng.random() < 0.4:
        return f"{rng.choice(('Who', 'What', 'Which one'))} {aux} {tail}"
    subject = subject if subject.split()[0].isupper() else subject[0].lower() + subject[1:]
    asks = _ASKS[kind] if kind != "other" else ("", "When", "Why", "How", "In which case", "Where")
    ask = rng.choice(asks)
    if rng.random() < 0.5:
        tail = " ".join(tail.split()[: rng.randint(2, 8)])
    body = f"{aux} {subject} {tail}"
    return f"{ask} {body}" if ask else body[0].upper() + body[1:]


def _content(rng: random.Random, text: str, share: float) -> list[str]:
    """A share of the content words of a text, at least two where there are two, in their order."""
    found = [w.strip(".,;:()") for w in text.split() if w.strip(".,;:()").lower() not in STOP and len(w) > 1]
    count = min(len(found), max(2, round(share * len(found))))
    return [found[i] for i in sorted(rng.sample(range(len(found)), count))]


def _keyword_form(rng: random.Random, rest: str, kind: str) -> str:
    """A question word and some of the sentence's content words, joined by small words."""
    kept = _content(rng, rest, rng.choice((0.35, 0.5, 0.7, 0.9)))
    if rng.random() < 0.2:
        rng.shuffle(kept)
    glue = ("is", "the", "of", "for", "must", "are", "a", "to", "in", "does", "do", "be")
    parts = [w if rng.random() < 0.5 else f"{rng.choice(glue)} {w}" for w in kept]
    lowered = [p if p.isupper() or rng.random() < 0.2 else p[0].lower() + p[1:] for p in parts]
    return f"{rng.choice(_ASKS[kind])} {' '.join(lowered)}"


def planted() -> list[str]:
    """The hostile sentences of the corpus, which stay out of training so that they remain a test."""
    import json

    from course_lib.catalog import repo_root
    from course_lib.strict import read_text

    path = repo_root() / "data" / "evals" / "rag" / "hostile.json"
    return [text for row in json.loads(read_text(path)) for text in row["planted"]] if path.exists() else []


def written_questions(name: str = "questions") -> dict[str, list[str]]:
    """Questions written for the corpus, by a part of the sentence that answers them.

    name: ``questions``, or ``questions_wide`` for those in quite other words, which training alone reads.
    """
    from course_lib.models import model_folder
    from course_lib.strict import read_text

    found: dict[str, list[str]] = {}
    for line in read_text(model_folder() / "data" / f"{name}.tsv").splitlines():
        part, *questions = line.split("\t")
        found.setdefault(part, []).extend(questions)
    return found


def _clean(found: list[Passage]) -> list[Passage]:
    hostile = planted()
    kept = [Passage(p.key, p.title, tuple(s for s in p.sentences if not any(h in s for h in hostile))) for p in found]
    return [p for p in kept if p.sentences]


def sentences(found: Sequence[Passage]) -> dict[str, Passage]:
    """Every sentence of ``found`` once, with the last passage that holds it, in the order of its first."""
    return {sentence: passage for passage in found for sentence in passage.sentences}


def clean_passages(root: str | None = None) -> list[Passage]:
    """The corpus without its hostile sentences: what training may read."""
    return _clean(passages(root))


def maker(
    split: str = "train", root: str | None = None, *, retrieve: Callable[[str], list[tuple[Passage, str]]] | None = None
) -> Callable[..., Item]:
    """A function that draws items on corpus text; ``test`` poisons with the test's hostile wordings.

    retrieve: what a retriever finds for a question (``neighbours.nearest``); with it, ``RETRIEVED`` of the items
    have them as their sources, each of one sentence.
    """
    found = clean_passages(root)
    written = [*written_questions().items(), *written_questions("questions_wide").items()]
    asked = [(p, i, text) for part, texts in written for p in found for i, s in enumerate(p.sentences) if part in s
             for text in texts]  # fmt: skip
    by_key: dict[str, list[Passage]] = {}
    for passage in found:
        by_key.setdefault(passage.key, []).append(passage)
    folders = {p.key: p.key.split("-")[0] for p in found}
    vocabulary = Vocabulary.of(split)

    def draw(rng: random.Random, *, sources: int, most: int, answerable: bool, hostile: bool) -> Item:
        if asked and split == "train" and rng.random() < 0.7:
            home, place, question = rng.choice(asked)
            gold, keys = home.sentences[place], stems(question)
        else:
            home = rng.choice(found)
            place = rng.randrange(len(home.sentences))
            gold = home.sentences[place]
            question, keys = question_for(rng, gold, home.title)
        if retrieve is not None and rng.random() < RETRIEVED:
            ranked = retrieve(question)
            if not answerable and rng.random() < UNRELATED:
                drawn = [(p, rng.choice(p.sentences)) for p in rng.sample(found, 20) if p.title != home.title]
                ranked = list({sentence: (p, sentence) for p, sentence in drawn}.values())
            item = _retrieved(rng, ranked, home, gold, sources, answerable)
            item.question, item.keys = question, keys
            if hostile:
                _poison(rng, vocabulary.split, item, " ".join(_content(rng, gold, 0.3)))
            return item
        others = [p for p in found if p.key == home.key or p.title != home.title]  # no other version of the document
        kin = [p for p in others if folders[p.key] == folders[home.key] and p is not home]
        item = Item(question, [], [], None, keys, [], "corpus")
        spot = rng.randrange(sources)
        for number in range(sources):
            if number == spot:
                title = home.title
                window = _window(rng, home, most, place)
                if not answerable:
                    window = [s for s in window if s != gold]
                    if not window:
                        other = rng.choice(kin or others)
                        window, title = [s for s in _window(rng, other, most, None) if s != gold], other.title
            else:
                near = rng.choice(by_key[home.key]) if rng.random() < 0.5 else rng.choice(kin or others)
                near = near if rng.random() < 0.8 else rng.choice(others)
                window, title = [s for s in _window(rng, near, most, None) if s != gold], near.title
                if not window:
                    other = rng.choice(others)
                    window, title = [s for s in _window(rng, other, most, None) if s != gold], other.title
            item.titles.append(title)
            item.sentences.append(window or ["This page has no rules."])
        if answerable:
            item.gold = (spot, item.sentences[spot].index(gold))
        if hostile:
            _poison(rng, vocabulary.split, item, " ".join(_content(rng, gold, 0.3)))
        return item

    return draw


def _retrieved(
    rng: random.Random, ranked: list[tuple[Passage, str]], home: Passage, gold: str, sources: int, answerable: bool
) -> Item:
    """An item, still without its question, on sentences of ``ranked`` but for other versions of the home document.

    The sentence ``gold`` stands among its sources if, and only if, it is answerable. Most have the order of ``ranked``,
    so that the model learns how far to trust it.
    """
    others = [(p.title, s) for p, s in ranked if s != gold and (p.title != home.title or p.key == home.key)]
    count = sources - 1 if answerable else sources
    rows = rng.sample(others[: count + 2], min(count, len(others)))
    rows += [(home.title, gold)] if answerable else []
    if rng.random() < RANKED:
        order = [s for _, s in ranked] + [gold]  # last where the retriever did not find it
        rows.sort(key=lambda row: order.index(row[1]))
    else:
        rng.shuffle(rows)
    place = ([s for _, s in rows].index(gold), 0) if answerable else None
    return Item("", [t for t, _ in rows], [[s] for _, s in rows], place, family="retrieved")


def _window(rng: random.Random, passage: Passage, most: int, place: int | None) -> list[str]:
    """Up to ``most`` neighbouring or scattered sentences of a passage in their order, with the one at ``place``."""
    count = min(len(passage.sentences), rng.randint(1, most))
    chosen = set(rng.sample(range(len(passage.sentences)), count))
    if place is not None and place not in chosen:
        chosen = set(list(chosen)[: count - 1]) | {place}
    return [passage.sentences[i] for i in sorted(chosen)]
