"""The course's locked tests against training rows: copies, near-copies, paraphrases; and what may be told of the tests.

A row can carry a test case in three ways: its words, its words in other dress, or other words for the same question
with the same answer. The first two need no model. The third compares questions by a sentence embedding, and only where
the answer is the same: alike questions about two different limits are no leak.

All abstentions have one answer, so there it tells nothing. Two other things stand in for it: the sources, where the
case brings its own, and how much more alike two questions are than each is to the open questions of the corpus. In one
field every question is alike: "How long does Meridian Pay keep ..." is near a hundred others and no paraphrase of any.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from course_lib.artifacts_dataset import SftRow
from course_lib.chunking import split_sentences
from course_lib.citations import without_citations
from course_lib.corpus import Corpus, load_questions
from course_lib.datasets import (
    asked,
    digest,
    leakage,
    normalised,
    own_text,
    sentences_of,
    sources_of,
    without_title,
)
from course_lib.prompts import ABSTAIN, REFUSE
from course_lib.question_templates import question_for

if TYPE_CHECKING:
    import numpy as np

    from course_lib.embeddings import Embedder

SETS = ("locked", "corpus", "tasks")
NEIGHBOURS = 3  # open questions that tell how crowded it is around a question
MARGIN = 0.22  # cosine above that crowd from which two questions without sources and answers are one (test_leaks.py)
_NUMBER = re.compile(r"\d+[a-z]?(?:\(\w+\))*")
RESERVED = ("data", "evals", "reserved", "reserved.json")


@dataclass(frozen=True, slots=True)
class LockedCase:
    """One case of a locked test. text: what identifies it. question: empty where nothing is asked. answers: texts of
    which one must stand in a reply with the same answer; empty when the right answer is to abstain. documents: keys of
    those that answer, where an answer is short enough to stand elsewhere too; facts: their sentences, normalised."""

    id: str
    text: str
    question: str
    answers: tuple[str, ...]
    documents: tuple[str, ...] = ()
    facts: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()


class Pair(NamedTuple):
    """A training row and the test case that it carries. kind: exact, normalised, near, paraphrase or unanswerable."""

    kind: str
    row: str
    case: str
    similarity: float


def audit_text(row: Mapping[str, Any]) -> str:
    """What makes a row of a test file an item of its own: what is asked, and the reply where it is no fixed phrase."""
    question = row["question"] if "question" in row else row["messages"][1]["content"].split("\n\n", 1)[-1]
    return question if row["reply"] in (ABSTAIN, REFUSE) else f"{question} {row['reply']}"


def model_cases() -> list[LockedCase]:
    """The locked cases of course-lm. Raises DataError where they were not handed out."""
    from course_lib.models import model_folder
    from course_lib.strict import json_rows

    cases = []
    for name in SETS:
        for row in json_rows(model_folder() / "evals" / f"{name}.jsonl"):
            silent = row["reply"] == ABSTAIN
            answers = () if silent else (without_citations(row["reply"]),)
            text, shown = without_citations(audit_text(row)), _shown(row.get("sources", ()) if silent else ())
            cases.append(LockedCase(row["id"], text, row.get("question", ""), answers, sources=shown))
    return cases


def locked_cases(corpus: Corpus) -> list[LockedCase]:
    """All locked cases of the course: those of retrieval, answered in ``corpus``, then those of course-lm."""
    cases = []
    for q in load_questions("locked_test"):
        facts = frozenset(map(normalised, _own_sentences(corpus, q.expected_docs, q.answers)))
        cases.append(LockedCase(q.id, q.question, q.question, q.answers, q.expected_docs, facts))
    return cases + model_cases()


def copies(rows: Sequence[SftRow], cases: Sequence[LockedCase], near: float) -> list[Pair]:
    """Cases that stand in a row word for word, in other dress, or with ``near`` of their word runs; strictest first."""
    by_text: dict[str, str] = {}
    for row in rows:
        for text in (asked(row), own_text(row)):
            by_text.setdefault(text, row.id)
    ids: dict[str, str] = {}
    for case in cases:
        ids.setdefault(case.text, case.id)
    found = leakage(list(by_text), list(ids), near)
    score = {"exact": 1.0, "normalised": 1.0, "near": near}
    return [Pair(kind, by_text[mine], ids[text], score[kind]) for kind, pairs in found.items() for text, mine in pairs]


def same_answer(row: SftRow, case: LockedCase) -> bool:
    """Whether a row answers as the case must be answered: one of its texts, or the same abstention."""
    if not case.question or row.task not in ("answer", "abstain", "summarise"):
        return False
    if row.reply == ABSTAIN or not case.answers:
        return row.reply == ABSTAIN and not case.answers
    said = _said(row.reply)
    own = not case.documents or row.document in case.documents or any(f" {fact} " in said for fact in case.facts)
    return own and any(f" {text} " in said for text in map(_plain, case.answers) if text)


# Every row is compared with every case, so their texts are normalised once.
_plain = functools.lru_cache(maxsize=4096)(normalised)


@functools.lru_cache(maxsize=4096)
def _said(reply: str) -> str:
    return f" {normalised(without_citations(reply))} "


def numbers_fit(first: str, second: str) -> bool:
    """Whether two questions can be one: where both name numbers, such as articles, they share one."""
    found = [set(_NUMBER.findall(text)) for text in (first, second)]
    return not (found[0] and found[1]) or bool(found[0] & found[1])


def open_questions(corpus: Corpus) -> list[str]:
    """Questions that templates make of the sentences on which no locked case rests."""
    reserved = load_reserved()
    found = {q for d in corpus.documents for s in sentences_of(d)
             if digest(s) not in reserved["facts"] and (q := question_for(s))}  # fmt: skip
    return sorted(q for q in found if digest(q) not in reserved["asked"])


def _shown(sources: Iterable[str]) -> frozenset[str]:
    """The sentences of some sources, normalised, without the titles before them."""
    return frozenset(normalised(s) for source in sources for s in split_sentences(without_title(source)))


def crowding(texts: Sequence[str], vectors: np.ndarray, crowd: Sequence[str], crowd_vectors: np.ndarray) -> np.ndarray:
    """Mean cosine of each text to the three of ``crowd`` that are most like it, itself left out; shape (texts,)."""
    import numpy as np

    alike, place = vectors @ crowd_vectors.T, {normalised(text): number for number, text in enumerate(crowd)}
    for number, text in enumerate(texts):
        if (own := place.get(normalised(text))) is not None:
            alike[number, own] = -1.0
    return np.sort(alike, axis=1)[:, -NEIGHBOURS:].mean(axis=1)


def paraphrases(
    rows: Sequence[SftRow], cases: Sequence[LockedCase], embedder: Embedder, least: float, least_abstain: float,
    crowd: Sequence[str],
) -> list[Pair]:  # fmt: skip
    """Rows with the answer of a case whose question is alike: cosine at least ``least``. Most alike first.

    Where the right answer is to abstain, ``least`` is enough when the row shows half of the case's sources. Other
    questions must be very alike, ``least_abstain``, or, to a case that brings no sources, more alike by ``MARGIN`` than
    both are to the ``crowd`` (``open_questions``): the cosine minus the mean of both ``crowding`` values, after
    cross-domain similarity local scaling (Conneau et al., 2018). Raises what the embedder raises.
    """
    pairs = [(row, case) for row in rows for case in cases
             if same_answer(row, case) and numbers_fit(asked(row), case.question)]  # fmt: skip
    if not pairs:
        return []
    texts = sorted({text for row, case in pairs for text in (asked(row), case.question)})
    vectors = embedder.encode(texts, persist=False)
    around = crowding(texts, vectors, crowd, embedder.encode(crowd))
    shown = {row.prompt: _shown(sources_of(row.prompt)) for row, case in pairs if case.sources}
    place, found = {text: number for number, text in enumerate(texts)}, []
    for row, case in pairs:
        mine, its = place[asked(row)], place[case.question]
        alike = round(float(vectors[mine] @ vectors[its]), 4)
        same = case.answers or (case.sources and 2 * len(case.sources & shown[row.prompt]) >= len(case.sources))
        bar = least if same else least_abstain
        apart = not case.answers and not case.sources and alike - (around[mine] + around[its]) / 2 >= MARGIN
        if alike >= bar or apart:
            found.append(Pair("paraphrase" if case.answers else "unanswerable", row.id, case.id, alike))
    return sorted(found, key=lambda pair: (-pair.similarity, pair.row, pair.case))


def reserved_sentences(corpus: Corpus, cases: Iterable[LockedCase], forbidden: Iterable[str] = ()) -> set[str]:
    """Sentences of the corpus on which a locked case rests: those with one of its answers or forbidden answers."""
    spans = {f" {normalised(text)} " for case in cases for text in case.answers} | {
        f" {normalised(text)} " for text in forbidden}  # fmt: skip
    return {sentence for document in corpus.documents for sentence in sentences_of(document)
            if any(span in f" {normalised(sentence)} " for span in spans)}  # fmt: skip


def reserved_digests(corpus: Corpus) -> dict[str, list[str]]:
    """``reserved.json``: SHA-256 of what is asked, and of each sentence that answers, in the locked tests."""
    locked, questions = locked_cases(corpus), load_questions("locked_test")
    by_document = [s for q in questions for s in _own_sentences(corpus, q.expected_docs, q.answers)]
    by_document += [s for q in questions for s in _own_sentences(corpus, q.forbidden_docs, q.forbidden_answers)]
    facts = {*by_document, *reserved_sentences(corpus, model_cases())}
    texts = {case.text for case in locked} | {case.question for case in locked if not case.answers and case.question}
    return {"asked": sorted({digest(text) for text in texts}), "facts": sorted({digest(text) for text in facts})}


def _own_sentences(corpus: Corpus, documents: Iterable[str], spans: Iterable[str]) -> Iterator[str]:
    wanted = [f" {normalised(span)} " for span in spans]
    for key in documents:
        for sentence in sentences_of(corpus.document(key)):
            if any(span in f" {normalised(sentence)} " for span in wanted):
                yield sentence


def load_reserved(path: Path | None = None) -> dict[str, set[str]]:
    """{asked, facts}: digests (``course_lib.datasets.digest``) of what training must leave alone. No text is in it."""
    from course_lib.catalog import repo_root
    from course_lib.strict import read_text

    value = json.loads(read_text(path or repo_root().joinpath(*RESERVED)))
    return {name: set(value[name]) for name in ("asked", "facts")}


def write_reserved(folder: Path | None = None) -> Path:
    """Writes ``reserved.json`` for the present locked tests. Run it when one of them changes."""
    from course_lib.catalog import repo_root
    from course_lib.corpus import load_corpus

    path = (folder / RESERVED[-1]) if folder else repo_root().joinpath(*RESERVED)
    path.write_text(json.dumps(reserved_digests(load_corpus()), indent=0) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    write_reserved()
