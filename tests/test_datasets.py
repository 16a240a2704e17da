"""Rights, templates, near-duplicates and scans of training rows."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib import datasets as ds
from course_lib.artifacts_dataset import SftRow
from course_lib.corpus import load_corpus
from course_lib.models import model_folder
from course_lib.question_templates import duty_in, question_for
from course_lib.scans import masked, personal, scan, secrets

WORDS = st.lists(st.sampled_from("keep the log for nine months and then delete it".split()), max_size=12)


@pytest.mark.parametrize(("sentence", "question"), [
    ("The breach register is kept for eight years.", "For how long is the breach register kept?"),
    ("Meridian Pay keeps web server logs for 180 days.", "For how long does Meridian Pay keep web server logs?"),
    ("A held payment is reviewed within 25 minutes.", "Within what time is a held payment reviewed?"),
    ("The rules are backtested every 14 days.", "How often are the rules backtested?"),
    ("Customer care may grant goodwill payments of up to EUR 120.",
     "Up to what amount may customer care grant goodwill payments?"),
    ("The pass mark of mandatory tests is 80 %.", "What is the pass mark of mandatory tests?"),
    ("Art. 5(1)(a) GDPR asks for lawfulness.", "What does Art. 5(1)(a) GDPR ask for?"),
    ("A right that is not confirmed within 14 days of the request is removed.", None),
    ("They must be available 24 hours a day on every calendar day.", None),
    ("Nobody approves a right for themselves.", None),
])  # fmt: skip
def test_templates_ask_what_a_person_might_ask_or_nothing(sentence: str, question: str | None) -> None:
    assert question_for(sentence) == question


def test_duties_are_in_the_words_of_the_sentence() -> None:
    sentence = "Instant credit transfers must reach the payee's provider within 10 seconds of receipt of the order."
    assert duty_in(sentence) == {"actor": "Instant credit transfers", "action": "must reach the payee's provider",
                                 "deadline": "10 seconds"}  # fmt: skip
    others = ("It must not be used.", "They must be open.", "A and that must be.", "A test must run at least 6 months.")
    for other in others:
        assert duty_in(other) is None


def test_a_right_may_end() -> None:
    document = load_corpus().document("meridian-training-policy@1")
    today = dt.date(2026, 11, 1)
    assert ds.no_right(document, "meridian", today) == ""
    assert ds.no_right(document, "halden", today) == "another tenant's document"
    assert ds.no_right(document, "meridian", dt.date(2040, 1, 1)) == "out of date"
    assert ds.no_right(document, "meridian", today, {document.key}) == "holds planted instructions"


@given(WORDS, WORDS)
def test_near_pairs_are_jaccard_similarities(first: list[str], second: list[str]) -> None:
    texts = [" ".join(first), " ".join(second).upper() + "!"]
    a, b = (ds.grams(text) for text in texts)
    alike = len(a & b) / len(a | b) if a | b else 0.0
    assert ds.jaccard(a, b) == pytest.approx(alike) == ds.jaccard(b, a)
    assert bool(ds.near_pairs(texts, 0.8)) == (alike >= 0.8)


def test_near_pairs_agree_with_minhash() -> None:
    """Estimates of datasketch over 1024 permutations lie where the exact values lie."""
    from datasketch import MinHash

    texts = [s for d in load_corpus().documents[:6] for s in ds.sentences_of(d)]
    texts += [text.replace(" is ", " was ", 1) for text in texts]
    sketches = []
    for text in texts:
        sketch = MinHash(num_perm=1024, seed=1)
        for gram in ds.grams(text):
            sketch.update(gram.encode())
        sketches.append(sketch)
    exact = ds.near_pairs(texts, 0.5)
    assert len(exact) > 20
    assert all(abs(sketches[i].jaccard(sketches[j]) - score) < 0.08 for i, j, score in exact)


def test_rows_render_as_course_lm_was_trained() -> None:
    """The chat template of the model's tokenizer gives the same text as course-lm's own training."""
    from course_lm.encode import chat_text
    from course_lm.tokenizer import load

    tokenizer = load(model_folder() / "instruct")
    row = ds.make_row("a", "answer", "How long are logs kept?", ["Log policy: Nine months.", "B: Two."],
                      "[1] Nine months.", "x@1", "hand")  # fmt: skip
    record = SftRow.model_validate(row)
    text = tokenizer.apply_chat_template(row["messages"][:2], tokenize=False, add_generation_prompt=True)
    assert text == chat_text(record.messages[0].content, record.prompt)
    assert list(ds.form_problems(record)) == [] == list(ds.reply_problems(record))
    assert ds.sources_of(record.prompt) == ["Log policy: Nine months.", "B: Two."]


PRIVATE: list[tuple[str, list[str]]] = [
    ("My name is Jana Novak, IBAN DE89 3704 0044 0532 0130 00.", ["iban", "name"]),
    ("Mr. Weber, born on 4 May 1981, called.", ["name", "birth date"]),
    ("Call +49 30 901820 or 030 901820.", ["phone", "phone"]),
    ("jana.novak@bank.example wrote.", ["email"]), ("Card 4111 1111 1111 1111.", ["card"]),
    ("AKIAIOSFODNN7EXAMPLE", ["secret"]), ("password: hunter2024", ["secret"]),
    ("ghp_" + "a1B2" * 9, ["secret"]), ("-----BEGIN RSA PRIVATE KEY-----", ["secret"]),
    ("Ticket 4111 1111 1111 1112, reference DE00 3704 0044 0532 0130 00.", []),
    ("Regulation (EU) 2018/389 of 27 November 2017, EUR 1,500, 0.13 %.", []),
    ("Passwords must have 14 characters; customer Halden Bank agrees.", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kinds"), PRIVATE, ids=[text[:24] for text, _ in PRIVATE])
def test_scans_find_what_is_private_and_leave_the_rest(text: str, kinds: list[str]) -> None:
    assert [found.kind for found in scan(text)] == kinds
    hidden = masked(text)
    assert scan(hidden) == [] and (hidden == text) == (not kinds)


def test_the_corpus_has_one_finding_and_it_is_planted() -> None:
    found = {d.key: scan(s) for d in load_corpus().documents for s in [d.title, *ds.sentences_of(d)] if scan(s)}
    assert list(found) == ["halden-service-desk-handbook@1"]


@pytest.mark.parametrize("text", ["", "\x00", "DE" * 4000, "1" * 5000, "@" * 4000, "a@" * 2000, "password is " * 900])
def test_scans_end_whatever_the_text(text: str) -> None:
    assert isinstance(personal(text) + secrets(text), list)


def test_bad_json_replies_are_problems_and_no_crash() -> None:
    row: dict[str, Any] = ds.make_row("e", "extract", "List duties.", ["T: Staff must sign."], "[]", "x@1", "hand")
    duty = {"actor": "Staff", "action": "must sign", "deadline": None, "source": 1}
    for reply in ("[", "3", "[1]", '[{"actor": 1, "action": 2, "deadline": 3, "source": 1}]', '[{"actor": null}]',
                  json.dumps([duty | {"source": 9}]), json.dumps([duty, duty]), "[" * 999):  # fmt: skip
        row["messages"][2]["content"] = reply
        assert list(ds.reply_problems(SftRow.model_validate(row))), reply
    row["messages"][2]["content"] = json.dumps([duty])
    assert list(ds.reply_problems(SftRow.model_validate(row))) == []
