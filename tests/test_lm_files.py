"""The committed model files: manifest, card, and no evaluation question among the training questions."""

from __future__ import annotations

import json
import re

import pytest

from course_lib.corpus import load_questions
from course_lib.models import model_folder
from course_lm import card as lm_card
from course_lm import eval as lm_eval
from course_lm import export as lm_export
from course_lm.real import written_questions
from course_lm.tasks import TASKS

FOLDER = model_folder()


def test_files_match_their_manifest() -> None:
    assert lm_export.verify() == []


def test_card_is_what_the_results_render() -> None:
    results = json.loads((FOLDER / "evals" / "results.json").read_text(encoding="utf-8"))
    card = (FOLDER / "card.md").read_text(encoding="utf-8").replace("{{results}}", lm_card.tables(results))
    assert (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8") == card
    assert (FOLDER / "RELEASE_GATE.md").read_text(encoding="utf-8") == lm_card.gate(results)
    assert lm_card.outdated(results, FOLDER) == []
    results["sets"]["flow"]["ranker"] = "0" * 64
    assert lm_card.outdated(results, FOLDER) == ["instruct flow"]
    met, bars = re.search(r"(\d+) of (\d+) bars met", lm_card.gate(results)).groups()
    words = "none one two three four five six seven eight nine ten eleven twelve thirteen".split()
    said = f"{words[int(met)].capitalize()} of {words[int(bars)]} are."
    assert said in (FOLDER.parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["questions", "questions_wide"])
@pytest.mark.parametrize("split", ["dev", "locked_test"])
def test_no_written_training_question_is_an_evaluation_question(split: str, name: str) -> None:
    written = {lm_eval.normalised(text) for texts in written_questions(name).values() for text in texts}
    assert len(written) > 10_000
    assert not written & {lm_eval.normalised(question.question) for question in load_questions(split)}


def test_locked_rows_are_well_formed() -> None:
    rows = lm_eval.load_items("locked")
    assert len(rows) == 600 and len({row["id"] for row in rows}) == 600
    for row in rows:
        assert lm_eval.judge(row, row["reply"])["exact"]
        if row["reply"] != lm_eval.ABSTAIN:
            number, _, quote = row["reply"].partition(" ")
            assert quote in row["sources"][int(number[1:-1]) - 1]


def test_committed_task_rows_are_well_formed() -> None:
    rows = lm_eval.load_items("tasks")
    assert len(rows) == 300 and len({row["id"] for row in rows}) == 300
    assert {row["task"] for row in rows} == set(TASKS)
    for row in rows:
        if row["task"] in ("extract", "classify"):
            assert json.loads(row["reply"]) == row["meta"]["gold"]


def test_unseen_words_stand_in_no_training_text() -> None:
    unseen = lm_eval.unseen_words()
    asked = [row for row in lm_eval.load_items("locked") if lm_eval._words(row) & unseen]
    assert len(asked) > 100
    for name in ("questions", "questions_wide"):
        for texts in written_questions(name).values():
            assert not unseen & set(" ".join(texts).lower().split())


def test_base_and_instruct_load_with_one_tokenizer() -> None:
    configs = [json.loads((FOLDER / name / "config.json").read_text()) for name in ("base", "instruct")]
    assert configs[0]["hidden_size"] == configs[1]["hidden_size"]
    assert (FOLDER / "base" / "tokenizer.json").read_bytes() == (FOLDER / "instruct" / "tokenizer.json").read_bytes()
