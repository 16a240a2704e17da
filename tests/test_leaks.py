"""Leaks of the locked tests: copies, paraphrases with their measured rates, and the digests that may be handed out."""

from __future__ import annotations

import json
import random
from functools import lru_cache
from typing import Any

import pytest

from course_lib import leaks
from course_lib.artifacts_dataset import SftRow
from course_lib.catalog import repo_root
from course_lib.checksums import verify_checksums
from course_lib.corpus import load_corpus, load_hostile, load_questions
from course_lib.datasets import digest, make_row, no_right, sentences_of
from course_lib.embeddings import default_embedder
from course_lib.grade import rubric_of
from course_lib.measure import wilson
from course_lib.prompts import ABSTAIN
from course_lib.question_templates import question_for

FOLDER = repo_root() / "data" / "evals" / "reserved"
LEAST, LEAST_ABSTAIN = (rubric_of("02").thresholds[f"data.leak_{n}"] for n in ("paraphrased", "unanswerable"))


def row(question: str, reply: str, name: str = "row", task: str = "answer") -> SftRow:
    return SftRow.model_validate(make_row(name, task, question, ["A source. Another."], reply, "a@1", "hand"))


@lru_cache(maxsize=1)
def similarities() -> dict[str, list[float]]:
    """Cosines to the open question of its paraphrase, and of another question on the same sentence."""
    pairs = [json.loads(line) for line in (FOLDER / "paraphrase_pairs.jsonl").read_text("utf-8").splitlines()]
    encode = lambda key: default_embedder().encode([pair[key] for pair in pairs], persist=False)  # noqa: E731
    asked = encode("question")
    return {key: [float(v) for v in (asked * encode(key)).sum(axis=1)] for key in ("paraphrase", "other")}


def test_the_reserved_digests_are_those_of_the_locked_tests_and_hold_no_text() -> None:
    value = json.loads((FOLDER / "reserved.json").read_text("utf-8"))
    assert value == leaks.reserved_digests(load_corpus()), "run: python -m course_lib.leaks"
    assert all(len(text) == 64 for texts in value.values() for text in texts)
    assert verify_checksums(FOLDER) == 3


def test_every_locked_question_and_its_facts_are_reserved() -> None:
    reserved, corpus = leaks.load_reserved(), load_corpus()
    for question in load_questions("locked_test"):
        assert digest(question.question) in reserved["asked"]
        for key in question.expected_docs:
            own = [s for s in sentences_of(corpus.document(key)) if any(a in s for a in question.answers)]
            assert all(digest(sentence) in reserved["facts"] for sentence in own)


def test_the_threshold_of_paraphrases_has_these_rates() -> None:
    """Of 40 paraphrases with the same answer 34 are found. Of 40 other questions on the same sentence 13 are found too:
    a third of what is flagged wrongly, and all of it rests on a reserved fact, which training must leave alone anyway.
    Another fact is never flagged, because its answer is another one."""
    found = similarities()
    hits, false = (sum(value >= LEAST for value in found[key]) for key in ("paraphrase", "other"))
    assert len(found["paraphrase"]) == 40 and (hits, false) == (34, 13)
    assert [round(v, 2) for v in wilson(hits, 40)] == [0.71, 0.93]
    assert [round(v, 2) for v in wilson(false, 40)] == [0.2, 0.48]


@lru_cache(maxsize=1)
def abstentions() -> tuple[list[tuple[str, str, list[str]]], list[leaks.LockedCase], list[str]]:
    """Honest questions with their document and its other sentences, the cases without an answer, and the crowd."""
    corpus, reserved = load_corpus(), leaks.load_reserved()
    hostile = {probe.doc for probe in load_hostile()}
    allowed = [d for d in corpus.documents if not no_right(d, "meridian", corpus.as_of, hostile)]
    honest = {
        q: (d.key, [o for o in sentences_of(d) if o != s])
        for d in allowed
        for s in sentences_of(d)
        if (q := question_for(s)) and digest(s) not in reserved["facts"] and digest(q) not in reserved["asked"]
    }
    cases = [case for case in leaks.locked_cases(corpus) if not case.answers and case.question]
    return [(q, key, others) for q, (key, others) in sorted(honest.items())], cases, leaks.open_questions(corpus)


def silent(question: str, sources: list[str], name: str) -> SftRow:
    return SftRow.model_validate(make_row(name, "abstain", question, sources, ABSTAIN, "a@1", "hand"))


def found_of_40(cases: list[leaks.LockedCase], sources: list[str]) -> int:
    """How many of the 40 paraphrases are found as cases without an answer, above these sources."""
    pairs = [json.loads(line) for line in (FOLDER / "paraphrase_pairs.jsonl").read_text("utf-8").splitlines()]
    rows = [silent(pair["paraphrase"], sources, pair["id"]) for pair in pairs]
    crowd = abstentions()[2]
    found = leaks.paraphrases(rows, cases, default_embedder(), LEAST, LEAST_ABSTAIN, crowd)
    return len({pair.row for pair in found if pair.row == pair.case})


def as_cases(sources: frozenset[str] = frozenset()) -> list[leaks.LockedCase]:
    pairs = [json.loads(line) for line in (FOLDER / "paraphrase_pairs.jsonl").read_text("utf-8").splitlines()]
    return [leaks.LockedCase(p["id"], p["question"], p["question"], (), sources=sources) for p in pairs]


