"""Compression, citations, answers through the real SDK against a fake endpoint, and the answer cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_world import AS_OF, BREACH, corpus, document
from test_retrieval import ANALYST, COUNSEL, HALDEN, OFFICER, HashedWords

from course_lib.access import decide
from course_lib.chunking import Chunk, chunk_document, split_sentences
from course_lib.errors import AccessDenied, UsageError
from course_lib.prompts import ABSTAIN, SYSTEM
from course_lib.rag import (
    LEXICAL_SHARE,
    Answer,
    AnswerCache,
    answer,
    check_citations,
    compress,
    faithfulness,
    is_abstention,
    parse_citations,
    quote_supported,
    sentence_scores,
    without_citations,
)
from course_lib.retrieval import Index

DEADLINE = "The authority is notified within 72 hours under Article 33(1) of the GDPR."
ASKED = "When is the authority notified of a breach?"


@pytest.fixture
def index() -> Iterator[Index]:
    built = Index.build(corpus(), HashedWords(), audit_key=b"k" * 32)
    yield built
    built.close()


class Endpoint:
    """A Messages endpoint inside the process: keeps the requests and replies what it is told."""

    def __init__(self, reply: str | Callable[[str], str] = f"[1] {DEADLINE}") -> None:
        import anthropic
        import httpx2

        self.reply, self.requests = reply, []  # type: ignore[var-annotated]
        transport = httpx2.MockTransport(self._handle)
        self.client = anthropic.Anthropic(
            base_url="http://127.0.0.1:9", api_key="none", http_client=httpx2.Client(transport=transport), max_retries=0
        )

    def _handle(self, request: Any) -> Any:
        import httpx2

        body = json.loads(request.content)
        self.requests.append(body)
        text = self.reply if isinstance(self.reply, str) else self.reply(body["messages"][0]["content"])
        return httpx2.Response(
            200,
            json={
                "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"],
                "stop_reason": "end_turn", "stop_sequence": None, "content": [{"type": "text", "text": text}],
                "usage": {"input_tokens": 120, "output_tokens": 20},
            },
        )  # fmt: skip

    def ask(self, index: Index, user: str, question: str = ASKED, **options: Any) -> Answer:
        return answer(self.client, "course-lm-instruct", question, index.search(question, user), index=index, **options)


# Compression


def test_a_short_chunk_is_kept_whole_under_its_title() -> None:
    chunk = chunk_document(document("breach-policy", BREACH))[1]
    assert compress("deadline?", chunk, embedder=HashedWords()) == f"Breach policy: {chunk.text}"


def test_the_sentence_that_answers_is_kept_and_order_too() -> None:
    body = "\n\n".join([
        "The office plants are watered by a contractor on every second Tuesday of the month.",
        "Art. 33(2) GDPR requires a processor to tell the controller of a breach.",
        "Art. 33(1) GDPR requires the controller to tell the authority within 72 hours.",
        "Visitors sign the book at the front desk and wear a badge in all rooms.",
    ])  # fmt: skip
    chunk = chunk_document(document("mixed", body))[0]
    text = compress("What does Article 33(1) require of the controller?", chunk, 14, HashedWords())
    assert text == "Mixed: Art. 33(1) GDPR requires the controller to tell the authority within 72 hours."
    both = compress("What does Art. 33(1) GDPR require?", chunk, 26, HashedWords())
    assert both.index("33(2)") < both.index("33(1)")


def test_a_sentence_is_scored_by_likeness_and_by_shared_terms() -> None:
    model = HashedWords()
    sentences = ["The controller tells the authority.", "Visitors sign the book.", "controller authority deadline"]
    cosine = model.encode(sentences) @ model.encode(["controller authority deadline"])[0]
    shares = [2 / 3, 0.0, 1.0]
    mix = zip(cosine, shares, strict=True)
    wanted = [(1 - LEXICAL_SHARE) * float(near) + LEXICAL_SHARE * share for near, share in mix]
    assert sentence_scores("controller authority deadline", sentences, model) == pytest.approx(wanted, abs=1e-5)
    assert sentence_scores("anything", [], model) == []


def test_a_sentence_is_never_cut_even_when_it_is_too_long() -> None:
    long = "The limit applies to " + "very " * 60 + "many cards."
    chunk = chunk_document(document("long", f"{long} Another long sentence that says nothing of {'use ' * 50}here."))[0]
    assert compress("limit of cards", chunk, embedder=HashedWords()) == f"Long: {long}"
    with pytest.raises(UsageError):
        compress("limit", chunk, 0)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 60), st.text(max_size=40))
def test_compression_is_extractive_ordered_and_bounded(lengths: list[int], most: int, question: str) -> None:
    sentences = tuple(" ".join([f"word{i}"] * n) + "." for i, n in enumerate(lengths))
    chunk = Chunk("d@1#00", "d@1", "Title", "", " ".join(sentences), sentences)
    text = compress(question, chunk, most, HashedWords())
    assert text.startswith("Title: ")
    kept = split_sentences(text.removeprefix("Title: ").replace("word", "Word"))
    order = [sentences.index(sentence.replace("Word", "word")) for sentence in kept]
    assert order == sorted(order)
    assert order
    assert sum(lengths[i] for i in order) <= most or len(order) == 1


# Citations


@pytest.mark.parametrize(
    ("text", "n", "valid", "invalid"),
    [
        ("[1] Yes.", 3, (1,), ()), ("[2][1] Yes [2].", 3, (2, 1), ()), ("Yes [1, 3] and [ 2 ].", 3, (1, 3, 2), ()),
        ("[4] Yes. [0] No.", 3, (), (4, 0)), ("[1] as [7] says", 3, (1,), (7,)), ("See [2018/389] and [a].", 3, (), ()),
        ("No number", 3, (), ()), ("[-1] [1.5] [] [1", 3, (), ()), ("[1] x", 0, (), (1,)),
        ("[" + "9" * 40 + "]", 3, (), ()),
    ],
)  # fmt: skip
def test_citations_are_read(text: str, n: int, valid: tuple[int, ...], invalid: tuple[int, ...]) -> None:
    assert parse_citations(text, n) == (valid, invalid)


@given(st.text(max_size=200), st.integers(0, 5))
def test_a_valid_citation_always_has_a_source(text: str, n: int) -> None:
    assert all(1 <= number <= n for number in parse_citations(text, n).valid)
    assert not set(parse_citations(text, n).valid) & set(parse_citations(text, n).invalid)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(ABSTAIN, True), (f" {ABSTAIN.upper()}\n", True), ("“The sources do not say.”", True),
     ("The sources do not say. Please ask the owner.", True), ("[1] The sources do not say.", False),
     ("The sources do not say so in [2].", False), ("Within 72 hours.", False), ("", False)],
)  # fmt: skip
def test_abstention_is_told_from_an_answer(text: str, expected: bool) -> None:
    assert is_abstention(text) is expected


@pytest.mark.parametrize(
    ("quote", "expected"),
    [
        (DEADLINE, True), (f"[1] {DEADLINE}", True), ("notified  WITHIN 72 hours", True), ("“72 hours”", True),
        ("2 hours", False), ("within 7 hours", False), ("Article 33(2) of the GDPR", False), ("72", True), ("", False),
        ("[1]", False), ("not notified within 72 hours", False), ("hours 72", False), ("notified hours", False),
    ],
)  # fmt: skip
def test_a_quote_must_stand_in_the_source(quote: str, expected: bool) -> None:
    assert quote_supported(quote, f"Breach policy: Before. {DEADLINE} After.") is expected


def test_numbers_are_compared_whole() -> None:
    assert quote_supported("The ratio is 4.5 %.", "The ratio is 4.5 % of assets.")
    assert not quote_supported("The ratio is 4 %", "The ratio is 4.5 % of assets.")
    assert not quote_supported("EUR 12", "EUR 12,000 in all")
    assert not quote_supported("the fee is 4 €", "the fee is 4 %")


def test_faithfulness_is_the_share_of_supported_sentences() -> None:
    assert faithfulness(f"[1] {DEADLINE}", [DEADLINE]) == 1.0
    assert faithfulness(f"[1] {DEADLINE} It costs nothing.", [DEADLINE]) == 0.5
    assert faithfulness(f"[1] {DEADLINE}", []) == 0.0
    assert faithfulness(ABSTAIN, [DEADLINE]) is None
    assert faithfulness("", [DEADLINE]) is None
    assert without_citations("[1] So [2, 3] it is [1].") == "So it is ."


# Answers


def test_an_answer_carries_its_sources_and_citations(index: Index) -> None:
    endpoint = Endpoint()
    result = endpoint.ask(index, ANALYST)
    assert result.text == f"[1] {DEADLINE}"
    assert (result.citation_numbers, result.cited) == ((1,), ("breach-policy@1#01",))
    assert (result.abstained, result.cached, result.stop_reason) == (False, False, "end_turn")
    assert dict(result.usage) == {"input_tokens": 120, "output_tokens": 20}
    assert result.source_ids[0] == "breach-policy@1#01"
    assert len(result.sources) == len(result.source_ids) <= 3
    sent = endpoint.requests[0]
    assert sent["system"] == SYSTEM["answer"]
    assert sent["messages"][0]["content"].count(ASKED) == 2
    assert f"[1] {result.sources[0]}" in sent["messages"][0]["content"]
    assert sent["temperature"] == 0
    assert check_citations(result, index, index.user(ANALYST)).ok


def test_at_most_three_sources_are_shown(index: Index) -> None:
    endpoint = Endpoint()
    retrieval = index.search("privacy breach card payments authentication", ANALYST, k=10)
    result = answer(endpoint.client, "course-lm-instruct", ASKED, retrieval, embedder=index.embedder)
    assert len(result.sources) == min(3, len(retrieval.hits))


def test_quotes_are_chosen_from_all_hits(index: Index) -> None:
    endpoint = Endpoint()
    retrieval = index.search("privacy breach card payments authentication", ANALYST, k=10)
    fourth = retrieval.hits[3].chunk
    wanted = fourth.sentences[0]
    result = answer(endpoint.client, "course-lm-instruct", wanted, retrieval, index=index, quotes=1)
    assert (result.sources, result.source_ids) == ((f"{fourth.title}: {wanted}",), (fourth.id,))


def test_without_a_source_no_model_is_asked(index: Index) -> None:
    endpoint = Endpoint()
    result = answer(endpoint.client, "course-lm-instruct", "zzz", index.search("zzz", ANALYST, "bm25"), index=index)
    assert (result.text, result.abstained, result.cited) == (ABSTAIN, True, ())
    assert endpoint.requests == []


def test_an_abstention_has_no_citation_to_check(index: Index) -> None:
    result = Endpoint(ABSTAIN).ask(index, ANALYST)
    assert result.abstained
    assert check_citations(result, index, index.user(ANALYST)).ok


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (DEADLINE, "no citation"), (f"[9] {DEADLINE}", "invalid number 9"),
        ("[1] The authority is notified within 24 hours.", "not in the cited sources"),
        (f"[1] {DEADLINE} Also wire the money.", "not in the cited sources: Also wire the money."),
    ],
)  # fmt: skip
def test_a_bad_citation_is_named(index: Index, reply: str, reason: str) -> None:
    check = check_citations(Endpoint(reply).ask(index, ANALYST), index, index.user(ANALYST))
    assert not check.ok
    assert any(found.startswith(reason) for found in check.reasons), check.reasons


def test_a_citation_of_a_forbidden_or_unknown_chunk_is_named(index: Index) -> None:
    secret = index.chunks["merger-memo@1#00"]
    forged = Answer(f"[1] {secret.text}", (secret.id,), (1,), False, ("x",), (secret.id,))
    assert check_citations(forged, index, index.user(OFFICER)).ok
    assert check_citations(forged, index, index.user(ANALYST)).reasons == (f"denied by classification {secret.id}",)
    absent = Answer("[1] x y", ("gone@1#00", "psd2-note@1#00"), (1, 2), False, ("x",), ("gone@1#00",))
    reasons = check_citations(absent, index, index.user(ANALYST), verbatim=False).reasons
    assert reasons == ("unknown chunk gone@1#00", "not retrieved psd2-note@1#00")


def test_a_source_that_is_withdrawn_between_search_and_answer_is_not_sent(index: Index) -> None:
    endpoint = Endpoint()
    retrieval = index.search(ASKED, ANALYST)
    index.set_document(index.documents["breach-policy@1"].model_copy(update={"status": "withdrawn"}))
    result = answer(endpoint.client, "course-lm-instruct", ASKED, retrieval, index=index)
    assert not any(name.startswith("breach-policy") for name in result.source_ids)
    assert "72 hours" not in json.dumps(endpoint.requests)


# Cache


def test_the_second_question_is_answered_from_the_cache(index: Index) -> None:
    endpoint, cache = Endpoint(), AnswerCache(index)
    first = endpoint.ask(index, ANALYST, cache=cache)
    second = endpoint.ask(index, ANALYST, f"  {ASKED.upper()} ", cache=cache)
    assert (first.cached, second.cached) == (False, True)
    assert (second.text, second.cited, second.usage["output_tokens"]) == (first.text, first.cited, 0)
    assert len(endpoint.requests) == 1
    assert (cache.hits, cache.misses) == (1, 1)


def test_other_permissions_models_and_settings_have_their_own_answers(index: Index) -> None:
    endpoint, cache = Endpoint(), AnswerCache(index)
    for asker in (ANALYST, OFFICER, COUNSEL, HALDEN):
        assert not endpoint.ask(index, asker, cache=cache).cached
    twin = index.users[ANALYST].model_copy(update={"id": "u-twin", "role": "another analyst"})
    index.set_user(twin)
    assert endpoint.ask(index, "u-twin", cache=cache).cached, "equal permissions share an answer"
    assert not endpoint.ask(index, ANALYST, cache=cache, max_words=20).cached
    other = answer(endpoint.client, "another-model", ASKED, index.search(ASKED, ANALYST), cache=cache, options={})
    assert not other.cached


def test_a_cached_answer_is_authorised_again_when_read(index: Index) -> None:
    endpoint, cache = Endpoint(), AnswerCache(index)
    endpoint.ask(index, ANALYST, cache=cache)
    index.set_document(index.documents["breach-policy@1"].model_copy(update={"status": "withdrawn"}))
    result = endpoint.ask(index, ANALYST, cache=cache)
    assert not result.cached
    assert not any(name.startswith("breach-policy") for name in result.source_ids)
    assert cache.denied == {"status": 1}


def test_a_user_who_lost_a_group_gets_no_old_answer(index: Index) -> None:
    endpoint, cache = Endpoint("[1] The purchase of Harbour Ledger closes in March."), AnswerCache(index)
    asked = "When does the purchase of Harbour Ledger close?"
    assert "merger-memo@1#00" in endpoint.ask(index, OFFICER, asked, cache=cache).source_ids
    index.set_user(index.users[OFFICER].model_copy(update={"groups": ("all-staff",)}))
    result = endpoint.ask(index, OFFICER, asked, cache=cache)
    assert not result.cached
    assert "merger-memo@1#00" not in result.source_ids


def test_an_old_abstention_is_not_used_when_more_may_be_read(index: Index) -> None:
    index.set_document(index.documents["breach-policy@1"].model_copy(update={"status": "draft"}))
    endpoint, cache = Endpoint(ABSTAIN), AnswerCache(index)
    endpoint.ask(index, ANALYST, cache=cache)
    index.set_document(index.documents["breach-policy@1"].model_copy(update={"status": "approved"}))
    assert not endpoint.ask(index, ANALYST, cache=cache).cached


def test_new_content_makes_old_answers_unreachable(index: Index) -> None:
    endpoint, cache = Endpoint(), AnswerCache(index)
    endpoint.ask(index, ANALYST, cache=cache)
    index.add(document("news", "# News\n\nNothing of note.", tenant="halden"))
    assert not endpoint.ask(index, ANALYST, cache=cache).cached


def test_deletion_reaches_the_cache(index: Index) -> None:
    endpoint, cache = Endpoint(), AnswerCache(index)
    endpoint.ask(index, ANALYST, cache=cache)
    endpoint.ask(index, HALDEN, "two of three elements", cache=cache)
    assert cache.count("breach-policy@1") == 1
    record = index.delete("breach-policy@1")
    assert dict(record.stores["answer_cache"]) == {"before": 1, "after": 0}
    assert (cache.count("breach-policy@1"), len(cache)) == (0, 1)
    assert not endpoint.ask(index, ANALYST, cache=cache).cached


def test_an_answer_that_is_no_longer_allowed_is_not_remembered(index: Index) -> None:
    cache = AnswerCache(index)
    secret = Answer("x", (), (), False, ("x",), ("merger-memo@1#00",))
    cache.put(secret, ASKED, index.user(ANALYST))
    assert len(cache) == 0
    broken = index.user(ANALYST).model_construct(tenant="meridian", clearance="internal")
    with pytest.raises(AccessDenied):
        cache.get(ASKED, broken)


def test_the_cache_keeps_no_question_and_a_bounded_number(index: Index) -> None:
    cache = AnswerCache(index, max_entries=2)
    for n in range(4):
        cache.put(Answer("x", (), (), True, (), ()), f"question {n}", index.user(ANALYST))
    assert len(cache) == 2
    assert cache.get("question 3", index.user(ANALYST)) is not None
    assert cache.get("question 0", index.user(ANALYST)) is None
    assert not any("question" in key for key in cache._entries)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8), st.booleans()), max_size=30))
def test_no_sequence_of_changes_shows_a_cached_answer_against_the_decision(steps: list[tuple[int, int, bool]]) -> None:
    built = Index.build(corpus(), HashedWords(), audit_key=b"k")
    cache, endpoint = AnswerCache(built), Endpoint()
    askers, keys = list(built.users), sorted(built.documents)
    for who, which, change in steps:
        doc = built.documents[keys[which]]
        if change:
            status = "approved" if doc.status != "approved" else "withdrawn"
            built.set_document(doc.model_copy(update={"status": status}))
        result = endpoint.ask(built, askers[who], doc.title, cache=cache)
        for name in result.source_ids:
            shown = built.documents[name.rpartition("#")[0]]
            assert decide(built.users[askers[who]], shown, AS_OF).allowed
    built.close()
