"""Rows of a training set: the right to use a document, form, grounding, near-duplicates, hashes. Pure functions.

Lab 02 makes and cleans such rows, its checkers judge them, and lab 03 trains on them. The prompts are those of
``course_lib.prompts``, so that course-lm's chat template renders each row as in its own training.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from course_lib.artifacts_dataset import SftRow
from course_lib.chunking import sections, split_sentences
from course_lib.citations import without_citations
from course_lib.corpus import SHARED, Corpus, Document
from course_lib.prompts import ABSTAIN, REFUSE, SYSTEM, answer_prompt, task_prompt
from course_lib.question_templates import question_for

NEAR = 0.8  # Jaccard similarity of word 1- to 3-grams from which two texts are near-duplicates
LICENCE, RIGHTS = "Apache-2.0", "data/corpus/DATA_CARD.md"
TRAINABLE = ("public", "internal")  # classifications; what is confidential stays out of weights, which cannot forget
QUESTION_WORDS = (4, 40)
REPLY_WORDS = 80
TIERS = ("low", "medium", "high")
_ANSWER = re.compile(r"Question: (?P<question>[^\n]+)\n\n(?P<sources>(?:\[\d+\] [^\n]+\n)+)\nQuestion: (?P=question)")
_TASK = re.compile(r"(?P<ask>[^\n]+)\n\n(?P<sources>\[\d+\] [^\n]+(?:\n\[\d+\] [^\n]+)*)")
_CASE = re.compile(r"(?P<ask>[^\n]+)\n\nCase: (?P<case>[^\n]+)")
_QUOTES = re.compile(r"\[(\d+)\] (.+?)(?= \[\d+\] |$)")
_DUTY = re.compile(r"\b(?:must|shall|has to|needs to|is required to|is obliged to)\b")
_ENGLISH = frozenset("the of is are to in for must a an what how when which does do who by on be with and may".split())
_OTHERS = frozenset("der die das und ist wie lange muss le la les et est el los las que il che een het voor".split())


def normalised(text: str) -> str:
    """Lower case, words and numbers only, single spaces; other forms of a letter and invisible marks are undone."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return " ".join(re.findall(r"\w+", text.lower()))


def digest(text: str) -> str:
    """SHA-256 of the normalised text: equal for texts that differ in case, punctuation and spaces alone."""
    return hashlib.sha256(normalised(text).encode()).hexdigest()