def test_an_abstention_is_found_by_its_sources_or_by_standing_out() -> None:
    """Where both abstain the answer tells nothing. With the case's own sources the questions need no more to be alike
    than for an answer. Without sources they have to stand out from the open questions. With others: the old bar."""
    own = ["Logs stay nine months.", "Tapes stay a year."]
    shown = frozenset({"logs stay nine months", "tapes stay a year"})
    found = {
        "its sources": found_of_40(as_cases(shown), own),
        "no sources": found_of_40(as_cases(), own),
        "other sources": found_of_40(as_cases(shown), ["The desk opens at nine.", "It closes at five."]),
    }
    assert found == {"its sources": 34, "no sources": 18, "other sources": 8}
    assert [round(v, 2) for v in wilson(18, 40)] == [0.31, 0.6]


def test_honest_abstentions_are_not_flagged() -> None:
    """164 questions of the corpus, each twice above three other sentences of its document, as the lab makes them."""
    honest, cases, crowd = abstentions()
    rng = random.Random(0)
    rows = [
        silent(q, rng.sample(others, 3), f"r{n}-{i}")
        for n, (q, _, others) in enumerate(honest)
        if len(others) > 2
        for i in range(2)
    ]
    assert len(rows) > 300 and len(cases) > 200 and sum(not case.sources for case in cases) == 30
    assert leaks.paraphrases(rows, cases, default_embedder(), LEAST, LEAST_ABSTAIN, crowd) == []


def test_questions_that_people_wrote_are_rarely_flagged() -> None:
    """Every eighth of 4016 questions on open sentences, above other sources. Of all of them 6 are taken for a case."""
    from course_lm.real import written_questions

    (_, cases, crowd), corpus, reserved = abstentions(), load_corpus(), leaks.load_reserved()
    hostile = {probe.doc for probe in load_hostile()}
    allowed = [d for d in corpus.documents if not no_right(d, "meridian", corpus.as_of, hostile)]
    said = [s for d in allowed for s in sentences_of(d) if digest(s) not in reserved["facts"]]
    asked = sorted(
        {
            q
            for part, questions in written_questions().items()
            if any(part in s for s in said)
            for q in questions
            if digest(q) not in reserved["asked"]
        }
    )[::8]
    rows = [silent(q, ["The desk opens at nine."], f"r{n}") for n, q in enumerate(asked)]
    found = leaks.paraphrases(rows, cases, default_embedder(), LEAST, LEAST_ABSTAIN, crowd)
    assert len(rows) > 500 and len({pair.row for pair in found}) <= 2, found


CASE = leaks.LockedCase("case-1", "How long are logs kept?", "How long are logs kept?", ("nine months",))


@pytest.mark.parametrize(("question", "kind"), [
    ("How long are logs kept?", "exact"), ("how long are LOGS kept??", "normalised"),
    ("So how long are logs kept?", "near"), ("How long are logs kept then, and where, and by whom?", ""),
])  # fmt: skip
def test_copies_have_a_kind(question: str, kind: str) -> None:
    found = leaks.copies([row(question, "[1] A source.")], [CASE], 0.8)
    assert [(p.kind, p.row, p.case) for p in found] == ([(kind, "row", "case-1")] if kind else [])


def test_a_case_with_its_reply_is_found_nearly_word_for_word() -> None:
    text = "How often does the audit committee of the group review the list of suppliers of critical functions"
    case = leaks.LockedCase("c", f"{text}? It reviews the list twice a year.", f"{text}?", ("It reviews the list.",))
    found = leaks.copies([row(f"{text} now?", "[2] It reviews the list twice a year.")], [case], 0.8)
    assert [(pair.kind, pair.case) for pair in found] == [("near", "c")]


class Alike:
    """An embedder for which all questions are alike."""

    name = fingerprint = "alike"

    def encode(self, texts: Any, *, persist: bool = True) -> Any:
        import numpy as np

        return np.ones((len(texts), 1), dtype=np.float32)


@pytest.mark.parametrize(("question", "reply", "task", "found"), [
    ("Wie lange?", "[1] They stay nine months.", "answer", True),
    ("Wie lange?", "[1] They stay ninety months.", "answer", False),
    ("Wie lange?", "The sources do not say.", "abstain", False),
    ("Until when under Art. 5?", "[1] They stay nine months.", "answer", True),
])  # fmt: skip
def test_only_the_same_answer_makes_a_paraphrase(question: str, reply: str, task: str, found: bool) -> None:
    pairs = leaks.paraphrases([row(question, reply, task=task)], [CASE], Alike(), 0.5, 0.8, ["Who?"] * 3)  # type: ignore[arg-type]
    assert bool(pairs) is found


def test_a_short_answer_counts_in_its_document_or_in_its_sentence() -> None:
    fact = frozenset({"logs stay nine months"})
    case = leaks.LockedCase("c", "How long?", "How long?", ("nine months",), ("b@1",), fact)
    assert not leaks.same_answer(row("How long?", "[1] Tapes stay nine months."), case), "another document's fact"
    assert leaks.same_answer(row("How long?", "[1] Logs stay nine months."), case), "whatever document the row names"
    of_it = row("How long?", "[1] Tapes stay nine months.").model_copy(update={"document": "b@1"})
    assert leaks.same_answer(of_it, case)


def test_two_questions_about_different_articles_are_two_questions() -> None:
    assert not leaks.numbers_fit("What does Art. 11 AMLD require?", "What does Art. 19 AMLD require?")
    assert not leaks.numbers_fit("What does Art. 5(1)(a) GDPR ask?", "What does Art. 5(1)(f) GDPR ask?")
    assert leaks.numbers_fit("What does Art. 11 AMLD require?", "What does article 11 ask?")
    assert leaks.numbers_fit("What does Art. 11 AMLD require?", "When is due diligence needed?")
