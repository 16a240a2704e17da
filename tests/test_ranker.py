"""The learned sentence ranker: its file, what it changes, and what it is trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from course_lib.corpus import load_corpus, load_questions
from course_lib.embeddings import default_embedder
from course_lib.errors import DataError
from course_lib.models import model_folder
from course_lib.rag import quotable, sentence_scores
from course_lib.ranker import FILE, Ranker, load_ranker, ranker_for
from course_lib.retrieval import Index
from course_lm import rank, real
from tests.test_retrieval import HashedWords


def plain(size: int, fingerprint: str = "hashed-words") -> Ranker:
    return Ranker.unchanged(size, fingerprint)


def test_a_ranker_that_changes_nothing_gives_cosines() -> None:
    rows = HashedWords().encode(["The desk opens at nine.", "Logs are kept for a year.", "The desk opens."])
    assert plain(256).similarity(rows[2], rows[:2]) == pytest.approx(rows[:2] @ rows[2], abs=1e-6)


def test_a_saved_ranker_comes_back_in_half_precision(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    made = Ranker(*rng.normal(size=(2, 8, 8)).astype(np.float32), fingerprint="some-embedder")
    made.save(tmp_path / FILE)
    again = load_ranker(tmp_path / FILE)
    assert again.fingerprint == "some-embedder" and again.of_question.dtype == np.float32
    assert again.of_sentence == pytest.approx(made.of_sentence, abs=2e-3)
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_a_file_that_is_no_ranker_is_named(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / FILE
    with pytest.raises(DataError, match="cannot be read") as caught:
        load_ranker(path)
    assert FILE in str(caught.value) and "course model ranker" in str(caught.value)
    path.write_bytes(b"not a tensor")
    with pytest.raises(DataError, match="cannot be read"):
        load_ranker(path)
    eye = np.eye(4, dtype=np.float16)
    for tensors, metadata in [
        ({"of_question": eye}, {"embedder": "x"}),
        ({"of_question": eye, "of_sentence": eye[:2]}, {"embedder": "x"}),
        ({"of_question": eye, "of_sentence": eye}, None),
    ]:
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(DataError, match="cannot be read"):
            load_ranker(path)


def test_another_embedder_is_ranked_by_its_own_cosines() -> None:
    assert ranker_for(HashedWords()) is None and ranker_for(default_embedder()) is not None


def test_the_scores_are_those_of_the_given_ranker() -> None:
    model, sentences = HashedWords(), ["The desk opens at nine.", "Logs are kept for a year."]
    turned = Ranker(-np.eye(256, dtype=np.float32), np.eye(256, dtype=np.float32), model.fingerprint)
    asked = "When does the desk open?"
    same, other = (sentence_scores(asked, sentences, model, r) for r in (plain(256), turned))
    assert same == sentence_scores(asked, sentences, model) and other[0] < same[0]


def test_training_is_repeatable_moves_the_answer_up_and_leaves_a_fold_out() -> None:
    sentences = list(real.sentences(real.clean_passages()[:12]))
    questions, answers = rank.pairs(sentences)
    assert len(questions) > 200 and {rank.fold_of(text) for text in questions} == set(range(rank.FOLDS))
    model = default_embedder()
    made, again = (rank.train(model, sentences, steps=25) for _ in range(2))
    assert np.array_equal(made.of_question, again.of_question)
    apart = rank.crossfit(model, sentences, steps=25)
    assert len(apart) == rank.FOLDS and not any(np.array_equal(made.of_question, r.of_question) for r in apart)
    asked, texts = model.encode(questions, persist=False), model.encode(sentences)
    near, before = made.sentences(texts), asked @ texts.T

    def first(scores: np.ndarray) -> float:
        return sum(int(row.argmax()) in right for row, right in zip(scores, answers, strict=True)) / len(answers)

    assert first(asked @ made.of_question @ near.T) > first(before) + 0.05


def test_the_published_ranker_puts_the_right_sentence_first_more_often() -> None:
    """On the dev questions, by which its form was chosen, so this shows that it works and not how well."""
    corpus, model = load_corpus(), default_embedder()
    index = Index.build(corpus)
    users = {user.id: user for user in corpus.users}
    size = model.encode(["x"]).shape[1]
    right = {"cosine": 0, "ranker": 0}
    asked = [q for q in load_questions("dev") if not q.abstain]
    for question in asked:
        chunks = index.search(question.question, users[question.user]).chunks
        pairs = [(chunk, sentence) for chunk in chunks for sentence in chunk.sentences]
        cosines = sentence_scores(question.question, [s for _, s in pairs], model, plain(size, model.fingerprint))
        best = {"cosine": pairs[int(np.argmax(cosines))], "ranker": quotable(question.question, chunks, 1)[0]}
        for name, (chunk, text) in best.items():
            right[name] += chunk.doc_key in question.expected_docs and any(a in text for a in question.answers)
    assert right["ranker"] >= right["cosine"] + 5, (right, len(asked))
    assert (model_folder() / FILE).stat().st_size < 700_000


def test_the_choices_are_measured_on_the_same_written_questions(monkeypatch) -> None:
    size, model = default_embedder().encode(["x"]).shape[1], default_embedder()
    monkeypatch.setattr(rank, "crossfit", lambda *given: [plain(size, model.fingerprint)] * rank.FOLDS)
    found = rank.measure_choices(60, hits=(3, 12), lexical=(0.0, 1.0))
    assert list(found) == ["3 hits, 0.0", "3 hits, 1.0", "12 hits, 0.0", "12 hits, 1.0"]
    (n,) = {share["n"] for share in found.values()}
    assert 10 < n < 60
    assert all(0 < share["value"] < 1 for share in found.values())
