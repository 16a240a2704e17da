"""The real flow's judgement of an answer, and its counts; no model is asked."""

from __future__ import annotations

import pytest

from course_lib import rag
from course_lib.corpus import load_corpus, load_questions
from course_lib.prompts import ABSTAIN
from course_lib.rag import Answer
from course_lib.retrieval import Index
from course_lm import eval as lm_eval
from course_lm import flow as lm_flow
from course_lm import real

QUESTION = next(q for q in load_questions("dev") if q.answers)
SILENT = next(q for q in load_questions("dev") if q.abstain)
RIGHT = f"It says {QUESTION.answers[0]}."


def said(text: str, *, source: str = RIGHT, number: int = 1) -> Answer:
    abstained = text == ABSTAIN
    return Answer(text if abstained else f"[{number}] {text}", () if abstained else ("c1",),
                  () if abstained else (number,), abstained, (f"Title: {source}",), ("c1",))  # fmt: skip


@pytest.mark.parametrize(("answer", "docs", "right"), [
    (said(RIGHT), QUESTION.expected_docs[:1], {"correct", "cited_right", "reachable", "well_formed", "verbatim"}),
    (said(RIGHT), ("another-document",), {"reachable", "well_formed", "verbatim"}),
    (said(RIGHT), (), {"reachable", "well_formed", "verbatim"}),
    (said("Quite another sentence."), QUESTION.expected_docs[:1], {"cited_right", "reachable", "well_formed"}),
    (said(RIGHT, source="Nothing of the kind."), QUESTION.expected_docs[:1], {"correct", "cited_right", "well_formed"}),
    (said(ABSTAIN), (), {"reachable", "abstained", "well_formed", "verbatim"}),
])  # fmt: skip
def test_an_answer_is_right_when_document_and_span_are(answer: Answer, docs: tuple[str, ...], right: set[str]) -> None:
    row = lm_flow._row(QUESTION, answer, list(docs))
    flags = ("correct", "cited_right", "reachable", "well_formed", "verbatim", "abstained")
    assert {flag for flag in flags if row[flag]} == right and row["answerable"]


def test_where_nothing_answers_only_silence_is_right() -> None:
    assert lm_flow._row(SILENT, said(ABSTAIN), [])["correct"]
    quoted = lm_flow._row(SILENT, said(RIGHT), ["a-document"])
    assert not quoted["correct"] and not quoted["answerable"]


def test_a_measurement_counts_its_rows_and_lists_what_went_wrong(monkeypatch) -> None:
    asked = []

    def silence(client, model, question, retrieval, **options) -> Answer:
        asked.append((question, options["quotes"], retrieval.k))
        return Answer(ABSTAIN, (), (), True, (), ())

    beside: list[list[str]] = []

    def quote(client, model, row) -> str:
        beside.append(row["sources"])
        return f"[1] {row['sources'][0]}" if len(beside) == 1 else ABSTAIN

    monkeypatch.setattr(rag, "answer", silence)
    monkeypatch.setattr(lm_eval, "ask", quote)
    ticks: list[int] = []
    found = lm_flow.measure_flow(None, "m", "dev", limit=6, tick=lambda: ticks.append(1))  # type: ignore[arg-type]
    questions = load_questions("dev")[:6]
    assert asked == [(q.question, rag.QUOTES, rag.QUOTE_HITS) for q in questions]
    answerable = sum(not q.abstain for q in questions)
    assert len(ticks) == found["n"] == 6 and found["failed"] == len(found["failures"]) == answerable
    assert found["metrics"]["correct"] | {"low": 0, "high": 0} == {"value": 0.0, "low": 0, "high": 0, "n": answerable}
    assert {len(sources) for sources in beside} == {rag.QUOTES} and len(beside) == 6
    assert found["metrics"]["abstain_unrelated"]["value"] == round(5 / 6, 4) and len(found["ranker"]) == 64


def test_unrelated_sources_may_be_read_and_answer_nothing() -> None:
    index, passages = Index.build(load_corpus()), real.clean_passages()
    for question in load_questions("dev")[:20]:
        drawn = lm_flow.unrelated(question, index, passages)
        readable = index.permitted(question.user).keys
        expected = {index.documents[key].title for key in question.expected_docs}
        allowed = {f"{p.title}: {s}" for p in passages if p.key in readable for s in p.sentences}
        assert set(drawn) <= allowed
        assert not any(source.startswith(f"{title}: ") for title in expected for source in drawn)
        assert drawn == lm_flow.unrelated(question, index, passages) and len(set(drawn)) == rag.QUOTES
        assert not any(answer in source for answer in question.answers for source in drawn)
    index.close()
