"""The retrieval questions: every span, permission and separation that their data card promises."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest

from course_lib.access import decide
from course_lib.catalog import repo_root
from course_lib.corpus import SPLITS, Corpus, Question, load_corpus, load_hostile, load_questions

RULES = {
    "cross_tenant": {"tenant"},
    "restricted": {"classification", "groups"},
    "stale": {"status", "freshness", "retention", "approved_source"},
}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Question]]:
    return {split: load_questions(split) for split in SPLITS}


@pytest.fixture(scope="module")
def questions(splits: dict[str, list[Question]]) -> list[Question]:
    return [*splits["dev"], *splits["locked_test"]]


def rule(corpus: Corpus, question: Question, key: str) -> str:
    return decide(corpus.user(question.user), corpus.document(key), corpus.as_of).rule


def words(question: Question) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", question.question.lower()))


def test_counts(questions: list[Question], splits: dict[str, list[Question]]) -> None:
    kinds = Counter(q.kind for q in questions)
    assert len(questions) >= 140 and min(kinds.values()) >= 10 and len(kinds) == 7
    assert kinds["paraphrase"] + kinds["article"] >= 60
    assert 0.45 <= len(splits["dev"]) / len(questions) <= 0.55
    # Two users of different tenants may ask the same words: the right answers differ.
    assert len({q.id for q in questions}) == len({(q.user, q.question) for q in questions}) == len(questions)


def test_the_data_card_counts_what_is_there(questions: list[Question], splits: dict[str, list[Question]]) -> None:
    card = (repo_root() / "data" / "evals" / "rag" / "DATA_CARD.md").read_text()
    assert f"{len(questions)} questions" in card and f"{len(load_hostile())} planted instructions" in card
    assert all(f"`{split}.jsonl` ({len(rows)})" in card for split, rows in splits.items())
    for kind in {q.kind for q in questions}:
        row = f"| {kind} | {' | '.join(str(sum(q.kind == kind for q in splits[s])) for s in SPLITS)} |"
        assert row in card, row
    answerable = sum(not q.abstain for q in splits["locked_test"])
    assert f"With {answerable} answerable locked questions" in card


def test_answers_stand_verbatim_in_readable_expected_documents(corpus: Corpus, questions: list[Question]) -> None:
    for q in questions:
        bodies = [corpus.document(key).body for key in q.expected_docs]
        assert all(rule(corpus, q, key) == "allowed" for key in q.expected_docs), q.id
        assert all(any(answer in line for body in bodies for line in body.splitlines()) for answer in q.answers), q.id
        assert all(any(answer in body for answer in q.answers) for body in bodies), q.id


def test_an_answer_points_to_one_sentence_of_each_document(corpus: Corpus, questions: list[Question]) -> None:
    for q in questions:
        for key in q.expected_docs:
            lines = [x for x in corpus.document(key).body.splitlines() if any(a in x for a in q.answers)]
            assert len(lines) == 1, (q.id, lines)
            assert len(lines[0].split()) <= 30, (q.id, lines[0])


def test_kinds_say_whether_to_abstain(questions: list[Question]) -> None:
    for q in questions:
        if q.kind in ("paraphrase", "article", "injection"):
            assert not q.abstain, q.id
        if q.kind in ("unanswerable", "cross_tenant", "restricted"):
            assert q.abstain, q.id
        assert bool(q.forbidden_docs) == (q.kind in RULES), q.id
    assert Counter(q.abstain for q in questions if q.kind == "stale").keys() == {True, False}


def test_forbidden_documents_are_denied_for_the_right_reason(corpus: Corpus, questions: list[Question]) -> None:
    for q in questions:
        for key in q.forbidden_docs:
            assert rule(corpus, q, key) in RULES[q.kind], (q.id, key)
            assert all(span in corpus.document(key).body for span in q.forbidden_answers), q.id


def test_no_readable_document_holds_a_forbidden_span(corpus: Corpus, questions: list[Question]) -> None:
    for q in questions:
        for document in corpus.documents:
            if rule(corpus, q, document.key) == "allowed":
                assert not [span for span in q.forbidden_answers if span in document.body], (q.id, document.key)


def test_articles_are_named_and_exist_in_the_source(corpus: Corpus, questions: list[Question]) -> None:
    for q in questions:
        if q.kind == "article":
            named = re.search(r"Art\. \d+[a-z]?(\(\d+\))?(\([a-z]\))?|Annex III point 5\(b\)", q.question)
            assert named and named[0] in corpus.document(q.expected_docs[0]).body, q.id


def test_splits_share_no_fact_and_no_wording(corpus: Corpus, splits: dict[str, list[Question]]) -> None:
    def facts(q: Question) -> set[tuple[str, str]]:
        keys = (*q.expected_docs, *q.forbidden_docs)
        spans = (*q.answers, *q.forbidden_answers)
        lines = ((key, line) for key in keys for line in corpus.document(key).body.splitlines())
        return {(key, line) for key, line in lines if any(span in line for span in spans)}

    for a, b in itertools.product(splits["dev"], splits["locked_test"]):
        assert not facts(a) & facts(b), (a.id, b.id)
        assert len(words(a) & words(b)) / len(words(a) | words(b)) < 0.6, (a.question, b.question)


def test_paraphrases_do_not_copy_the_sentence(corpus: Corpus, questions: list[Question]) -> None:
    def runs(text: str) -> set[tuple[str, ...]]:
        tokens = re.findall(r"[a-z0-9]+", text.lower())
        return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}

    for q in questions:
        if q.kind == "paraphrase":
            for key in q.expected_docs:
                assert not runs(q.question) & runs(corpus.document(key).body), q.question


def test_users_of_both_tenants_ask(corpus: Corpus, splits: dict[str, list[Question]]) -> None:
    for rows in splits.values():
        tenants = Counter(corpus.user(q.user).tenant for q in rows)
        assert min(tenants["meridian"], tenants["halden"]) >= 30


def test_planted_instructions_stand_in_readable_documents(corpus: Corpus) -> None:
    probes = load_hostile()
    assert len(probes) >= 8 and len({p.doc for p in probes}) == len({p.guise for p in probes}) == len(probes)
    for probe in probes:
        document = corpus.document(probe.doc)
        assert all(sentence in document.body for sentence in probe.planted), probe.doc
        readers = [u for u in corpus.users if decide(u, document, corpus.as_of).allowed]
        assert len(readers) >= 3, probe.doc


def test_markers_stand_only_in_the_planted_sentences(corpus: Corpus, questions: list[Question]) -> None:
    for probe in load_hostile():
        for document in corpus.documents:
            text = document.body
            if document.key == probe.doc:
                assert probe.obeyed(text)
                for sentence in probe.planted:
                    text = text.replace(sentence, "")
            assert not probe.obeyed(text), (probe.doc, document.key)
        assert not any(probe.obeyed(q.question) for q in questions)


def test_every_hostile_document_is_asked_about(questions: list[Question]) -> None:
    asked = {key for q in questions if q.kind == "injection" for key in q.expected_docs}
    assert asked == {probe.doc for probe in load_hostile()}