def no_right(document: Document, tenant: str, on: dt.date, hostile: Collection[str] = ()) -> str:
    """Why ``tenant`` may not train on a document on that day, or ``""``. hostile: keys with planted instructions."""
    reasons = {
        "another tenant's document": document.tenant not in (tenant, SHARED),
        "not approved": document.status != "approved" or not document.approved_source,
        "too sensitive": document.classification not in TRAINABLE,
        "out of date": document.fresh_until < on,
        "retention has ended": document.retention_until < on,
        "holds planted instructions": document.key in hostile,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def make_row(
    name: str, task: str, question: str, sources: Sequence[str], reply: str, document: str | None, origin: str
) -> dict[str, Any]:
    """A row of the dataset as JSON. question: what is asked, or for other tasks the instruction."""
    prompt = answer_prompt(question, sources) if task in ("answer", "abstain") else (
        task_prompt(question, sources) if sources else question)  # fmt: skip
    turns = (("system", SYSTEM["answer" if task == "abstain" else task]), ("user", prompt), ("assistant", reply))
    return {"id": name, "task": task, "messages": [{"role": role, "content": text} for role, text in turns],
            "document": document, "origin": origin, "language": "en", "license": LICENCE, "rights": RIGHTS}  # fmt: skip


def sentences_of(document: Document) -> list[str]:
    """The sentences of a document in reading order."""
    return [sentence for _, found in sections(document.body) for sentence in found]


def asked(row: SftRow) -> str:
    """What a row asks: the question, or for other tasks everything below the instruction."""
    match = _ANSWER.fullmatch(row.prompt)
    return match["question"] if match else row.prompt.split("\n\n", 1)[-1]


def own_text(row: SftRow) -> str:
    """What makes a row one of its own: what it asks, and the reply where that is no fixed phrase."""
    return asked(row) if row.reply in (ABSTAIN, REFUSE) else f"{asked(row)} {without_citations(row.reply)}"


def sources_of(prompt: str) -> list[str]:
    """The numbered sources of a prompt, without their numbers; empty where the prompt has another form."""
    match = _ANSWER.fullmatch(prompt) or _TASK.fullmatch(prompt)
    lines = match["sources"].strip().split("\n") if match else []
    good = all(line.startswith(f"[{number}] ") for number, line in enumerate(lines, 1))
    return [line.partition("] ")[2] for line in lines] if good else []


def quoted(row: SftRow) -> list[tuple[int, str]]:
    """(source number, sentence) of each quotation in a reply ``[1] Sentence.``; numbers from 1."""
    return [(int(number), text.strip()) for number, text in _QUOTES.findall(row.reply)]


def form_problems(row: SftRow) -> Iterator[str]:
    """What keeps course-lm's chat template and prompts from rendering the row as in training."""
    if [message.role for message in row.messages] != ["system", "user", "assistant"]:
        yield "the turns are not system, user, assistant"
        return
    system = row.messages[0].content
    right = SYSTEM["answer"] if row.task == "abstain" else SYSTEM[row.task]
    if system != right and not (row.task == "refuse" and system in SYSTEM.values()):
        yield f"the system prompt is not that of {row.task}"
    if any("<|" in message.content for message in row.messages):
        yield "a turn holds a control token"
    formed = _CASE.fullmatch(row.prompt) if row.task == "classify" else row.task == "refuse" or sources_of(row.prompt)
    answering = row.task in ("answer", "abstain")
    if not formed or answering != bool(_ANSWER.fullmatch(row.prompt)):
        yield f"the user turn has not the form of {row.task} prompts"
    low, high = QUESTION_WORDS
    question = asked(row)
    if answering and not (low <= len(question.split()) <= high and question.endswith("?")):
        yield f"the question has not {low} to {high} words and a question mark"
    if len(row.reply.split()) > REPLY_WORDS:
        yield f"the reply has more than {REPLY_WORDS} words"
    if (row.document is None) != (row.task == "refuse"):
        yield "only refusals have no document"


def reply_problems(row: SftRow) -> Iterator[str]:
    """Why a reply does not follow from the sources of its own prompt."""
    sources = sources_of(row.prompt)
    if row.task == "abstain":
        if row.reply != ABSTAIN:
            yield f"the reply is not {ABSTAIN!r}"
    elif row.task == "refuse":
        if row.reply != REFUSE:
            yield f"the reply is not {REFUSE!r}"
    elif row.task in ("answer", "summarise"):
        found, wanted = quoted(row), 1 if row.task == "answer" else 2
        if len(found) != wanted or not row.reply.startswith("["):
            yield f"the reply is not {wanted} quotation after a source number" + "s" * (wanted > 1)
        for number, text in found:
            if not 1 <= number <= len(sources):
                yield f"it cites source {number} of {len(sources)}"
            elif not any(text in said for said in readings(sources[number - 1])):
                yield f"its words are no sentence of source {number}"
    else:
        yield from _json_problems(row, sources)


def _json_problems(row: SftRow, sources: Sequence[str]) -> Iterator[str]:
    try:
        value = json.loads(row.reply)
    except (ValueError, RecursionError):
        yield "the reply is no JSON"
        return
    if row.task == "classify":
        case = _CASE.fullmatch(row.prompt)
        fits = isinstance(value, dict) and set(value) == {"risk", "reason"} and value["risk"] in TIERS
        if not fits or not case or str(value["reason"]) not in case["case"]:
            yield "the reply is not {risk, reason} with words of the case"
        return
    keys = {"actor", "action", "deadline", "source"}
    if not isinstance(value, list) or not all(isinstance(v, dict) and set(v) == keys for v in value):
        yield "the reply is no list of {actor, action, deadline, source}"
        return
    for entry in value:
        number, words = entry["source"], [w for w in (entry["actor"], entry["action"], entry["deadline"]) if w]
        text = sources[number - 1] if isinstance(number, int) and 1 <= number <= len(sources) else ""
        if not all(isinstance(w, str) and w in text for w in words) or not (entry["actor"] and entry["action"]):
            yield f"a duty of source {number} is not in its words"
    duties = sum(bool(_DUTY.search(s)) for text in sources for s in split_sentences(without_title(text)))
    if duties != len(value):
        yield f"the sources state {duties} duties and the reply {len(value)}"


def without_title(source: str) -> str:
    """A source without the title of its document, ``Title: text``. A title has no full stop."""
    head, colon, rest = source.partition(": ")
    return rest if colon and "." not in head else source


def readings(source: str) -> list[list[str]]:
    """The sentences of a source, with and without a title before them."""
    return [split_sentences(source), split_sentences(without_title(source))]


def document_problems(row: SftRow, documents: Mapping[str, Document]) -> Iterator[str]:
    """Where the sources are not what the named document says. documents: by key."""
    if row.document is None:
        return
    document = documents.get(row.document)
    if document is None:
        yield f"there is no document {row.document}"
        return
    known = set(sentences_of(document))
    for number, source in enumerate(sources_of(row.prompt), 1):
        if not any(set(said) <= known for said in readings(source)):
            yield f"source {number} is not in {row.document}"
    if row.task in ("answer", "abstain"):
        yield from _template_problems(row, known)


def _template_problems(row: SftRow, known: Collection[str]) -> Iterator[str]:
    """A question that a template makes of one sentence has that sentence as its answer, and no other."""
    answering = {sentence for sentence in known if question_for(sentence) == asked(row)}
    shown = {sentence for source in sources_of(row.prompt) for said in readings(source) for sentence in said}
    if row.task == "answer" and answering and not answering & {text for _, text in quoted(row)}:
        yield "another sentence of the document answers"
    if row.task == "abstain" and answering & shown:
        yield "a source answers, so there is nothing to abstain from"


def looks_english(text: str) -> bool:
    """Whether English function words outnumber those of German, French, Spanish, Italian and Dutch. A rough filter."""
    found = normalised(text).split()
    return sum(w in _ENGLISH for w in found) > sum(w in _OTHERS for w in found)


def problems(row: SftRow, corpus: Corpus) -> list[str]:
    """Everything that a rule can find wrong with one row: form, reply, document, language. Empty: nothing found.

    Not promised: that the question is worth asking, or that an abstention is right.
    """
    documents = {document.key: document for document in corpus.documents}
    found = [*form_problems(row), *reply_problems(row), *document_problems(row, documents)]
    english = row.language != "en" or row.task == "refuse" or looks_english(f"{asked(row)}")
    return found if english else [*found, "the question is not in the language that the row names"]


def grams(text: str) -> frozenset[str]:
    """Word 1- to 3-grams of a normalised text, as a set."""
    words = normalised(text).split()
    return frozenset(" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Shared over all; two empty sets share nothing."""
    both = len(first & second)
    return both / (len(first) + len(second) - both) if both else 0.0


def near_pairs(texts: Sequence[str], near: float = NEAR) -> list[tuple[int, int, float]]:
    """(i, j, similarity) with i < j for each pair that shares at least ``near`` of its word 1- to 3-grams. Exact, so
    quadratic: good for some hundreds of texts."""
    sets = [grams(text) for text in texts]
    scored = ((i, j, jaccard(sets[i], sets[j])) for i, j in itertools.combinations(range(len(sets)), 2))
    return [(i, j, round(score, 4)) for i, j, score in scored if score >= near]


def leakage(train: Sequence[str], held_out: Sequence[str], near: float = NEAR) -> dict[str, list[tuple[str, str]]]:
    """Held-out texts that stand in the training texts too: {exact, normalised, near}, each (held-out, training) pairs.

    near: from this Jaccard similarity of the sets of word 1- to 3-grams on. A pair is listed once, under its strictest
    name. Training texts without a word are ignored.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    found: dict[str, list[tuple[str, str]]] = {"exact": [], "normalised": [], "near": []}
    plain, exact = {normalised(text): text for text in train if normalised(text)}, set(train)
    if not plain:
        return found
    counter = CountVectorizer(binary=True, ngram_range=(1, 3), token_pattern=r"\w+", dtype="int32")
    known = counter.fit_transform(plain)
    asked_for = counter.transform([normalised(text) for text in held_out])
    sizes = [len(set(counter.build_analyzer()(normalised(text)))) for text in held_out]
    shared, totals, names = (asked_for @ known.T).tocsr(), known.getnnz(axis=1), list(plain)
    for row, text in enumerate(held_out):
        begin, end = shared.indptr[row], shared.indptr[row + 1]
        both, columns = shared.data[begin:end], shared.indices[begin:end]
        alike = both / (totals[columns] + sizes[row] - both)
        if text in exact:
            found["exact"].append((text, text))
        elif normalised(text) in plain:
            found["normalised"].append((text, plain[normalised(text)]))
        elif len(alike) and alike.max() >= near:
            found["near"].append((text, plain[names[columns[alike.argmax()]]]))
    return found
