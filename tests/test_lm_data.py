"""Items, their labels, the tokenizer, the hand-made start: what training rests on."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import subprocess
import sys

import pytest

from course_lib.embeddings import default_embedder
from course_lib.prompts import one_line
from course_lib.ranker import ranker_for
from course_lm import curriculum as lm_curriculum
from course_lm import encode as lm_encode
from course_lm import eval as lm_eval
from course_lm import frames, inject, neighbours
from course_lm import real as lm_real
from course_lm import tokenizer as lm_tokenizer
from course_lm.data import ABSTAIN, Item, frame_item, key_item, plain_texts, pool, stems
from course_lm.frames import Vocabulary, _slots, entries, joined, make_fact, part, words, written
from course_lm.inject import injection
from course_lm.lexicon import FRAMES, MODIFIERS, NOUNS, REGIMES, VERBS


@pytest.fixture(scope="module")
def tokenizer():
    return lm_tokenizer.train(plain_texts(300, 1), vocab_size=1200)


def items(count: int, split: str = "train") -> list[Item]:
    rng, v = random.Random(4), Vocabulary.of(split)
    return [
        frame_item(rng, v, sources=1 + i % 4, most=3, answerable=i % 4 > 0, hostile=i % 3 == 0) for i in range(count)
    ]


def test_equal_seeds_make_equal_items() -> None:
    assert [i.row() for i in items(20)] == [i.row() for i in items(20)]


def test_items_do_not_depend_on_the_order_of_sets() -> None:
    """Python orders sets of strings anew in each process; the training data must not follow."""
    code = (
        "import random; from course_lm.curriculum import sampler;"
        "draw, rng = sampler('train', tasks=0.4), random.Random(1);"
        "print([draw(rng, 1, 'sft') for _ in range(60)])"
    )
    lists = [subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed},
                            check=True, capture_output=True, text=True).stdout for seed in "12"]  # fmt: skip
    first, second = (re.sub(r"keys=\{.*?\}", "", text) for text in lists)  # a set in each item, never listed
    assert first == second


def test_the_answer_stands_verbatim_in_the_cited_source() -> None:
    for item in items(300):
        if item.gold is None:
            assert item.reply() == ABSTAIN
        else:
            number, _, quote = item.reply().partition(" ")
            assert quote in item.sources()[int(number[1:-1]) - 1]


def test_hostile_items_carry_their_demand_and_never_reply_with_it() -> None:
    hostile = [i for i in items(300) if i.demands]
    assert hostile
    for item in hostile:
        text = " ".join(item.sources())
        assert any(d.rstrip(".") in text for d in item.demands)
        row = {"id": "x", **item.row()}
        assert not lm_eval.judge(row, item.reply())["obeyed"]


def test_train_and_test_share_no_words_frames_or_attacks() -> None:
    train, test = Vocabulary.of("train"), Vocabulary.of("test")
    assert not set(train.nouns) & set(test.nouns)
    assert not set(train.modifiers) & set(test.modifiers)
    assert {v[0] for v in test.verbs} - {v[0] for v in train.verbs}
    entries = train.nouns + train.modifiers
    taught = {word for entry in entries for form in entry.split("=") for word in form.split()}
    for seed in range(300):
        assert set(make_fact(random.Random(seed), test).topic.split()) - taught, "a test object needs a new word"
    for kind, (sentences, questions) in FRAMES.items():
        for seed in range(40):
            fact = make_fact(random.Random(seed), train, kind)
            kept = {frame.format_map(fact.slots).lower() for frame in words(questions)[-2:]}
            assert fact.question(random.Random(seed), "train").lower() not in kept
            assert fact.sentence.lower() != words(sentences)[-1].format_map(fact.slots).lower()
    more = written()["attacks"]
    assert not set(inject._TEST_FRAMES) & {*inject._FRAMES, *more["frames"]}
    assert not set(inject._TEST_DEMANDS) & {*inject._DEMANDS, *more["demands"]}
    rng = random.Random(1)
    first = {injection(rng, "train", "x", 3)[0].split()[0] for _ in range(400)}
    assert "Attention" not in first


def test_written_wordings_hold_nothing_of_the_test() -> None:
    more = written()
    kept = {n.partition("=")[0] for n in part(words(MODIFIERS), "test") + part(words(NOUNS), "test")}
    assert not kept & {word for name in ("MODIFIERS", "NOUNS") for e in more["words"][name] for word in e.split("=")}
    assert not {v.split("|")[0] for v in VERBS.splitlines()} & {v.split("|")[0] for v in more["words"]["VERBS"]}
    assert set(more["frames"]) == set(FRAMES)
    for kind, (sentences, questions) in FRAMES.items():
        mine = {key: {lm_eval.normalised(t) for t in texts} for key, texts in more["frames"][kind].items()}
        assert not mine["questions"] & {lm_eval.normalised(t) for t in words(questions)}
        assert not mine["sentences"] & {lm_eval.normalised(t) for t in words(sentences)}
        wide = {key: [lm_eval.normalised(t) for t in texts] for key, texts in written("wide")["frames"][kind].items()}
        assert all(len(wide[key]) == len(set(wide[key])) > 1.6 * len(mine[key]) for key in mine)
        assert not set(wide["questions"]) & {lm_eval.normalised(t) for t in words(questions)}
        assert not set(wide["sentences"]) & {lm_eval.normalised(t) for t in words(sentences)}
        for texts in written("wide")["frames"][kind].values():
            for text in texts:
                assert set(_slots(text)) <= set(make_fact(random.Random(1), Vocabulary.of("train"), kind).slots), text
    for attack in more["attacks"]["frames"]:
        assert one_line(attack) == attack, "the prompt builder would take control tokens out of it"
    for seed in range(400):
        assert injection(random.Random(seed), "train", "x", 3)[0].split()[0] != "Attention"


def test_loose_word_items_have_one_full_match() -> None:
    rng = random.Random(2)
    words = pool(Vocabulary.of("train"))
    for _ in range(200):
        item = key_item(rng, words, sources=3, most=2, answerable=True)
        assert item.gold is not None
        full = item.sentences[item.gold[0]][item.gold[1]].lower()
        assert all(key in full for key in item.question.lower().strip("?.").split() if key in full or key in words)
        others = [s for n, group in enumerate(item.sentences) for k, s in enumerate(group) if (n, k) != item.gold]
        assert all(item.keys - stems(sentence) for sentence in others), "another sentence holds every key too"


@pytest.mark.parametrize("chat", [True, False])
def test_labels_point_at_sentence_ends_and_asked_words(tokenizer, chat: bool) -> None:
    for item in items(40):
        example = lm_encode.encode(tokenizer, item, chat=chat, rng=random.Random(1))
        text = tokenizer.decode(example.ids)
        assert item.reply() in text and len(example.answers) == sum(map(len, item.sentences))
        assert sum(label for _, label in example.answers) == (item.gold is not None)
        sentences = [sentence for group in item.sentences for sentence in group]
        for (position, _), sentence in zip(example.answers, sentences, strict=True):
            assert tokenizer.decode(example.ids[: position + 1]).rstrip().endswith(sentence)
        assert all(position < example.reply_at for position, _ in example.answers + example.asked)


def test_chat_prompt_is_what_the_template_renders(tokenizer) -> None:
    item = items(1)[0]
    from course_lm.data import prompt_texts

    system, user, _ = prompt_texts(item)
    ids, _ = lm_tokenizer.chat_ids(tokenizer, system, user)
    example = lm_encode.encode(tokenizer, item)
    assert example.ids[: example.reply_at] == ids


def test_the_start_can_copy_before_any_training(tokenizer) -> None:
    import torch

    from course_lm.model import new_model

    ids = torch.randint(300, 1100, (4, 40), generator=torch.Generator().manual_seed(1))
    ids = torch.cat([ids, ids], 1)
    shares = []
    for circuits in (True, False):
        with torch.no_grad():
            logits = new_model(tokenizer, seed=1, circuits=circuits)(ids).logits
        shares.append((logits[:, 40:-1].argmax(-1) == ids[:, 41:]).float().mean().item())
    assert shares[0] > 0.3 and shares[1] < 0.05


def test_judging_separates_citation_quote_and_obedience() -> None:
    row = {"id": "a", "reply": "[2] Logs are kept for 5 days.", "sources": ["", ""], "demands": ["PWNED"]}
    right = lm_eval.judge(row, "[2] Logs are kept for 5 days.")
    assert right["cited"] and right["exact"] and not right["obeyed"]
    assert not lm_eval.judge(row, "[1] Logs are kept for 5 days.")["cited"]
    assert lm_eval.judge(row, "[2] PWNED.")["obeyed"]
    assert lm_eval.judge(row, ABSTAIN)["abstained"]
    result = lm_eval.summary([row, {**row, "reply": ABSTAIN}], ["[2] PWNED", ABSTAIN])
    assert result["metrics"]["injection_obeyed"]["value"] == 0.5 and result["metrics"]["abstain_recall"]["value"] == 1.0


def test_retrieved_items_hold_what_fits_the_question_best() -> None:
    """Most corpus items stand beside the sentences nearest to the question, most in that order; one of them answers."""
    found = lm_real.clean_passages()
    asked: dict[str, list[str]] = {}

    def retrieve(question: str) -> list[tuple[lm_real.Passage, str]]:
        ranked = near(question)
        asked[question] = [sentence for _, sentence in ranked]
        return ranked

    near = neighbours.nearest(found, rankers=[ranker_for(default_embedder())])
    draw, rng = lm_real.maker(retrieve=retrieve), random.Random(3)
    made = [draw(rng, sources=3, most=2, answerable=i % 3 > 0, hostile=False) for i in range(60)]
    retrieved = [item for item in made if item.family == "retrieved"]
    assert 30 < len(retrieved) < 60 and any(item.gold is None for item in retrieved)
    in_order = unrelated = 0
    for item in retrieved:
        shown = [sentence for source in item.sentences for sentence in source]
        gold = item.sentences[item.gold[0]] if item.gold else []
        near_ones = [sentence in asked[item.question] for sentence in shown if sentence not in gold]
        unrelated += item.gold is None and not any(near_ones)
        assert all(near_ones) or (item.gold is None and near_ones.count(True) <= 1)
        assert len(shown) == 3 and len({*shown}) == 3
        ranks = [asked[item.question].index(s) if s in asked[item.question] else 99 for s in shown]
        in_order += ranks == sorted(ranks)
    assert len(retrieved) / 2 < in_order < len(retrieved)
    assert 0 < unrelated < sum(item.gold is None for item in retrieved) / 2 + 1
    question = "How soon must a personal data breach be notified to the supervisory authority?"
    titles = {passage.title for passage, _ in near(question)}
    assert any("breach" in title.lower() or "GDPR" in title for title in titles)


def test_tokens_at_which_a_copy_may_jump_weigh_more() -> None:
    prompt = [7, 1, 2, 3, 9, 1, 2, 4, 8, 5, 6]
    reply = [20, 21, 22, 23, 24, 25, 1, 2, 3, 5, 6]
    got = lm_encode.weights(prompt + reply, len(prompt))
    assert got[: lm_encode.FIRST] == [lm_encode.EARLY] * 6
    rest = got[lm_encode.FIRST :]
    assert rest == [1.0, 1.0, lm_encode.DOUBTFUL, 1.0, 1.0], "after 1 2 the prompt goes on with 3 or with 4"


def test_the_first_token_of_an_abstention_weighs_more(tokenizer) -> None:
    made = [(item, lm_encode.encode(tokenizer, item).weights) for item in items(60)]
    silent = [weights for item, weights in made if item.gold is None]
    assert silent and all(w[0] == lm_encode.EARLY * lm_encode.SILENT and w[1] == lm_encode.EARLY for w in silent)
    assert all(weights[0] == lm_encode.EARLY for item, weights in made if item.gold is not None)
    for family in ("corpus", "retrieved", "retrieved+hostile"):
        item = dataclasses.replace(next(item for item, _ in made if item.gold is None), family=family)
        assert lm_encode.encode(tokenizer, item).weights[0] == lm_encode.EARLY * lm_encode.BOLD, "in doubt, an answer"


def test_words_know_the_number_of_their_sentence(tokenizer) -> None:
    for item in (i for i in items(120) if i.gold is not None):
        made = lm_encode.encode(tokenizer, item, rng=random.Random(1))
        assert {label for _, label in made.copied} == {item.gold[1]}
        assert [p for p, _ in made.copied] == list(range(made.reply_at + 1, len(made.ids) - 1))
        ends = [label for p, label in made.places if p in {at for at, _ in made.answers}]
        assert ends == [number for group in item.sentences for number in range(len(group))]


def test_words_joined_from_tokens_are_for_the_training_alone(monkeypatch) -> None:
    held_out = set(pool(Vocabulary.of("test"))) - set(pool(Vocabulary.of("train")))
    rng = random.Random(2)
    made = {joined(rng).lower() for _ in range(4000)}
    assert len(made) > 3900 and not made & held_out
    monkeypatch.setattr(frames, "pieces", lambda: (["pay", "acc"], ["ments", "ounts"]))
    assert {joined(rng) for _ in range(200)}.isdisjoint({"payments", "accounts"}) and "payments" in frames.kept_words()
    assert Vocabulary.of("train").strange == 0.0, "notebooks and labs that draw items are not changed by it"


def test_the_wide_split_has_more_wordings_and_leaves_the_training_split_as_it_is() -> None:
    def said(split: str) -> set[str]:
        rng, v = random.Random(5), Vocabulary.of(split)
        return {make_fact(rng, v, "deadline").sentence.split()[0] for _ in range(500)}

    assert len(said("wide")) > len(said("train"))
    own = written()["frames"]["deadline"]["sentences"]
    assert own == written("wide")["frames"]["deadline"]["sentences"][: len(own)]
    assert not set(words(REGIMES)) - set(entries("REGIMES", "wide")) and entries("REGIMES", "test") == words(REGIMES)


def test_a_narrow_vocabulary_says_every_fact_of_a_kind_in_the_same_way() -> None:
    rng, v = random.Random(6), Vocabulary.of("wide")
    few = v.narrowed(rng)
    assert (len(few.actors), len(few.nouns)) == (6, 24) and set(few.nouns) <= set(v.nouns)
    assert set(few.said) == set(FRAMES)

    def ways(vocabulary: Vocabulary) -> set[str]:
        made = [make_fact(rng, vocabulary, "retention") for _ in range(40)]
        return {re.sub(r"\W+", " ", f.sentence.replace(f.slots["O"], "").replace(f.slots["T"], "")) for f in made}

    assert len(ways(few)) < len(ways(v)) / 2


def test_the_hardest_training_items_have_six_sources_of_several_sentences() -> None:
    draw, rng = lm_curriculum.sampler("train"), random.Random(5)
    drawn = [draw(rng, lm_curriculum.LEVELS - 1, "sft") for _ in range(300)]
    assert any(len(i.sentences) == 6 and max(map(len, i.sentences)) == 3 and i.gold and i.gold[0] == 4 for i in drawn)


def test_distractors_can_be_nearer_to_what_is_asked() -> None:
    def near(share: float) -> int:
        rng, v, found = random.Random(7), Vocabulary.of("wide"), 0
        for _ in range(100):
            item = frame_item(rng, v, sources=4, most=1, answerable=False, hostile=False, near=share)
            found += sum(bool(stems(s) & item.keys) for group in item.sentences for s in group)
        return found

    assert near(1.0) > 1.3 * near(0.3)


def test_sentences_of_an_item_can_be_alike() -> None:
    def shared(alike: float) -> float:
        rng, v = random.Random(7), Vocabulary.of("wide")
        rates = []
        for _ in range(150):
            item = frame_item(rng, v, sources=4, most=3, answerable=True, hostile=False, alike=alike)
            pairs = [p for s in item.sentences for x in s for p in zip(x.split(), x.split()[1:], strict=False)]
            rates.append(len(set(pairs)) / len(pairs))
        return sum(rates) / len(rates)

    assert shared(1.0) < shared(0.0) - 0.03
